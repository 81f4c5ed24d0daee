//! Rows of activations quantised to bytes, with the memory that holds them.

use super::kernels::{Kernels, QuantizedRows};

/// Memory for quantised rows, as wide as the widest.
#[derive(Debug)]
pub(super) struct Quantized {
    values: Vec<u8>,
    stride: usize,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
}

impl Quantized {
    /// Allocates `rows` rows of up to `width` values.
    pub(super) fn new(rows: usize, width: usize) -> Self {
        Self {
            values: vec![0; rows * stride_of(width)],
            stride: 0,
            scales: vec![0.0; rows],
            zero_points: vec![0; rows],
        }
    }

    /// Sets the width of the rows that follow; what was stored before is invalid.
    pub(super) fn start(&mut self, width: usize) {
        self.stride = stride_of(width);
    }

    /// The bytes, the scale and the zero point of row `row`.
    pub(super) fn row(&mut self, row: usize) -> (&mut [u8], &mut f32, &mut i32) {
        let values = &mut self.values[row * self.stride..][..self.stride];
        (values, &mut self.scales[row], &mut self.zero_points[row])
    }

    /// Quantises `x` into row `row`.
    pub(super) fn quantize(&mut self, kernels: &Kernels, row: usize, x: &[f32]) {
        let (values, scale, zero_point) = self.row(row);
        (*scale, *zero_point) = kernels.quantize(x, values);
    }

    /// The first `count` rows, as the kernels read them.
    pub(super) fn rows(&self, count: usize) -> QuantizedRows<'_> {
        QuantizedRows {
            values: &self.values,
            stride: self.stride,
            scales: &self.scales[..count],
            zero_points: &self.zero_points[..count],
        }
    }
}

/// Bytes from row to row: whole cache lines, and one more where rows would otherwise map to the same few cache sets.
fn stride_of(width: usize) -> usize {
    let lines = width.div_ceil(64);
    (lines + usize::from(lines.is_multiple_of(4))) * 64
}
