//! Dropout of values, and of whole blocks (stochastic depth).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::slices::{floats, slice, tensor};
use crate::tune::random::{key, mix};

/// Which values are dropped. The numbers are functions of the sample's number in the step, so a batch may be computed in
/// parts, and again.
#[derive(Debug, Clone, Copy)]
pub(in crate::tune) struct Dropout {
    /// Share of the values that become 0; the others are divided by the rest.
    pub(in crate::tune) share: f32,
    /// Key of the place where values are dropped: run, step, tower and layer.
    pub(in crate::tune) site: u64,
    /// Number of the first sample in the step.
    pub(in crate::tune) first: usize,
    /// Whether all values of a sample are dropped together.
    pub(in crate::tune) whole_samples: bool,
}

impl Dropout {
    /// The key of a sample.
    pub(super) fn sample(&self, index: usize) -> u64 {
        key(&[self.site, (self.first + index) as u64])
    }

    /// The factor of a sample's value.
    #[inline(always)]
    pub(super) fn factor(&self, sample: u64, index: usize) -> f32 {
        let number = mix(sample ^ (index as u64).wrapping_mul(0x2545_f491_4f6c_dd1d)) >> 40;
        // 24 bits, so that the quotient is exact.
        let kept = number as f32 / (1 << 24) as f32 >= self.share;
        if kept { 1.0 / (1.0 - self.share) } else { 0.0 }
    }

    pub(super) fn applied(&self, x: &[f32], samples: usize) -> Vec<f32> {
        let mut out = x.to_vec();
        let width = x.len() / samples.max(1);
        out.par_chunks_mut(width.max(1)).enumerate().for_each(|(index, out)| {
            let sample = self.sample(index);
            if self.whole_samples {
                let factor = self.factor(sample, 0);
                out.iter_mut().for_each(|value| *value *= factor);
            } else {
                out.iter_mut().enumerate().for_each(|(index, value)| *value *= self.factor(sample, index));
            }
        });
        out
    }
}

/// Drops values of `x` [batch, ..].
pub(in crate::tune) fn dropout(x: &Tensor, dropped: Dropout) -> Result<Tensor> {
    x.contiguous()?.apply_op1(dropped)
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.applied(slice(storage, layout)?, layout.dims()[0]);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let out = floats(grad, |grad| Ok(self.applied(grad, x.dim(0)?)))?;
        Ok(Some(tensor(out, x.dims())?))
    }
}
