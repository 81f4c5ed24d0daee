//! Self-attention of all heads. Probabilities are computed again in the backward pass, so that they are never kept.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, ShapeBuilder as _};
use rayon::prelude::*;

use super::dropout::Dropout;
use super::linear::sum_of;
use super::math::exp;
use super::slices::{floats, slice, tensor};

/// Parts that the samples are divided into when gradients of position biases are summed: a constant, so that sums do not
/// depend on the number of threads.
const PARTS: usize = 8;

/// Multi-head self-attention.
#[derive(Debug, Clone)]
pub(in crate::tune) struct Attention {
    /// Number of heads.
    pub(in crate::tune) heads: usize,
    /// Whether a token attends to itself and earlier tokens only.
    pub(in crate::tune) causal: bool,
    /// For each sample and token [batch, tokens], whether it is attended to; all are if `None`.
    pub(in crate::tune) mask: Option<Arc<Vec<bool>>>,
    /// Dropout of probabilities.
    pub(in crate::tune) dropped: Option<Dropout>,
}

/// Attention over queries, keys and values in one tensor [batch, tokens, 3 * width]: the merged heads
/// [batch, tokens, width]. `biases` [heads, tokens, tokens] are added to the scores.
pub(in crate::tune) fn attention(qkv: &Tensor, biases: Option<&Tensor>, attention: Attention) -> Result<Tensor> {
    match biases {
        Some(biases) => qkv.contiguous()?.apply_op2(&biases.contiguous()?, attention),
        None => qkv.contiguous()?.apply_op1(attention),
    }
}

/// Sizes of the operands.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    width: usize,
    heads: usize,
}

impl Sizes {
    fn of(shape: &Shape, heads: usize) -> Result<Self> {
        let (batch, tokens, all) = shape.dims3()?;
        let width = all / 3;
        if width * 3 != all || width % heads != 0 {
            bail!("attention: {all} channels for {heads} heads");
        }
        Ok(Self { batch, tokens, width, heads })
    }

    fn dim(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        (self.dim() as f32).sqrt().recip()
    }

    /// A head's queries (part 0), keys (1) or values (2) in a sample's rows [tokens, 3 * width].
    fn view<'a>(&self, sample: &'a [f32], part: usize, head: usize) -> ArrayView2<'a, f32> {
        let start = part * self.width + head * self.dim();
        rows(&sample[start..], self.tokens, self.dim(), 3 * self.width)
    }

    fn view_mut<'a>(&self, sample: &'a mut [f32], part: usize, head: usize) -> ArrayViewMut2<'a, f32> {
        let start = part * self.width + head * self.dim();
        rows_mut(&mut sample[start..], self.tokens, self.dim(), 3 * self.width)
    }

    /// A head's part of merged rows [tokens, width].
    fn merged<'a>(&self, sample: &'a [f32], head: usize) -> ArrayView2<'a, f32> {
        rows(&sample[head * self.dim()..], self.tokens, self.dim(), self.width)
    }
}

/// A matrix whose rows begin `stride` values apart.
fn rows(values: &[f32], count: usize, width: usize, stride: usize) -> ArrayView2<'_, f32> {
    let used = &values[..(count - 1) * stride + width];
    ArrayView2::from_shape((count, width).strides((stride, 1)), used).expect("rows within the values")
}

fn rows_mut(values: &mut [f32], count: usize, width: usize, stride: usize) -> ArrayViewMut2<'_, f32> {
    let used = &mut values[..(count - 1) * stride + width];
    ArrayViewMut2::from_shape((count, width).strides((stride, 1)), used).expect("rows within the values")
}

impl Attention {
    fn forward(&self, qkv: &[f32], biases: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
        let Sizes { batch, tokens, width, heads } = sizes;
        let mut out = vec![0.0; batch * tokens * width];
        let samples = out.par_chunks_mut(tokens * width).zip(qkv.par_chunks(tokens * 3 * width));
        samples.enumerate().for_each_init(
            || Array2::zeros((tokens, tokens)),
            |shares, (index, (out, sample))| {
                for head in 0..heads {
                    self.probabilities(shares, sample, biases, sizes, [index, head]);
                    self.drop(shares, sizes, [index, head]);
                    let mut merged = rows_mut(&mut out[head * sizes.dim()..], tokens, sizes.dim(), width);
                    general_mat_mul(1.0, shares, &sizes.view(sample, 2, head), 0.0, &mut merged);
                }
            },
        );
        out
    }

    /// The probabilities of one head of a sample [tokens, tokens], before dropout.
    fn probabilities(
        &self,
        shares: &mut Array2<f32>,
        sample: &[f32],
        biases: Option<&[f32]>,
        sizes: Sizes,
        [index, head]: [usize; 2],
    ) {
        let tokens = sizes.tokens;
        let (query, key) = (sizes.view(sample, 0, head), sizes.view(sample, 1, head));
        general_mat_mul(sizes.scale(), &query, &key.t(), 0.0, shares);
        let mask = self.mask.as_ref().map(|mask| &mask[index * tokens..(index + 1) * tokens]);
        let biases = biases.map(|biases| &biases[head * tokens * tokens..(head + 1) * tokens * tokens]);
        let Some(scores) = shares.as_slice_mut() else { return };
        for (query, row) in scores.chunks_exact_mut(tokens).enumerate() {
            if let Some(biases) = biases {
                row.iter_mut().zip(&biases[query * tokens..]).for_each(|(score, bias)| *score += bias);
            }
            let end = if self.causal { query + 1 } else { tokens };
            row[end..].fill(f32::NEG_INFINITY);
            if let Some(mask) = mask {
                row.iter_mut().zip(mask).filter(|(_, kept)| !**kept).for_each(|(score, _)| *score = f32::NEG_INFINITY);
            }
            softmax(row);
        }
    }

    /// Drops probabilities.
    fn drop(&self, shares: &mut Array2<f32>, sizes: Sizes, [index, head]: [usize; 2]) {
        let Some(dropped) = &self.dropped else { return };
        let (sample, first) = (dropped.sample(index), head * sizes.tokens * sizes.tokens);
        shares.iter_mut().enumerate().for_each(|(index, share)| *share *= dropped.factor(sample, first + index));
    }

    /// The gradients of `qkv` and, if `biases` are given, of the biases.
    fn backward(
        &self,
        qkv: &[f32],
        biases: Option<&[f32]>,
        grad: &[f32],
        sizes: Sizes,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let Sizes { batch, tokens, width, heads } = sizes;
        let mut of_qkv = vec![0.0; qkv.len()];
        let part = batch.div_ceil(PARTS).max(1);
        let row = tokens * 3 * width;
        let parts = of_qkv.par_chunks_mut(part * row).enumerate().map(|(number, of_qkv)| {
            let mut of_biases = vec![0.0; biases.map_or(0, <[f32]>::len)];
            let mut scratch = [Array2::zeros((tokens, tokens)), Array2::zeros((tokens, tokens))];
            for (offset, of_sample) in of_qkv.chunks_exact_mut(row).enumerate() {
                let index = number * part + offset;
                let sample = &qkv[index * row..(index + 1) * row];
                let grad = &grad[index * tokens * width..(index + 1) * tokens * width];
                for head in 0..heads {
                    self.backward_head(&mut scratch, of_sample, [sample, grad], biases, sizes, [index, head]);
                    if let (Some(of_scores), false) = (scratch[1].as_slice(), of_biases.is_empty()) {
                        let of_biases = &mut of_biases[head * tokens * tokens..];
                        of_biases.iter_mut().zip(of_scores).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
            of_biases
        });
        let parts: Vec<Vec<f32>> = parts.collect();
        (of_qkv, biases.map(|biases| sum_of(parts, biases.len())))
    }

    /// Fills a head's part of the gradient of a sample, and leaves the gradient of its scores in `scratch[1]`.
    fn backward_head(
        &self,
        scratch: &mut [Array2<f32>; 2],
        of_sample: &mut [f32],
        [sample, grad]: [&[f32]; 2],
        biases: Option<&[f32]>,
        sizes: Sizes,
        place: [usize; 2],
    ) {
        let head = place[1];
        let [shares, of_scores] = scratch;
        self.probabilities(shares, sample, biases, sizes, place);
        let grad = sizes.merged(grad, head);
        // The gradient of the dropped probabilities, then of the probabilities.
        general_mat_mul(1.0, &grad, &sizes.view(sample, 2, head).t(), 0.0, of_scores);
        self.drop(of_scores, sizes, place);
        for (of_row, row) in of_scores.rows_mut().into_iter().zip(shares.rows()) {
            let Some(of_row) = of_row.into_slice() else { continue };
            let mean: f32 = of_row.iter().zip(row).map(|(grad, share)| grad * share).sum();
            of_row.iter_mut().zip(row).for_each(|(grad, share)| *grad = share * (*grad - mean));
        }
        self.drop(shares, sizes, place);
        general_mat_mul(1.0, &shares.t(), &grad, 0.0, &mut sizes.view_mut(of_sample, 2, head));
        let (query, key) = (sizes.view(sample, 0, head), sizes.view(sample, 1, head));
        let scale = sizes.scale();
        general_mat_mul(scale, &*of_scores, &key, 0.0, &mut sizes.view_mut(of_sample, 0, head));
        general_mat_mul(scale, &of_scores.t(), &query, 0.0, &mut sizes.view_mut(of_sample, 1, head));
    }
}

/// Softmax in place; zeros where all values are negative infinity.
fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    row.iter_mut().for_each(|value| *value = exp(*value - largest));
    let factor = row.iter().sum::<f32>().recip();
    row.iter_mut().for_each(|value| *value *= factor);
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(layout.shape(), self.heads)?;
        let out = self.forward(slice(storage, layout)?, None, sizes);
        Ok((CpuStorage::F32(out), (sizes.batch, sizes.tokens, sizes.width).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let sizes = Sizes::of(qkv.shape(), self.heads)?;
        let (of_qkv, _) = floats(qkv, |qkv| floats(grad, |grad| Ok(self.backward(qkv, None, grad, sizes))))?;
        Ok(Some(tensor(of_qkv, qkv.dims())?))
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention with position biases"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(l1.shape(), self.heads)?;
        if l2.dims() != [sizes.heads, sizes.tokens, sizes.tokens] {
            bail!("attention: biases {:?} for {} heads and {} tokens", l2.dims(), sizes.heads, sizes.tokens);
        }
        let out = self.forward(slice(s1, l1)?, Some(slice(s2, l2)?), sizes);
        Ok((CpuStorage::F32(out), (sizes.batch, sizes.tokens, sizes.width).into()))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        biases: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(qkv.shape(), self.heads)?;
        let (of_qkv, of_biases) = floats(qkv, |qkv| {
            floats(biases, |biases| floats(grad, |grad| Ok(self.backward(qkv, Some(biases), grad, sizes))))
        })?;
        let wanted = |argument: &Tensor, values: Vec<f32>| {
            argument.track_op().then(|| tensor(values, argument.dims())).transpose()
        };
        Ok((wanted(qkv, of_qkv)?, wanted(biases, of_biases.unwrap_or_default())?))
    }
}
