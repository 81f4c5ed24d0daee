//! One forward pass: weights, dropout, and the blocks that towers share.

use std::cell::Cell;

use candle_core::{D, Tensor};

use super::error::TuneError;
use super::ops::{self, Dropout};
use super::parameters::Weights;
use super::random::key;
use crate::checkpoint::{Activation, EncoderConfig};

/// Identifies the random numbers of a pass in training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    /// Key of the run, the step and the tower.
    pub(super) key: u64,
    /// Number of the pass's first sample in the step.
    pub(super) first: usize,
}

/// One forward pass over some samples.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    weights: Weights<'a>,
    noise: Option<Noise>,
    /// Number of the next place that drops values.
    site: Cell<u64>,
}

impl<'a> Pass<'a> {
    /// A pass in training if there is `noise`, else without dropout.
    pub(super) fn new(weights: Weights<'a>, noise: Option<Noise>) -> Self {
        Self { weights, noise, site: Cell::new(0) }
    }

    /// The weight called `name`, which must have this shape.
    pub(super) fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, TuneError> {
        self.weights.get(name, shape)
    }

    /// Whether the checkpoint has a tensor called `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.weights.has(name)
    }

    /// The linear layer `name` from `from` to `to` channels.
    pub(super) fn linear(
        &self,
        name: &str,
        x: &Tensor,
        [from, to]: [usize; 2],
        bias: bool,
    ) -> Result<Tensor, TuneError> {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let bias = if bias { Some(self.weight(&format!("{name}.bias"), &[to])?) } else { None };
        Ok(ops::linear(x, &weight, bias.as_ref())?)
    }

    /// Several linear layers on the same input, as one: their outputs one after the other in the last axis.
    pub(super) fn linears(
        &self,
        names: [&str; 3],
        x: &Tensor,
        width: usize,
        biases: [bool; 3],
    ) -> Result<Tensor, TuneError> {
        let weights = names.map(|name| self.weight(&format!("{name}.weight"), &[width, width]));
        let weights = weights.into_iter().collect::<Result<Vec<_>, _>>()?;
        let weight = Tensor::cat(&weights, 0)?;
        if biases == [false; 3] {
            return Ok(ops::linear(x, &weight, None)?);
        }
        let biases = names.iter().zip(biases).map(|(name, bias)| match bias {
            true => self.weight(&format!("{name}.bias"), &[width]),
            false => Ok(ops::tensor(vec![0.0; width], &[width])?),
        });
        let biases = biases.collect::<Result<Vec<_>, _>>()?;
        Ok(ops::linear(x, &weight, Some(&Tensor::cat(&biases, 0)?))?)
    }

    /// The layer norm `name`.
    pub(super) fn layer_norm(&self, name: &str, x: &Tensor, encoder: &EncoderConfig) -> Result<Tensor, TuneError> {
        let width = encoder.hidden_size;
        let weight = self.weight(&format!("{name}.weight"), &[width])?;
        let bias = self.weight(&format!("{name}.bias"), &[width])?;
        Ok(ops::layer_norm(x, &weight, &bias, encoder.layer_norm_eps)?)
    }

    /// The layer norm `name` of `x` plus the block output `y`, of which values are dropped.
    pub(super) fn sum_norm(
        &self,
        name: &str,
        x: &Tensor,
        y: &Tensor,
        encoder: &EncoderConfig,
    ) -> Result<Tensor, TuneError> {
        let width = encoder.hidden_size;
        let weight = self.weight(&format!("{name}.weight"), &[width])?;
        let bias = self.weight(&format!("{name}.bias"), &[width])?;
        let dropped = self.dropped(encoder.dropout.hidden, false);
        Ok(ops::sum_norm(y, dropped, x, [&weight, &bias], encoder.layer_norm_eps)?)
    }

    /// A feed-forward block: up, activation, down.
    pub(super) fn feed_forward(
        &self,
        [up, down]: [&str; 2],
        x: &Tensor,
        encoder: &EncoderConfig,
    ) -> Result<Tensor, TuneError> {
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        let x = self.linear(up, x, [hidden, inner], true)?;
        let weight = self.weight(&format!("{down}.weight"), &[hidden, inner])?;
        let bias = self.weight(&format!("{down}.bias"), &[hidden])?;
        Ok(ops::activated_linear(&x, encoder.activation, &weight, &bias)?)
    }

    /// A dense layer and an activation on the only token of `x` [batch, 1, hidden]: [batch, hidden].
    pub(super) fn dense_pooler(
        &self,
        name: &str,
        x: &Tensor,
        hidden: usize,
        function: Activation,
    ) -> Result<Tensor, TuneError> {
        let x = self.linear(&format!("{name}.dense"), &x.squeeze(1)?, [hidden, hidden], true)?;
        Ok(ops::activation(&x, function)?)
    }

    /// The dropout of a place, if values are dropped there. Places are counted in the order of the calls.
    pub(super) fn dropped(&self, share: f32, whole_samples: bool) -> Option<Dropout> {
        let noise = self.noise.filter(|_| share > 0.0)?;
        let site = self.site.replace(self.site.get() + 1);
        Some(Dropout { share, site: key(&[noise.key, site]), first: noise.first, whole_samples })
    }

    /// Drops a share of the values of `x`.
    pub(super) fn dropout(&self, x: Tensor, share: f32) -> Result<Tensor, TuneError> {
        Ok(match self.dropped(share, false) {
            Some(dropped) => ops::dropout(&x, dropped)?,
            None => x,
        })
    }

    /// Drops all values of a share of the samples (stochastic depth).
    pub(super) fn drop_path(&self, x: Tensor, share: f32) -> Result<Tensor, TuneError> {
        Ok(match self.dropped(share, true) {
            Some(dropped) => ops::dropout(&x, dropped)?,
            None => x,
        })
    }
}

/// The first token of `x` [batch, n, hidden], as [batch, 1, hidden].
pub(super) fn first_token(x: &Tensor) -> Result<Tensor, TuneError> {
    Ok(x.narrow(1, 0, 1)?.contiguous()?)
}

/// Divides each row of `x` [batch, width] by its L2 norm.
pub(super) fn normalized(x: &Tensor) -> Result<Tensor, TuneError> {
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    Ok(x.broadcast_div(&norm)?)
}
