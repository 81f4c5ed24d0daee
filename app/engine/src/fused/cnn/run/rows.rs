//! Computes rows of one step.

use std::ops::Range;

use crate::fused::cnn::program::{Depthwise, Op, Program, Shape, Step, Weights, Window};
use crate::fused::kernels::{DepthwiseRow, Kernels, PackedF32, PackedI8, QuantizedRows};

/// Values of a line of a window that are copied at once.
const SHORT: usize = 16;

/// Maps up to this width get columns of zeros beside them for depthwise convolutions: many of their windows lie at an edge.
const NARROW: usize = 16;

/// Rows of a step's input.
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: Range<usize>,
    pub(super) shape: Shape,
}

/// Memory of one thread for the inputs of matrix products.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Quantised rows of a map.
    bytes: Vec<u8>,
    /// One row for each result: what its window contains.
    gathered: Vec<u8>,
    floats: Vec<f32>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    vector: Vec<f32>,
}

impl Workspace {
    /// Grows to what `step` needs for `results` rows of its results, which depend on `needed` rows of its input.
    pub(super) fn reserve(&mut self, program: &Program, step: &Step, needed: usize, results: usize, kernels: &Kernels) {
        fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
            values.resize(values.len().max(len), T::default());
        }
        let (x, out) = (program.maps[step.x], program.maps[step.out]);
        let Op::Convolution { window, depthwise: false, weights } = &step.op else {
            if let (Op::Convolution { window, .. }, true) = (&step.op, x.width <= NARROW) {
                grow(&mut self.floats, needed * columns(*window, out) * x.channels);
            }
            return self.reserve_vector(out.channels);
        };
        let (pixels, depth) = (results * out.width, window.kernel[0] * window.kernel[1] * x.channels);
        match weights {
            Weights::I8(_) => {
                grow(&mut self.bytes, needed * x.row());
                grow(&mut self.gathered, pixels * padded(depth, kernels));
                grow(&mut self.scales, pixels);
                grow(&mut self.zero_points, pixels);
            }
            _ if !window.is_point() => grow(&mut self.floats, pixels * depth),
            _ => {}
        }
    }

    pub(super) fn reserve_vector(&mut self, channels: usize) {
        self.vector.resize(self.vector.len().max(channels), 0.0);
    }

    /// A vector of `channels` values.
    pub(super) fn vector(&mut self, channels: usize) -> &mut [f32] {
        &mut self.vector[..channels]
    }

    /// Computes the rows `rows` of the results of `step`, of shape `shape`. `out` has the map that is added.
    pub(super) fn compute(
        &mut self,
        kernels: &Kernels,
        step: &Step,
        x: &Rows<'_>,
        rows: Range<usize>,
        shape: Shape,
        out: &mut [f32],
    ) {
        let add = step.add.is_some();
        match &step.op {
            Op::Convolution { window, weights: Weights::I8(weights), .. } => {
                self.product_i8(kernels, weights, *window, x, rows, shape.width);
                let (stride, pixels) = (padded(weights.inputs(), kernels), out.len() / shape.channels);
                let whole = window.is_point() && stride == weights.inputs();
                let from = QuantizedRows {
                    values: if whole { &self.bytes } else { &self.gathered },
                    stride,
                    scales: &self.scales[..pixels],
                    zero_points: &self.zero_points[..pixels],
                };
                for panel in 0..weights.panels() {
                    kernels.panel_i8(&from, weights, panel, out, shape.channels, add);
                }
            }
            Op::Convolution { window, weights: Weights::F32(weights), .. } => {
                self.product_f32(kernels, weights, *window, x, rows, shape, add, out);
            }
            Op::Convolution { window, weights: Weights::Depthwise(weights), .. } => {
                depthwise(kernels, weights, *window, x, rows, shape, out, &mut self.floats);
            }
            // Weights are loaded before a program runs.
            Op::Convolution { weights: Weights::Unloaded(_), .. } | Op::Mean => {}
            Op::Pool { window, largest, padded } => {
                let pooled = &mut self.vector[..shape.channels];
                pool(*window, *largest, *padded, x, rows, shape, out, add, pooled);
            }
            Op::Scale { .. } => {
                let factors = &self.vector[..shape.channels];
                each(x.values, out, shape.channels, add, |channel, v| v * factors[channel]);
            }
            Op::Affine { factors, terms } => {
                each(x.values, out, shape.channels, add, |channel, v| v * factors[channel] + terms[channel]);
            }
            Op::Copy => each(x.values, out, shape.channels, add, |_, v| v),
        }
        if let Some(activation) = step.activation {
            let len = out.len();
            kernels.activate(activation, out, len, len);
        }
    }

    /// Quantises what the results need: for single pixels row by row of the map, for windows all rows of a strip alike.
    fn product_i8(
        &mut self,
        kernels: &Kernels,
        weights: &PackedI8,
        window: Window,
        x: &Rows<'_>,
        rows: Range<usize>,
        width: usize,
    ) {
        let row = x.shape.row();
        let depth = weights.inputs();
        let stride = padded(depth, kernels);
        if window.is_point() {
            for (index, values) in x.values.chunks_exact(row).enumerate() {
                let (scale, zero_point) = kernels.quantize(values, &mut self.bytes[index * row..][..row]);
                self.scales[index * width..][..width].fill(scale);
                self.zero_points[index * width..][..width].fill(zero_point);
            }
            if stride != depth {
                let pixels = x.values.len() / depth;
                for (from, to) in
                    self.bytes.chunks_exact(depth).zip(self.gathered.chunks_exact_mut(stride)).take(pixels)
                {
                    to[..depth].copy_from_slice(from);
                    to[depth..].fill(0);
                }
            }
            return;
        }
        let (scale, zero_point) = kernels.quantize(x.values, &mut self.bytes[..x.values.len()]);
        let pixels = rows.len() * width;
        self.scales[..pixels].fill(scale);
        self.zero_points[..pixels].fill(zero_point);
        // The byte that means 0, less 128 where activations are signed, as the zero point is.
        let zero = zero_point as u8;
        gather(&self.bytes[..x.values.len()], x, window, rows, width, zero, stride, &mut self.gathered);
    }

    #[allow(clippy::too_many_arguments, reason = "a step with its input and its results")]
    fn product_f32(
        &mut self,
        kernels: &Kernels,
        weights: &PackedF32,
        window: Window,
        x: &Rows<'_>,
        rows: Range<usize>,
        shape: Shape,
        add: bool,
        out: &mut [f32],
    ) {
        let depth = weights.inputs();
        let values = if window.is_point() {
            x.values
        } else {
            gather(x.values, x, window, rows, shape.width, 0.0, depth, &mut self.floats);
            &self.floats
        };
        let pixels = out.len() / shape.channels;
        for panel in 0..weights.panels() {
            kernels.panel_f32(values, depth, pixels, weights, panel, out, shape.channels, add);
        }
    }
}

/// Bytes of a row of `depth` values: whole blocks of the kernels.
fn padded(depth: usize, kernels: &Kernels) -> usize {
    depth.next_multiple_of(kernels.layout_i8.k_tile)
}

/// Copies what the window of each result contains to a row of `stride` values; `outside` fills what lies outside of the map.
#[allow(clippy::too_many_arguments, reason = "two layouts of the same values")]
fn gather<T: Copy>(
    values: &[T],
    x: &Rows<'_>,
    window: Window,
    rows: Range<usize>,
    width: usize,
    outside: T,
    stride: usize,
    out: &mut [T],
) {
    let (channels, row) = (x.shape.channels, x.shape.row());
    let line = window.kernel[1] * channels;
    for (index, y) in rows.enumerate() {
        for result in 0..width {
            let left = result * window.stride[1];
            // Columns of the window within the map.
            let from = window.before[1].saturating_sub(left).min(window.kernel[1]);
            let to = (x.shape.width + window.before[1]).saturating_sub(left).clamp(from, window.kernel[1]);
            for i in 0..window.kernel[0] {
                let place = (index * width + result) * stride + i * line;
                let at = (y * window.stride[0] + i).checked_sub(window.before[0]).filter(|at| x.rows.contains(at));
                let Some(at) = at.filter(|_| from < to) else {
                    out[place..place + line].fill(outside);
                    continue;
                };
                let start = (at - x.rows.start) * row + (left + from - window.before[1]) * channels;
                // What lies behind a short line is written later, so that one move of constant size can do.
                if to - from == window.kernel[1]
                    && line <= SHORT
                    && let (Some(from), Some(to)) =
                        (values[start..].first_chunk::<SHORT>(), out[place..].first_chunk_mut())
                {
                    *to = *from;
                    continue;
                }
                let out = &mut out[place..place + line];
                out[..from * channels].fill(outside);
                out[from * channels..to * channels].copy_from_slice(&values[start..][..(to - from) * channels]);
                out[to * channels..].fill(outside);
            }
        }
    }
}

/// The rows of the window of result `y` that lie within the map, and of the input that they meet.
fn meeting(window: Window, x: &Rows<'_>, y: usize) -> (Range<usize>, Range<usize>) {
    let top = y * window.stride[0];
    let from = (x.rows.start + window.before[0]).saturating_sub(top).min(window.kernel[0]);
    let to = (x.rows.end + window.before[0]).saturating_sub(top).clamp(from, window.kernel[0]);
    let first = (top + from).saturating_sub(window.before[0] + x.rows.start);
    (from..to, first..first + to - from)
}

#[allow(clippy::too_many_arguments, reason = "a step with its input and its results")]
fn depthwise(
    kernels: &Kernels,
    weights: &Depthwise,
    window: Window,
    x: &Rows<'_>,
    rows: Range<usize>,
    shape: Shape,
    out: &mut [f32],
    floats: &mut [f32],
) {
    let (channels, line) = (shape.channels, window.kernel[1] * shape.channels);
    let (values, width, before) = if x.shape.width <= NARROW {
        let width = columns(window, shape);
        let (left, kept) = (window.before[1] * channels, x.shape.width.min(width - window.before[1]) * channels);
        let copied = &mut floats[..x.rows.len() * width * channels];
        for (to, from) in copied.chunks_exact_mut(width * channels).zip(x.values.chunks_exact(x.shape.row())) {
            to[..left].fill(0.0);
            to[left..left + kept].copy_from_slice(&from[..kept]);
            to[left + kept..].fill(0.0);
        }
        (&*copied, width, 0)
    } else {
        (x.values, x.shape.width, window.before[1])
    };
    let row = width * channels;
    for (y, out) in rows.zip(out.chunks_exact_mut(shape.row())) {
        let (lines, input) = meeting(window, x, y);
        kernels.depthwise(
            &DepthwiseRow {
                input: &values[input.start * row..input.end * row],
                width,
                channels,
                weights: &weights.values[lines.start * line..lines.end * line],
                kernel_width: window.kernel[1],
                bias: &weights.bias,
                stride: window.stride[1],
                before,
            },
            out,
        );
    }
}

/// Columns of a map that windows of one row meet, with zeros on both sides.
fn columns(window: Window, out: Shape) -> usize {
    (out.width - 1) * window.stride[1] + window.kernel[1]
}

#[allow(clippy::too_many_arguments, reason = "a step with its input and its results")]
fn pool(
    window: Window,
    largest: bool,
    padded: bool,
    x: &Rows<'_>,
    rows: Range<usize>,
    shape: Shape,
    out: &mut [f32],
    add: bool,
    pooled: &mut [f32],
) {
    let (row, channels) = (x.shape.row(), shape.channels);
    for (y, out) in rows.zip(out.chunks_exact_mut(shape.row())) {
        let (_, input) = meeting(window, x, y);
        for (result, out) in out.chunks_exact_mut(channels).enumerate() {
            let left = result * window.stride[1];
            let from = left.saturating_sub(window.before[1]).min(x.shape.width);
            let to = (left + window.kernel[1]).saturating_sub(window.before[1]).clamp(from, x.shape.width);
            let count =
                if padded { window.kernel[0] * window.kernel[1] } else { input.len() * to.saturating_sub(from) };
            let share = if largest { 1.0 } else { 1.0 / count.max(1) as f32 };
            pooled.fill(if largest { f32::NEG_INFINITY } else { 0.0 });
            for at in input.clone() {
                for pixel in x.values[at * row + from * channels..at * row + to * channels].chunks_exact(channels) {
                    if largest {
                        pooled.iter_mut().zip(pixel).for_each(|(most, v)| *most = if *v > *most { *v } else { *most });
                    } else {
                        pooled.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += v);
                    }
                }
            }
            for (out, value) in out.iter_mut().zip(&*pooled) {
                *out = if add { *out + value * share } else { value * share };
            }
        }
    }
}

/// `out = f(x)`, or `out` is incremented, channel by channel.
fn each(x: &[f32], out: &mut [f32], channels: usize, add: bool, f: impl Fn(usize, f32) -> f32) {
    for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
        for (channel, (out, x)) in out.iter_mut().zip(x).enumerate() {
            let value = f(channel, *x);
            *out = if add { *out + value } else { value };
        }
    }
}
