//! Attention of one head: `softmax(scale q k^T + mask) v`, as two matrix products with the kernels of linear layers.
//!
//! Beside int8 weights both products are int8 too: a key and a column of the values each get a scale of their own,
//! queries are quantised row by row, and the exponentials become bytes whose sum is taken after rounding, so that the
//! weights still add up to one.

use super::kernels::{Kernels, PackedF32, PackedI8};
use super::run::Quantized;

/// Memory for one head.
#[derive(Debug)]
pub(crate) struct HeadScratch {
    queries: usize,
    tokens: usize,
    dim: usize,
    /// `[queries][dim]`, `[tokens][dim]`, `[tokens][dim]`.
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    scores: Vec<f32>,
    products: Products,
    /// A value for each column of a head: a mean, a largest magnitude.
    columns: Vec<f32>,
}

#[derive(Debug)]
enum Products {
    F32 { keys: PackedF32, values: PackedF32 },
    I8 { keys: PackedI8, values: PackedI8, quantized: Box<Quantized> },
    None,
}

impl HeadScratch {
    /// Room for heads of `dim` values and sequences of up to `tokens`.
    pub(crate) fn new(kernels: &Kernels, tokens: usize, dim: usize, int8: bool, any: bool) -> Self {
        let (tokens, dim) = if any { (tokens, dim) } else { (0, 0) };
        let rows = || vec![0.0; tokens * dim];
        let products = match (any, int8) {
            (false, _) => Products::None,
            (true, false) => Products::F32 {
                keys: PackedF32::new(kernels.layout_f32, dim, tokens),
                values: PackedF32::new(kernels.layout_f32, tokens, dim),
            },
            (true, true) => Products::I8 {
                keys: PackedI8::new(kernels.layout_i8, dim, tokens),
                values: PackedI8::new(kernels.layout_i8, tokens, dim),
                quantized: Box::new(Quantized::new(tokens, tokens.max(dim))),
            },
        };
        Self {
            queries: 0,
            tokens: 0,
            dim: 0,
            query: rows(),
            key: rows(),
            value: rows(),
            scores: vec![0.0; tokens * tokens],
            products,
            columns: vec![0.0; dim],
        }
    }

    /// The extents of the next head.
    pub(crate) fn start(&mut self, queries: usize, tokens: usize, dim: usize) {
        (self.queries, self.tokens, self.dim) = (queries, tokens, dim);
    }

    /// `[queries][dim]`, to be filled.
    pub(crate) fn query(&mut self) -> &mut [f32] {
        &mut self.query[..self.queries * self.dim]
    }

    /// `[tokens][dim]`, to be filled.
    pub(crate) fn key(&mut self) -> &mut [f32] {
        &mut self.key[..self.tokens * self.dim]
    }

    /// `[tokens][dim]`, to be filled.
    pub(crate) fn value(&mut self) -> &mut [f32] {
        &mut self.value[..self.tokens * self.dim]
    }
}

/// Computes the head in `scratch` into `out`, `[queries][dim]`. `mask` holds 0 for tokens that are not attended to.
pub(crate) fn attend(kernels: &Kernels, scale: f32, mask: Option<&[i64]>, scratch: &mut HeadScratch, out: &mut [f32]) {
    let HeadScratch { queries, tokens, dim, query, key, value, scores, products, columns } = scratch;
    let (queries, tokens, dim) = (*queries, *tokens, *dim);
    let (query, scores) = (&mut query[..queries * dim], &mut scores[..queries * tokens]);
    let (key, value) = (&mut key[..tokens * dim], &value[..tokens * dim]);
    let out = &mut out[..queries * dim];
    match products {
        Products::None => {}
        Products::F32 { keys, values } => {
            query.iter_mut().for_each(|q| *q *= scale);
            keys.reshape(dim, tokens);
            for (token, key) in key.chunks_exact(dim).enumerate() {
                keys.set_channel(token, key);
            }
            values.reshape(tokens, dim);
            for (token, value) in value.chunks_exact(dim).enumerate() {
                values.set_input(token, 0, value);
            }
            for panel in 0..keys.panels() {
                kernels.panel_f32(query, dim, queries, keys, panel, scores, tokens, false);
            }
            apply_mask(mask, scores, tokens);
            // The sums wait in the first column of the queries, which are not needed any more.
            for (scores, query) in scores.chunks_exact_mut(tokens).zip(query.chunks_exact_mut(dim)) {
                query[0] = kernels.softmax_numerators(scores);
            }
            for panel in 0..values.panels() {
                kernels.panel_f32(scores, tokens, queries, values, panel, out, dim, false);
            }
            for (out, query) in out.chunks_exact_mut(dim).zip(query.chunks_exact(dim)) {
                let share = 1.0 / query[0];
                out.iter_mut().for_each(|v| *v *= share);
            }
        }
        Products::I8 { keys, values, quantized } => {
            keys.reshape(dim, tokens);
            kernels.pack_keys(key, &mut columns[..dim], scale, keys);
            quantized.start(dim);
            for (row, query) in query.chunks_exact(dim).enumerate() {
                quantized.quantize(kernels, row, query);
            }
            for panel in 0..keys.panels() {
                kernels.panel_i8(&quantized.rows(queries), keys, panel, scores, tokens, false);
            }
            apply_mask(mask, scores, tokens);
            values.reshape(tokens, dim);
            kernels.pack_values(value, &mut columns[..dim], values);
            quantized.start(tokens);
            let zero = kernels.softmax_zero_point();
            for (row, scores) in scores.chunks_exact_mut(tokens).enumerate() {
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

fn apply_mask(mask: Option<&[i64]>, scores: &mut [f32], tokens: usize) {
    let Some(mask) = mask else { return };
    for row in scores.chunks_exact_mut(tokens) {
        for (score, _) in row.iter_mut().zip(mask).filter(|(_, mask)| **mask == 0) {
            *score = f32::MIN;
        }
    }
}
