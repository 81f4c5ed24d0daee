//! Factors of channels (layer scale).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::linear::sum_of;
use super::slices::{ROWS, floats, slice, tensor};

/// Multiplies each channel, the last axis of `x` [.., width], by its factor [width].
pub(in crate::tune) fn scale(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&factors.contiguous()?, Scale)
}

struct Scale;

impl CustomOp2 for Scale {
    fn name(&self) -> &'static str {
        "layer scale"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(scaled(slice(s1, l1)?, slice(s2, l2)?)), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, factors: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = factors.elem_count();
        let of_x = match x.track_op() {
            true => Some(tensor(floats(grad, |g| floats(factors, |f| Ok(scaled(g, f))))?, x.dims())?),
            false => None,
        };
        let of_factors = match factors.track_op() {
            true => Some(tensor(floats(x, |x| floats(grad, |grad| Ok(sums(x, grad, width))))?, factors.dims())?),
            false => None,
        };
        Ok((of_x, of_factors))
    }
}

fn scaled(x: &[f32], factors: &[f32]) -> Vec<f32> {
    let mut out = x.to_vec();
    out.par_chunks_mut(ROWS * factors.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
    });
    out
}

/// Sums of the columns of the products of `x` and `grad`.
fn sums(x: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    let parts = x.par_chunks(ROWS * width).zip(grad.par_chunks(ROWS * width));
    let parts: Vec<Vec<f32>> = parts
        .map(|(x, grad)| {
            let mut sums = vec![0.0; width];
            for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
                sums.iter_mut().zip(x.iter().zip(grad)).for_each(|(sum, (x, grad))| *sum += x * grad);
            }
            sums
        })
        .collect();
    sum_of(parts, width)
}
