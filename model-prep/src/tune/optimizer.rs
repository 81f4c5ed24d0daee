//! AdamW with warm-up, cosine decay and gradient clipping.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::error::TuneError;
use super::parameters::{Gradients, Parameters};

/// Largest logit scale, ln 100, as in CLIP's training: larger ones make training unstable.
pub(super) const LOGIT_SCALE_MAX: f32 = 4.605_170_2;

/// Values that one thread updates at a time.
const CHUNK: usize = 16 << 10;

/// Settings of AdamW. Betas and epsilon are those of CLIP's training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct AdamW {
    /// Largest learning rate.
    pub(super) rate: f64,
    /// Decay of weights of two axes or more; biases, norms and the logit scale do not decay.
    pub(super) weight_decay: f64,
    /// Largest L2 norm of all gradients together; longer ones are shortened.
    pub(super) norm_max: f64,
}

/// Decay of the means of gradients and of their squares.
const BETAS: [f64; 2] = [0.9, 0.98];

/// Added to the root of the mean square.
const EPSILON: f64 = 1e-6;

/// The learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Schedule {
    /// Steps in which the rate grows linearly.
    pub(super) warmup: u64,
    /// Number of all steps; the rate falls to 0 as a cosine does until then. Until it is known, the rate stays.
    pub(super) steps: Option<u64>,
}

impl Schedule {
    /// The share of the largest rate in step `step`, from 0.
    pub(super) fn share(&self, step: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let Some(steps) = self.steps else { return 1.0 };
        let rest = steps.saturating_sub(self.warmup).max(1);
        let done = (step - self.warmup).min(rest) as f64 / rest as f64;
        0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// The means that AdamW keeps of a parameter's gradients and of their squares.
pub(super) type Moments = [Vec<f32>; 2];

/// The state of AdamW.
#[derive(Debug, Default)]
pub(super) struct Optimizer {
    /// By parameter.
    pub(super) moments: BTreeMap<String, Moments>,
    /// Number of updates done.
    pub(super) updates: u64,
}

/// The L2 norm of all gradients together.
pub(super) fn norm(gradients: &Gradients) -> f64 {
    let square = |values: &[f32]| values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>();
    let sum = |values: &Vec<f32>| {
        let parts: Vec<f64> = values.par_chunks(CHUNK).map(square).collect();
        parts.iter().sum::<f64>()
    };
    gradients.values().map(sum).sum::<f64>().sqrt()
}

impl Optimizer {
    /// Updates all parameters that have a gradient with the learning rate `share * settings.rate`, and clamps the logit
    /// scale. `norm` is that of all gradients together.
    pub(super) fn update(
        &mut self,
        parameters: &Parameters<'_>,
        gradients: &Gradients,
        settings: &AdamW,
        [share, norm]: [f64; 2],
    ) -> std::result::Result<(), TuneError> {
        self.updates += 1;
        let rate = settings.rate * share;
        let [first, second] = BETAS.map(|beta| 1.0 - beta.powf(self.updates as f64));
        // As torch.nn.utils.clip_grad_norm_.
        let clip = (settings.norm_max / (norm + 1e-6)).min(1.0);
        for (name, var) in parameters.trained() {
            let Some(gradient) = gradients.get(name) else { continue };
            let moments = self.moments.entry(name.clone()).or_insert_with(|| [0, 1].map(|_| vec![0.0; gradient.len()]));
            let decay = if var.rank() >= 2 { settings.weight_decay } else { 0.0 };
            let update = Update {
                gradient,
                moments: RefCell::new(moments),
                clip: clip as f32,
                kept: (1.0 - rate * decay) as f32,
                step: (rate / first) as f32,
                root: second.sqrt() as f32,
                max: if name == "logit_scale" { LOGIT_SCALE_MAX } else { f32::INFINITY },
            };
            var.inplace_op1(&update)?;
        }
        Ok(())
    }
}

/// The update of one parameter.
struct Update<'a> {
    gradient: &'a [f32],
    moments: RefCell<&'a mut Moments>,
    /// Factor of the gradient.
    clip: f32,
    /// Factor of the weights: what decay leaves of them.
    kept: f32,
    /// The learning rate, corrected for the first steps.
    step: f32,
    /// The root of the correction of the mean square.
    root: f32,
    /// Upper limit of the value.
    max: f32,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "AdamW"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some((start, end)), CpuStorage::F32(values)) = (layout.contiguous_offsets(), storage) else {
            bail!("AdamW: a parameter is not contiguous 32-bit floats");
        };
        let weights = &mut values[start..end];
        let mut moments = self.moments.borrow_mut();
        let [means, squares] = &mut **moments;
        if weights.len() != self.gradient.len() || means.len() != weights.len() || squares.len() != weights.len() {
            bail!("AdamW: {} weights, {} gradients, {} moments", weights.len(), self.gradient.len(), means.len());
        }
        let [beta_1, beta_2] = BETAS.map(|beta| beta as f32);
        let [rest_1, rest_2] = BETAS.map(|beta| (1.0 - beta) as f32);
        let Self { clip, kept, step, root, max, .. } = *self;
        let parts = weights.par_chunks_mut(CHUNK).zip(self.gradient.par_chunks(CHUNK));
        let parts = parts.zip(means.par_chunks_mut(CHUNK)).zip(squares.par_chunks_mut(CHUNK));
        parts.for_each(|(((weights, gradient), means), squares)| {
            for (((weight, gradient), mean), square) in weights.iter_mut().zip(gradient).zip(means).zip(squares) {
                let gradient = gradient * clip;
                *mean = beta_1 * *mean + rest_1 * gradient;
                *square = beta_2 * *square + rest_2 * gradient * gradient;
                let scale = square.sqrt() / root + EPSILON as f32;
                *weight = (*weight * kept - step * *mean / scale).min(max);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_grows_then_falls_as_a_cosine() {
        let check = |warmup: u64, steps: u64, step: u64, expected: f64| {
            let found = Schedule { warmup, steps: Some(steps) }.share(step);
            assert!((found - expected).abs() < 1e-12, "{warmup} of {steps}, step {step}: {found}");
        };
        check(4, 12, 0, 0.25);
        check(4, 12, 3, 1.0);
        check(4, 12, 4, 1.0);
        check(4, 12, 8, 0.5);
        check(4, 12, 12, 0.0);
        check(4, 12, 99, 0.0);
        check(0, 1, 0, 1.0);
        check(9, 5, 4, 5.0 / 9.0);
        let open = Schedule { warmup: 2, steps: None };
        assert_eq!([0, 1, 2, 1000].map(|step| open.share(step)), [0.5, 1.0, 1.0, 1.0]);
    }
}
