//! Attention of one head: `softmax(scale q k^T + bias + mask) v`, as two matrix products with the kernels of linear layers.
//!
//! With int8 weights, both products are int8 too: each key and each column of the values has its own scale, queries are
//! quantised row by row, and the exponentials become bytes that are summed after rounding, so that the attention weights
//! still sum to one. The mean key is subtracted from each key before: it shifts all scores of a query by the same amount,
//! which softmax ignores, and leaves the range of the bytes to the differences between tokens.

use super::kernels::{HEAD_DIM_MAX, Kernels, Matrix, PackedF32, PackedI8, scale_of};
use super::quantized::Quantized;

/// Scratch memory for one head.
#[derive(Debug)]
pub(crate) struct HeadScratch {
    scores: Vec<f32>,
    products: Products,
}

#[derive(Debug)]
enum Products {
    F32 { query: Vec<f32>, keys: PackedF32, values: PackedF32, sums: Vec<f32> },
    I8 { keys: PackedI8, values: PackedI8, quantized: Box<Quantized>, bytes: Vec<u8>, mean: Vec<f32>, scales: Vec<f32> },
}

/// The inputs of one head.
pub(crate) struct Head<'a> {
    pub(crate) queries: usize,
    pub(crate) tokens: usize,
    pub(crate) dim: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// 0 for tokens that are not attended to.
    pub(crate) mask: Option<&'a [i64]>,
    /// For causal attention, the token index of the first query.
    pub(crate) causal: Option<usize>,
    /// Added to the scores: [queries][tokens].
    pub(crate) bias: Option<&'a [f32]>,
    /// The rows of the three matrices.
    pub(crate) query: RowVisitor<'a>,
    pub(crate) key: RowVisitor<'a>,
    pub(crate) value: RowVisitor<'a>,
}

/// Calls a function with blocks of rows of a matrix and the index of the first row of each.
pub(crate) type RowVisitor<'a> = &'a dyn Fn(&mut dyn FnMut(usize, Matrix<'_>));

impl HeadScratch {
    /// Allocates for heads of `dim` values and sequences of up to `tokens`. With `int8`, products are int8 if `dim` is at most
    /// [`HEAD_DIM_MAX`].
    pub(crate) fn new(kernels: &Kernels, tokens: usize, dim: usize, int8: bool) -> Self {
        let products = if int8 && dim <= HEAD_DIM_MAX {
            Products::I8 {
                keys: PackedI8::new(kernels.layout_i8, dim, tokens),
                values: PackedI8::new(kernels.layout_i8, tokens, dim),
                quantized: Box::new(Quantized::new(tokens, tokens.max(dim))),
                bytes: vec![0; tokens * dim],
                mean: vec![0.0; dim],
                scales: vec![0.0; dim],
            }
        } else {
            Products::F32 {
                query: vec![0.0; tokens * dim],
                keys: PackedF32::new(kernels.layout_f32, dim, tokens),
                values: PackedF32::new(kernels.layout_f32, tokens, dim),
                sums: vec![0.0; tokens],
            }
        };
        Self { scores: vec![0.0; tokens * score_stride(tokens)], products }
    }

    /// Computes a head into `out`, `[queries][dim]`.
    pub(crate) fn attend(&mut self, kernels: &Kernels, head: &Head<'_>, out: &mut [f32]) {
        let Head { queries, tokens, dim, scale, .. } = *head;
        // Rows are padded to whole vectors: a partial one costs as much as four. Padding has no attention weight.
        let stride = score_stride(tokens);
        let scores = &mut self.scores[..queries * stride];
        for row in scores.chunks_exact_mut(stride) {
            row[tokens..].fill(f32::NEG_INFINITY);
        }
        let out = &mut out[..queries * dim];
        match &mut self.products {
            Products::F32 { query, keys, values, sums } => {
                gather_floats(head, query, keys, values);
                for panel in 0..keys.panels() {
                    kernels.panel_f32(query, dim, queries, keys, panel, scores, stride, false);
                }
                add_terms(head, scores, stride);
                for (scores, sum) in scores.chunks_exact_mut(stride).zip(&mut *sums) {
                    *sum = kernels.softmax_numerators(scores);
                }
                for panel in 0..values.panels() {
                    kernels.panel_f32(scores, stride, queries, values, panel, out, dim, false);
                }
                for (out, sum) in out.chunks_exact_mut(dim).zip(sums) {
                    let share = 1.0 / *sum;
                    out.iter_mut().for_each(|v| *v *= share);
                }
            }
            Products::I8 { keys, values, quantized, bytes, mean, scales } => {
                let mean = &mut mean[..dim];
                mean.fill(0.0);
                (head.key)(&mut |_, rows| kernels.add_rows(rows, mean));
                mean.iter_mut().for_each(|mean| *mean /= tokens as f32);
                keys.reshape(dim, tokens);
                (head.key)(&mut |first, rows| kernels.pack_keys(rows, first, mean, scale, keys));
                quantized.start(dim);
                (head.query)(&mut |first, rows| {
                    for (row, query) in rows.iter().enumerate() {
                        quantized.quantize(kernels, first + row, query);
                    }
                });
                for panel in 0..keys.panels() {
                    kernels.panel_i8(&quantized.rows(queries), keys, panel, scores, stride, false);
                }
                add_terms(head, scores, stride);
                pack_values(kernels, head, &mut mean[..dim], &mut scales[..dim], bytes, values);
                quantized.start(tokens);
                let zero = kernels.softmax_zero_point();
                for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
                    let (bytes, scale, zero_point) = quantized.row(row);
                    let sum = kernels.softmax_bytes(scores, bytes);
                    (*scale, *zero_point) = (1.0 / (255.0 * sum), zero);
                }
                for panel in 0..values.panels() {
                    kernels.panel_i8(&quantized.rows(queries), values, panel, out, dim, false);
                }
            }
        }
    }
}

fn gather_floats(head: &Head<'_>, query: &mut [f32], keys: &mut PackedF32, values: &mut PackedF32) {
    let Head { tokens, dim, scale, .. } = *head;
    (head.query)(&mut |first, rows| {
        for (out, row) in query[first * dim..].chunks_exact_mut(dim).zip(rows.iter()) {
            out.iter_mut().zip(row).for_each(|(out, x)| *out = x * scale);
        }
    });
    keys.reshape(dim, tokens);
    (head.key)(&mut |first, rows| {
        rows.iter().enumerate().for_each(|(token, key)| keys.set_channel(first + token, key));
    });
    values.reshape(tokens, dim);
    (head.value)(&mut |first, rows| {
        rows.iter().enumerate().for_each(|(token, value)| values.set_input(first + token, 0, value));
    });
}

fn pack_values(
    kernels: &Kernels,
    head: &Head<'_>,
    inverses: &mut [f32],
    scales: &mut [f32],
    bytes: &mut [u8],
    values: &mut PackedI8,
) {
    let Head { tokens, dim, .. } = *head;
    scales.fill(0.0);
    (head.value)(&mut |_, rows| kernels.raise_magnitudes(rows, scales));
    for (scale, inverse) in scales.iter_mut().zip(&mut *inverses) {
        (*scale, *inverse) = scale_of(*scale);
    }
    (head.value)(&mut |first, rows| kernels.value_bytes(rows, inverses, &mut bytes[first * dim..]));
    values.reshape(tokens, dim);
    kernels.pack_bytes(&bytes[..tokens * dim], scales, values);
}

/// Stride of the rows of scores, in values.
fn score_stride(tokens: usize) -> usize {
    tokens.next_multiple_of(16)
}

fn add_terms(head: &Head<'_>, scores: &mut [f32], stride: usize) {
    if let Some(bias) = head.bias {
        for (row, bias) in scores.chunks_exact_mut(stride).zip(bias.chunks_exact(head.tokens)) {
            row.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
    }
    if let Some(first) = head.causal {
        for (query, row) in (first..).zip(scores.chunks_exact_mut(stride)) {
            row[..head.tokens].iter_mut().skip(query + 1).for_each(|score| *score = f32::MIN);
        }
    }
    if let Some(mask) = head.mask {
        for row in scores.chunks_exact_mut(stride) {
            for (score, _) in row.iter_mut().zip(mask).filter(|(_, mask)| **mask == 0) {
                *score = f32::MIN;
            }
        }
    }
}
