//! Linear layers.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::activation::{activated, gradient};
use super::slices::{ROWS, floats, slice, tensor};
use crate::checkpoint::Activation;

/// `x W^T + b`: `x` [.., from], `weight` [to, from], `bias` [to].
pub(in crate::tune) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear),
        None => x.contiguous()?.apply_op2(&weight.contiguous()?, Linear),
    }
}

/// `f(x) W^T + b` for an activation function `f`, whose values are computed again in the backward pass and not kept.
pub(in crate::tune) fn activated_linear(
    x: &Tensor,
    function: Activation,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, ActivatedLinear(function))
}

struct Linear;

impl Linear {
    fn product(s: [&CpuStorage; 2], l: [&Layout; 2]) -> Result<(CpuStorage, Shape)> {
        let (to, from) = l[1].shape().dims2()?;
        let rows = l[0].shape().elem_count() / from.max(1);
        let mut shape = l[0].dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == from => *last = to,
            _ => bail!("linear: an input {:?} for a weight [{to}, {from}]", l[0].dims()),
        }
        let flat = Layout::contiguous_with_offset((rows, from), l[0].start_offset());
        let turned = l[1].transpose(0, 1)?;
        Ok((s[0].matmul(s[1], (1, rows, to, from), &flat, &turned)?, shape.into()))
    }

    /// Gradients of the input and the weight, of each only if it is wanted.
    fn gradients(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to, from) = weight.dims2()?;
        let grad = grad.contiguous()?.reshape(((), to))?;
        let of_x = match x.track_op() {
            true => Some(grad.matmul(&weight.detach())?.reshape(x.shape())?),
            false => None,
        };
        let of_weight = match weight.track_op() {
            true => Some(grad.t()?.matmul(&x.detach().reshape(((), from))?)?),
            false => None,
        };
        Ok((of_x, of_weight))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear without bias"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::product([s1, s2], [l1, l2])
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Self::gradients(x, weight, grad)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (product, shape) = Self::product([s1, s2], [l1, l2])?;
        Ok((with_bias(product, slice(s3, l3)?)?, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (of_x, of_weight) = Self::gradients(x, weight, grad)?;
        let of_bias = match bias.track_op() {
            true => Some(column_sums(grad, bias.elem_count())?),
            false => None,
        };
        Ok((of_x, of_weight, of_bias))
    }
}

struct ActivatedLinear(Activation);

impl CustomOp3 for ActivatedLinear {
    fn name(&self) -> &'static str {
        "activation and linear"
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
        let values = CpuStorage::F32(activated(slice(s1, l1)?, self.0));
        let (product, shape) = Linear::product([&values, s2], [&Layout::contiguous(l1.shape().clone()), l2])?;
        Ok((with_bias(product, slice(s3, l3)?)?, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to, from) = weight.dims2()?;
        let grad = grad.contiguous()?.reshape(((), to))?;
        let of_weight = match weight.track_op() {
            true => {
                let values = tensor(floats(x, |x| Ok(activated(x, self.0)))?, x.dims())?;
                Some(grad.t()?.matmul(&values.reshape(((), from))?)?)
            }
            false => None,
        };
        let of_x = match x.track_op() {
            true => {
                let of_values = grad.matmul(&weight.detach())?;
                let of_x = floats(x, |x| floats(&of_values, |grad| Ok(gradient(x, grad, self.0))))?;
                Some(tensor(of_x, x.dims())?)
            }
            false => None,
        };
        let of_bias = match bias.track_op() {
            true => Some(column_sums(&grad, to)?),
            false => None,
        };
        Ok((of_x, of_weight, of_bias))
    }
}

/// Adds `bias` to every row of a product.
fn with_bias(product: CpuStorage, bias: &[f32]) -> Result<CpuStorage> {
    let CpuStorage::F32(mut values) = product else { bail!("linear: expected 32-bit floats") };
    values.par_chunks_mut(ROWS * bias.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    });
    Ok(CpuStorage::F32(values))
}

/// Sums of the columns of `values`, read as rows of `width` values.
pub(super) fn column_sums(values: &Tensor, width: usize) -> Result<Tensor> {
    let sums = floats(values, |values| {
        let parts: Vec<Vec<f32>> = values
            .par_chunks(ROWS * width)
            .map(|rows| {
                let mut sums = vec![0.0; width];
                for row in rows.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                sums
            })
            .collect();
        Ok(sum_of(parts, width))
    })?;
    tensor(sums, &[width])
}

/// The sum of vectors of `width` values, in their order.
pub(super) fn sum_of(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    parts.into_iter().fold(vec![0.0; width], |mut sums, part| {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        sums
    })
}
