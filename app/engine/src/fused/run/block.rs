//! Runs the steps of a program on one block of rows.

use std::ops::Range;

use super::{Input, Scratch, Work, read};
use crate::fused::int4;
use crate::fused::kernels::{Activation, Kernels, Matrix};
use crate::fused::program::{Op, Patches, Rows, SequenceIndex, Table, ValueId, View, Weights};
use crate::fused::quantized::Quantized;

/// A block of rows with its values.
pub(super) struct Block<'a, 'b> {
    pub(super) work: &'a Work<'b>,
    pub(super) index: usize,
    pub(super) rows: Range<usize>,
    pub(super) values: &'a mut [f32],
}

impl Block<'_, '_> {
    /// Number of rows of a value in this block.
    fn count(&self, value: ValueId) -> usize {
        match (self.work.runner.program.values[value].rows, self.index) {
            (Rows::Tokens, _) => self.rows.len(),
            (Rows::One, 0) => 1,
            (Rows::One, _) => 0,
        }
    }

    fn width(&self, value: ValueId) -> usize {
        self.work.runner.program.values[value].width
    }

    fn range(&self, value: ValueId) -> Range<usize> {
        let start = self.work.runner.offsets[value];
        start..start + self.count(value) * self.width(value)
    }

    /// The memory of a view, from its first value on, and of another value to write.
    fn pair(&mut self, x: View, out: ValueId) -> (&[f32], &mut [f32]) {
        let mut from = self.range(x.value);
        from.start += x.offset;
        let to = self.range(out);
        match self.values.get_disjoint_mut([from, to]) {
            Ok([x, out]) => (x, out),
            // `place_values` does not let values overlap while both are needed.
            Err(_) => unreachable!("values that overlap"),
        }
    }

    /// Copies the results of attention step `step` for this block's rows.
    pub(super) fn fetch_context(&mut self, step: usize) {
        let runner = self.work.runner;
        let Op::Attention(attention) = &runner.program.steps[step].op else { return };
        let (dim, parts) = (attention.head_dim(), self.work.partition.parts);
        let (width, start) = (self.width(attention.out), runner.offsets[attention.out]);
        let count = self.count(attention.out);
        let first = if count == self.rows.len() { self.rows.start } else { 0 };
        let one = runner.program.values[attention.out].rows == Rows::One;
        let queries = if one { 1 } else { self.work.partition.tokens };
        for head in 0..attention.heads {
            for part in 0..parts {
                let part_rows = self.work.partition.part(queries, part);
                let rows = part_rows.start.max(first)..part_rows.end.min(first + count);
                if rows.is_empty() {
                    continue;
                }
                let context = read(&runner.contexts[head * parts + part]);
                for row in rows {
                    let from = &context[(row - part_rows.start) * dim..][..dim];
                    self.values[start + (row - first) * width + head * dim..][..dim].copy_from_slice(from);
                }
            }
        }
    }

    /// Passes the rows that a linear layer reads to `take`.
    pub(super) fn show_inputs(&self, step: usize, take: &dyn Fn(usize, &[f32])) {
        let Op::Linear { x, out, .. } = &self.work.runner.program.steps[step].op else { return };
        let (count, stride) = (self.count(*out), self.width(x.value));
        let start = self.work.runner.offsets[x.value] + x.offset;
        for row in 0..count {
            take(step, &self.values[start + row * stride..][..x.width]);
        }
    }

    pub(super) fn step(&mut self, op: &Op, scratch: &mut Scratch) {
        if self.count(op.out()) == 0 {
            return;
        }
        match op {
            Op::PatchEmbedding { patches, weights, out } => self.patch_embedding(patches, weights, *out, scratch),
            Op::Lookup { table, index, out } => self.lookup(table, *index, *out),
            Op::AddTable { x, table, out } => self.add_table(*x, table, *out),
            Op::Scale { x, factors, out } => self.scale(*x, factors, *out),
            Op::Add { a, b, out } => self.add(*a, *b, *out),
            Op::LayerNorm { x, gamma, beta, epsilon, out } => {
                let (width, kernels) = (self.width(x.value), self.work.runner.kernels);
                let (from, to) = self.pair(*x, *out);
                for (out, row) in to.chunks_exact_mut(x.width).zip(from.chunks(width)) {
                    kernels.layer_norm(&row[..x.width], gamma, beta, *epsilon, out);
                }
            }
            Op::Linear { x, weights, activation, add, out } => {
                let (rows, stride) = (self.count(*out), self.width(x.value));
                let kernels = self.work.runner.kernels;
                let (from, to) = self.pair(*x, *out);
                let from = Matrix { values: from, stride, width: x.width, rows };
                linear(kernels, from, weights, *activation, *add, to, &mut scratch.quantized);
            }
            Op::Activate { x, activation, out } => {
                self.copy(*x, *out);
                let (range, width) = (self.range(*out), x.width);
                self.work.runner.kernels.activate(*activation, &mut self.values[range], width, width);
            }
            Op::First { x, out } => {
                let (from, to) = self.pair(*x, *out);
                to.copy_from_slice(&from[..x.width]);
            }
            Op::Normalize { x, out } => {
                self.copy(*x, *out);
                let range = self.range(*out);
                for row in self.values[range].chunks_exact_mut(x.width) {
                    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|v| *v /= norm);
                }
            }
            Op::Constant { row, out } => {
                let range = self.range(*out);
                self.values[range].copy_from_slice(row);
            }
            // Steps over all rows have their own phases.
            Op::Attention(_) | Op::Pool { .. } => {}
        }
    }

    /// Copies a view into another value, unless they are the same.
    fn copy(&mut self, x: View, out: ValueId) {
        if x.value != out {
            let width = self.width(x.value);
            let (from, to) = self.pair(x, out);
            for (out, row) in to.chunks_exact_mut(x.width).zip(from.chunks(width)) {
                out.copy_from_slice(&row[..x.width]);
            }
        }
    }

    fn add_table(&mut self, x: View, table: &[f32], out: ValueId) {
        self.copy(x, out);
        let (range, first) = (self.range(out), self.rows.start);
        for (row, out) in self.values[range].chunks_exact_mut(x.width).enumerate() {
            let table = if table.len() == x.width { table } else { &table[(first + row) * x.width..] };
            out.iter_mut().zip(table).for_each(|(out, t)| *out += t);
        }
    }

    fn scale(&mut self, x: View, factors: &[f32], out: ValueId) {
        self.copy(x, out);
        let range = self.range(out);
        for row in self.values[range].chunks_exact_mut(x.width) {
            row.iter_mut().zip(factors).for_each(|(out, factor)| *out *= factor);
        }
    }

    fn add(&mut self, a: View, b: View, out: ValueId) {
        self.copy(a, out);
        let width = self.width(b.value);
        let (from, to) = self.pair(b, out);
        for (out, row) in to.chunks_exact_mut(b.width).zip(from.chunks(width)) {
            out.iter_mut().zip(row).for_each(|(out, b)| *out += b);
        }
    }

    fn lookup(&mut self, table: &Table, index: SequenceIndex, out: ValueId) {
        let Input::Tokens { ids, types, positions, .. } = self.work.input else { return };
        let (range, width, first) = (self.range(out), self.width(out), self.rows.start);
        for (row, out) in self.values[range].chunks_exact_mut(width).enumerate() {
            let token = first + row;
            let at = match index {
                SequenceIndex::Ids => usize::try_from(ids[token]).unwrap_or(0),
                SequenceIndex::Types => usize::try_from(types[token]).unwrap_or(0),
                SequenceIndex::TokenIndex => token,
                SequenceIndex::PositionIds => usize::try_from(positions[token]).unwrap_or(0),
            };
            match table {
                Table::F32(values) => out.copy_from_slice(&values[at * width..][..width]),
                Table::I8 { values, scales } => {
                    let values = &values[at * width..][..width];
                    out.iter_mut().zip(values).for_each(|(out, w)| *out = f32::from(w.cast_signed()) * scales[at]);
                }
                Table::I4 { values, scales, group } => {
                    let scales = &scales[at * width.div_ceil(*group)..];
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = f32::from(int4::at(values, at * width + i)) * scales[i / group];
                    }
                }
            }
        }
    }

    fn patch_embedding(&mut self, patches: &Patches, weights: &Weights, out: ValueId, scratch: &mut Scratch) {
        let Input::Pixels(pixels, size) = self.work.input else { return };
        let width = patches.channels * patches.patch[0] * patches.patch[1];
        let rows = &mut scratch.rows[..self.rows.len() * width];
        for (row, out) in self.rows.clone().zip(rows.chunks_exact_mut(width)) {
            match row.checked_sub(patches.prefix_tokens) {
                Some(patch) => cut_patch(patches, pixels, size, patch, out),
                None => out.fill(0.0),
            }
        }
        let range = self.range(out);
        let (kernels, to) = (self.work.runner.kernels, &mut self.values[range]);
        let from = Matrix { values: &*rows, stride: width, width, rows: self.rows.len() };
        linear(kernels, from, weights, None, false, to, &mut scratch.quantized);
        let hidden = self.width(out);
        let prefix = patches.prefix_tokens.saturating_sub(self.rows.start).min(self.rows.len());
        let start = self.work.runner.offsets[out];
        self.values[start..start + prefix * hidden].fill(0.0);
    }
}

/// Copies the patch with index `patch` into `out`: channel by channel, row by row.
fn cut_patch(patches: &Patches, pixels: &[f32], [height, width]: [usize; 2], patch: usize, out: &mut [f32]) {
    let [patch_height, patch_width] = patches.patch;
    let (top, left) = (patch / patches.grid[1] * patch_height, patch % patches.grid[1] * patch_width);
    for (index, out) in out.chunks_exact_mut(patch_width).enumerate() {
        let (channel, row) = (index / patch_height, index % patch_height);
        let start = (channel * height + top + row) * width + left;
        out.copy_from_slice(&pixels[start..start + patch_width]);
    }
}

fn linear(
    kernels: &Kernels,
    x: Matrix<'_>,
    weights: &Weights,
    activation: Option<Activation>,
    add: bool,
    out: &mut [f32],
    quantized: &mut Quantized,
) {
    let (panels, columns, stride) = match weights {
        Weights::I8(weights) => (weights.panels(), kernels.layout_i8.nr, weights.outputs()),
        Weights::F32(weights) => (weights.panels(), kernels.layout_f32.nr, weights.outputs()),
        Weights::Unloaded(_) => unreachable!("weights are loaded before a program runs"),
    };
    if weights.is_i8() {
        quantized.start(x.width);
        for (index, row) in x.iter().enumerate() {
            quantized.quantize(kernels, index, row);
        }
    }
    for panel in 0..panels {
        match weights {
            Weights::I8(weights) => kernels.panel_i8(&quantized.rows(x.rows), weights, panel, out, stride, add),
            Weights::F32(weights) => {
                kernels.panel_f32(x.values, x.stride, x.rows, weights, panel, out, stride, add);
            }
            Weights::Unloaded(_) => {}
        }
        if let Some(activation) = activation {
            // Right away, while the results of the panel are in the L1 cache.
            let first = panel * columns;
            let width = columns.min(stride - first);
            kernels.activate(activation, &mut out[first..], width, stride);
        }
    }
}
