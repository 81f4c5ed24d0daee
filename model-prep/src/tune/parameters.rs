//! The weights that are trained, and those that are not.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::error::TuneError;
use super::ops::{floats, tensor};
use crate::checkpoint::Tensors;

/// The weights of a dual encoder in memory, by their names in transformers 4.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    tensors: &'a Tensors,
    trained: BTreeMap<String, Var>,
    frozen: BTreeMap<String, Tensor>,
}

/// Gradients by parameter, in row-major order.
pub(super) type Gradients = BTreeMap<String, Vec<f32>>;

impl<'a> Parameters<'a> {
    /// Reads all float tensors for which `is_trained` is true, and of the others those for which `is_needed` is.
    pub(super) fn read(
        tensors: &'a Tensors,
        is_trained: impl Fn(&str) -> bool,
        is_needed: impl Fn(&str) -> bool,
    ) -> Result<Self, TuneError> {
        let (mut trained, mut frozen) = (BTreeMap::new(), BTreeMap::new());
        for (name, stored) in tensors.stored().filter(|(_, stored)| stored.is_float()) {
            let (is_trained, is_needed) = (is_trained(name), is_needed(name));
            if !is_trained && !is_needed {
                continue;
            }
            let value = tensor(tensors.read(name, &stored.shape)?, &stored.shape)?;
            if is_trained {
                trained.insert(name.clone(), Var::from_tensor(&value)?);
            } else {
                frozen.insert(name.clone(), value);
            }
        }
        Ok(Self { tensors, trained, frozen })
    }

    /// The weights for a forward pass. Gradients can be computed only if it is `tracked`, which keeps all intermediate
    /// values.
    pub(super) fn weights(&self, tracked: bool) -> Weights<'_> {
        Weights { parameters: self, tracked }
    }

    /// The trained parameters, in the order of their names.
    pub(super) fn trained(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.trained.iter()
    }

    /// The trained parameter called `name`.
    pub(super) fn var(&self, name: &str) -> Option<&Var> {
        self.trained.get(name)
    }

    /// Reads a parameter of one value, such as the logit scale.
    pub(super) fn scalar(&self, name: &str) -> Result<f32, TuneError> {
        let value = match (self.trained.get(name), self.frozen.get(name)) {
            (Some(var), _) => var.as_tensor(),
            (None, Some(tensor)) => tensor,
            (None, None) => return Ok(self.tensors.read(name, &[])?[0]),
        };
        Ok(floats(value, |values| Ok(values.first().copied().unwrap_or_default()))?)
    }

    /// Adds the gradients of one backward pass to `sums`.
    pub(super) fn add_gradients(&self, from: &GradStore, sums: &mut Gradients) -> Result<(), TuneError> {
        for (name, var) in &self.trained {
            let Some(gradient) = from.get(var) else { continue };
            floats(gradient, |values| {
                match sums.get_mut(name) {
                    Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                    None => drop(sums.insert(name.clone(), values.to_vec())),
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The weights for one forward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    parameters: &'a Parameters<'a>,
    tracked: bool,
}

impl Weights<'_> {
    /// The weight called `name`, which must have this shape.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, TuneError> {
        let parameters = self.parameters;
        if let Some(var) = parameters.trained.get(name).filter(|var| var.dims() == shape) {
            return Ok(if self.tracked { var.as_tensor().clone() } else { var.as_detached_tensor() });
        }
        if let Some(tensor) = parameters.frozen.get(name).filter(|tensor| tensor.dims() == shape) {
            return Ok(tensor.clone());
        }
        // Reading it again names what is wrong.
        Ok(tensor(parameters.tensors.read(name, shape)?, shape)?)
    }

    /// Whether the checkpoint has a tensor called `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parameters.tensors.shape(name).is_some()
    }
}
