//! Layer norm.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::dropout::Dropout;
use super::linear::sum_of;
use super::slices::{ROWS, floats, slice, tensor};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis of `x` [.., width].
pub(in crate::tune) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps })
}

/// Layer norm of `x + drop(y)`, which is computed again in the backward pass and not kept.
pub(in crate::tune) fn sum_norm(
    y: &Tensor,
    dropped: Option<Dropout>,
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    eps: f32,
) -> Result<Tensor> {
    let both = Tensor::cat(&[weight, bias], 0)?;
    y.contiguous()?.apply_op3(&x.contiguous()?, &both, SumNorm { norm: LayerNorm { eps }, dropped })
}

struct LayerNorm {
    eps: f32,
}

impl LayerNorm {
    /// Mean, and reciprocal of the standard deviation.
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let count = row.len() as f32;
        let mean = sum(row, |value| value) / count;
        let variance = sum(row, |value| (value - mean) * (value - mean)) / count;
        (mean, (variance + self.eps).sqrt().recip())
    }
}

/// Sums in independent accumulators, which is fast and exact enough.
fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += of(*value));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

struct SumNorm {
    norm: LayerNorm,
    dropped: Option<Dropout>,
}

impl SumNorm {
    /// `x + drop(y)` for the samples of `y`.
    fn sum(&self, y: &[f32], x: &[f32], samples: usize) -> Vec<f32> {
        let mut sum = self.dropped.map_or_else(|| y.to_vec(), |dropped| dropped.applied(y, samples));
        let size = ROWS * 256;
        sum.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(sum, x)| {
            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        });
        sum
    }
}

impl CustomOp3 for SumNorm {
    fn name(&self) -> &'static str {
        "layer norm of a sum"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sum = self.sum(slice(s1, l1)?, slice(s2, l2)?, l1.dims()[0]);
        let both = slice(s3, l3)?;
        let (weight, bias) = both.split_at(both.len() / 2);
        Ok((CpuStorage::F32(self.norm.forward(&sum, weight, bias)), l1.shape().clone()))
    }

    fn bwd(
        &self,
        y: &Tensor,
        x: &Tensor,
        both: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let samples = y.dim(0)?;
        let sum = floats(y, |y| floats(x, |x| Ok(self.sum(y, x, samples))))?;
        let (of_sum, of_both) =
            floats(both, |both| floats(grad, |grad| Ok(self.norm.gradients(&sum, &both[..both.len() / 2], grad))))?;
        let of_y = match (y.track_op(), self.dropped) {
            (true, Some(dropped)) => Some(tensor(dropped.applied(&of_sum, samples), y.dims())?),
            (true, None) => Some(tensor(of_sum.clone(), y.dims())?),
            (false, _) => None,
        };
        let of_x = x.track_op().then(|| tensor(of_sum, x.dims())).transpose()?;
        let of_both = both.track_op().then(|| tensor(of_both, both.dims())).transpose()?;
        Ok((of_y, of_x, of_both))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let (of_x, mut of_weight) =
            floats(x, |x| floats(weight, |weight| floats(grad, |grad| Ok(self.gradients(x, weight, grad)))))?;
        let of_bias = of_weight.split_off(width);
        let wanted = |argument: &Tensor, values: Vec<f32>| {
            argument.track_op().then(|| tensor(values, argument.dims())).transpose()
        };
        Ok((wanted(x, of_x)?, wanted(weight, of_weight)?, wanted(bias, of_bias)?))
    }
}

impl LayerNorm {
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let width = weight.len();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| {
            for (out, row) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, factor) = self.moments(row);
                for (((out, value), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
                    *out = (value - mean) * factor * weight + bias;
                }
            }
        });
        out
    }

    /// The gradient of `x`, and those of weight and bias, one after the other.
    fn gradients(&self, x: &[f32], weight: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let width = weight.len();
        let mut of_x = vec![0.0; x.len()];
        let size = ROWS * width;
        let parts = of_x.par_chunks_mut(size).zip(x.par_chunks(size)).zip(grad.par_chunks(size));
        let parts: Vec<Vec<f32>> = parts.map(|((of_x, x), grad)| self.backward(of_x, x, grad, weight)).collect();
        (of_x, sum_of(parts, 2 * width))
    }

    /// Fills the gradient of some rows, and returns their part of the gradients of weight and bias.
    fn backward(&self, of_x: &mut [f32], x: &[f32], grad: &[f32], weight: &[f32]) -> Vec<f32> {
        let width = weight.len();
        let mut sums = vec![0.0; 2 * width];
        let (of_weight, of_bias) = sums.split_at_mut(width);
        let rows = of_x.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width));
        for ((of_x, row), grad) in rows {
            let (mean, factor) = self.moments(row);
            // With y = (x - mean) * factor and g = grad * weight: the gradient is factor * (g - mean(g) - y mean(g y)).
            let (mut sum, mut sum_y) = (0.0, 0.0);
            for index in 0..width {
                let y = (row[index] - mean) * factor;
                of_weight[index] += grad[index] * y;
                of_bias[index] += grad[index];
                let g = grad[index] * weight[index];
                of_x[index] = g;
                sum += g;
                sum_y += g * y;
            }
            let (mean_g, mean_gy) = (sum / width as f32, sum_y / width as f32);
            for (of_x, value) in of_x.iter_mut().zip(row) {
                *of_x = factor * (*of_x - mean_g - (value - mean) * factor * mean_gy);
            }
        }
        sums
    }
}
