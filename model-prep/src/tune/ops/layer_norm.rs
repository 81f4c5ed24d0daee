//! Layer norm.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::linear::sum_of;
use super::slices::{ROWS, floats, slice, tensor};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis of `x` [.., width].
pub(in crate::tune) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps })
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
        let (x, weight, bias) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
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
        let mut of_x = vec![0.0; x.elem_count()];
        let parts: Vec<[Vec<f32>; 2]> = floats(x, |x| {
            floats(weight, |weight| {
                floats(grad, |grad| {
                    let size = ROWS * width;
                    let parts = of_x.par_chunks_mut(size).zip(x.par_chunks(size)).zip(grad.par_chunks(size));
                    Ok(parts.map(|((of_x, x), grad)| self.backward(of_x, x, grad, weight)).collect())
                })
            })
        })?;
        let [of_weight, of_bias] =
            [0, 1].map(|which| sum_of(parts.iter().map(|part| part[which].clone()).collect(), width));
        let wanted = |argument: &Tensor, values: Vec<f32>| {
            argument.track_op().then(|| tensor(values, argument.dims())).transpose()
        };
        Ok((wanted(x, of_x)?, wanted(weight, of_weight)?, wanted(bias, of_bias)?))
    }
}

impl LayerNorm {
    /// Fills the gradient of some rows, and returns their part of the gradients of weight and bias.
    fn backward(&self, of_x: &mut [f32], x: &[f32], grad: &[f32], weight: &[f32]) -> [Vec<f32>; 2] {
        let width = weight.len();
        let (mut of_weight, mut of_bias) = (vec![0.0; width], vec![0.0; width]);
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
        [of_weight, of_bias]
    }
}
