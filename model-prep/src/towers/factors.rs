//! Factors that move scale from activations into weights: what is divided by them, and who reads it.
//!
//! Every value that only linear layers read, or that can be had twice, is a site. Without factors for a site, its graph
//! is the same as if there were no site.

use super::End;
use super::builder::Builder;
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Value};
use crate::plan::Site;

impl<'a> Builder<'a> {
    /// The factors of a site, if it has any.
    fn factors(&self, site: &str) -> Option<&'a [f32]> {
        self.target.plan.factors.get(site).map(Vec::as_slice)
    }

    /// Marks `value` as divided by the factors of `site`. Nothing but linear layers may read it.
    pub(super) fn divided_by(&mut self, site: &str, value: &Value) {
        self.divided.push((value.clone(), site.to_owned()));
    }

    /// Marks `copy`, which has the channels of `value` in the same order, like `value`, and returns it.
    pub(super) fn same_channels(&mut self, value: &Value, copy: Value) -> Value {
        if let Some(site) = self.site_of(value) {
            self.divided_by(&site, &copy);
        }
        copy
    }

    fn site_of(&self, value: &Value) -> Option<String> {
        self.divided.iter().rev().find(|(known, _)| known == value).map(|(_, site)| site.clone())
    }

    /// The factors by which `value` is divided, if it is.
    pub(super) fn factors_of(&self, value: &Value) -> Option<&'a [f32]> {
        self.factors(&self.site_of(value)?)
    }

    /// Weight [to, from] and bias of the linear layer `name` with the factors of what it reads and, if it is a site
    /// itself, of what it writes. Records it as a reader.
    pub(super) fn with_factors(
        &mut self,
        name: &str,
        x: &Value,
        weight: &[f32],
        bias: Option<&[f32]>,
        from: usize,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let (mut weight, mut bias) = (weight.to_vec(), bias.map(<[f32]>::to_vec));
        if let Some(site) = self.site_of(x) {
            if let Some(factors) = self.factors(&site) {
                for row in weight.chunks_exact_mut(from) {
                    row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor);
                }
            }
            match self.sites.iter_mut().find(|known| known.name == site) {
                Some(known) => known.layers.push(name.to_owned()),
                None => {
                    let own_node = self.own_nodes.contains(&site);
                    self.sites.push(Site { name: site, layers: vec![name.to_owned()], own_node });
                }
            }
        }
        if let Some(factors) = self.factors(name) {
            let rows = weight.chunks_exact_mut(from).zip(factors);
            rows.for_each(|(row, factor)| row.iter_mut().for_each(|w| *w /= factor));
            bias.iter_mut().flatten().zip(factors).for_each(|(b, factor)| *b /= factor);
        }
        (weight, bias)
    }

    /// The layer norm `name` of `x`, which only linear layers read.
    pub(super) fn layer_norm_for_linears(
        &mut self,
        name: &str,
        x: &Value,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        self.layer_norm_for_linears_of(name, x, (encoder.hidden_size, encoder.layer_norm_eps))
    }

    /// As [`Self::layer_norm_for_linears`], over `width` channels.
    pub(super) fn layer_norm_for_linears_of(
        &mut self,
        name: &str,
        x: &Value,
        (width, epsilon): (usize, f32),
    ) -> Result<Value, CheckpointError> {
        let factors = self.factors(name);
        let normed = self.layer_norm_divided(name, name, x, (width, epsilon), factors)?;
        self.divided_by(name, &normed);
        Ok(normed)
    }

    /// The layer norm after the last layer. If the graph ends in a projection, only that reads its result.
    pub(super) fn final_layer_norm(
        &mut self,
        name: &str,
        x: &Value,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        if self.ends_in_projection() {
            self.layer_norm_for_linears(name, x, encoder)
        } else {
            self.layer_norm(name, x, encoder)
        }
    }

    /// What linear layers read of `normed`, the layer norm `name` of `x`, which other nodes read as well. With factors it
    /// is a second layer norm of `x`.
    pub(super) fn copy_for_linears(
        &mut self,
        name: &str,
        x: &Value,
        normed: &Value,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let copy = match self.factors(name) {
            None => normed.clone(),
            factors => {
                let norm = (encoder.hidden_size, encoder.layer_norm_eps);
                self.layer_norm_divided(&format!("{name}.divided"), name, x, norm, factors)?
            }
        };
        self.own_nodes.push(name.to_owned());
        self.divided_by(name, &copy);
        Ok(copy)
    }

    /// The rows `x` for a linear layer that alone reads them, divided by a node of its own if there are factors.
    pub(super) fn divided_rows(&mut self, site: &str, x: &Value) -> Value {
        let divided = match self.factors(site) {
            None => x.clone(),
            Some(factors) => {
                let inverse: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
                let inverse = self.graph.floats(&format!("{site}.inverse_factors"), &[inverse.len()], &inverse);
                self.graph.node("Mul", &format!("{site}.divided"), &[x, &inverse], &[])
            }
        };
        self.own_nodes.push(site.to_owned());
        self.divided_by(site, &divided);
        divided
    }

    /// A layer norm node with the tensors `{tensors}.weight` and `{tensors}.bias`, divided by `factors`.
    pub(super) fn layer_norm_divided(
        &mut self,
        name: &str,
        tensors: &str,
        x: &Value,
        (width, epsilon): (usize, f32),
        factors: Option<&[f32]>,
    ) -> Result<Value, CheckpointError> {
        let [scale, bias] = ["weight", "bias"].map(|part| {
            let mut values = self.tensor(&format!("{tensors}.{part}"), &[width])?;
            values.iter_mut().zip(factors.unwrap_or_default()).for_each(|(value, factor)| *value /= factor);
            Ok::<_, CheckpointError>(self.graph.floats(&format!("{name}.{part}"), &[width], &values))
        });
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        Ok(self.graph.node("LayerNormalization", name, &[x, &scale?, &bias?], &attributes))
    }

    fn ends_in_projection(&self) -> bool {
        self.projects && self.end == End::Projection
    }
}
