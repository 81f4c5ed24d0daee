//! Resampling of 8-bit RGB with the bits of Pillow (`ImagingResampleInner` in `src/libImaging/Resample.c`) or
//! torchvision (`upsample_…2d_aa` of ATen, for 8-bit tensors on a CPU): one pass over the columns and one over the
//! rows, each with fixed-point weights and rounding to 8 bits. Nearest follows `ImagingScaleAffine` in Pillow's
//! `Geometry.c`, or ATen's `nearest-exact`.

use std::ops::Range;

use super::filter::{FRACTION_BITS, Precision, for_each_output, taps_max};
use super::{Backend, Filter, Size};

/// Added to a sum of weighted pixels to round it.
const HALF: i32 = 1 << (FRACTION_BITS - 1);
/// Bytes whose sums the row pass keeps in registers.
const LANES: usize = 16;
/// Bits of a weight's low half. The high half is a signed 16-bit integer too.
const LOW_BITS: u32 = 14;

/// A rectangle of a resized image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: Size,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

/// The weight of one input, in the forms that vector units multiply fastest.
#[derive(Debug, Clone, Copy)]
struct Weight {
    /// For the column pass: sums of products with pixels are integers below 2^53, so they are exact.
    whole: f64,
    /// For the row pass: the weight is `high * 2^LOW_BITS + low`.
    low: i16,
    high: i16,
}

/// One axis of a resize; computed once per image size.
#[derive(Debug, Default)]
struct Axis {
    /// True if every output is a copy of one input: for nearest, and if the size does not change.
    picks: bool,
    /// First input and number of inputs of each output.
    bounds: Vec<(usize, usize)>,
    /// The weights of all outputs, concatenated.
    weights: Vec<Weight>,
}

/// Resizes images; buffers and weights are reused for images of the same size.
#[derive(Debug)]
pub(super) struct Resampler {
    backend: Backend,
    filter: Filter,
    /// The sizes that the axes are computed for.
    plan: Option<(Size, Window)>,
    columns: Axis,
    rows: Axis,
    /// One input row.
    row: Vec<f64>,
    /// Result of the first pass.
    between: Vec<u8>,
}

impl Resampler {
    pub(super) fn new(backend: Backend, filter: Filter) -> Self {
        let (columns, rows) = (Axis::default(), Axis::default());
        Self { backend, filter, plan: None, columns, rows, row: Vec::new(), between: Vec::new() }
    }

    /// Bytes of weights and buffers for a resize, without `out`.
    pub(super) fn bytes(&self, from: Size, window: &Window) -> u64 {
        const BOUNDS_BYTES: u64 = size_of::<(usize, usize)>() as u64;
        const WEIGHT_BYTES: u64 = size_of::<Weight>() as u64;
        let product = |a: usize, b: usize| (a as u64).saturating_mul(b as u64);
        let axis = |input: usize, output: usize, part: &Range<usize>| {
            let picks = input == output || self.filter == Filter::Nearest;
            let weights = if picks { 0 } else { product(part.len(), taps_max(self.filter, input, output)) };
            weights.saturating_mul(WEIGHT_BYTES).saturating_add(product(part.len(), 1) * BOUNDS_BYTES)
        };
        let between = if from.height == window.size.height || self.filter == Filter::Nearest {
            0
        } else if self.takes_rows_first(from, window.size) {
            product(window.rows.len(), from.width)
        } else {
            product(from.height, window.columns.len())
        };
        let row = product(from.width, 3 * size_of::<f64>());
        let columns = axis(from.width, window.size.width, &window.columns);
        let rows = axis(from.height, window.size.height, &window.rows);
        [columns, rows, row, between.saturating_mul(3)].into_iter().fold(0, u64::saturating_add)
    }

    fn takes_rows_first(&self, from: Size, to: Size) -> bool {
        self.backend == Backend::Pillow && rows_first(from, to)
    }

    /// Fills `out` with the `window` of the RGB image `source` of size `from`, resized.
    pub(super) fn run(&mut self, from: Size, source: &[u8], window: &Window, out: &mut Vec<u8>) {
        if self.plan.as_ref().is_none_or(|plan| (plan.0, &plan.1) != (from, window)) {
            // Frees the old axes first.
            (self.columns, self.rows) = (Axis::default(), Axis::default());
            let axis = |input, output, part: &Range<usize>| {
                let part = part.clone();
                match (self.filter, self.backend) {
                    _ if input == output => Axis::copied(part),
                    (Filter::Nearest, Backend::Pillow) => Axis::nearest_of_pillow(input, output, part),
                    (Filter::Nearest, _) => Axis::nearest_of_torchvision(input, output, part, window.size),
                    _ => Axis::weighted(self.backend, self.filter, (input, output), part),
                }
            };
            let columns = axis(from.width, window.size.width, &window.columns);
            let rows = axis(from.height, window.size.height, &window.rows);
            (self.columns, self.rows) = (columns, rows);
            self.plan = Some((from, window.clone()));
        }
        let (wide, narrow) = (from.width * 3, window.columns.len() * 3);
        fit(out, window.rows.len() * narrow);
        if self.rows.picks {
            for (to, &(at, _)) in out.chunks_exact_mut(narrow).zip(&self.rows.bounds) {
                self.columns.across(&source[at * wide..][..wide], &mut self.row, to);
            }
        } else if self.takes_rows_first(from, window.size) {
            fit(&mut self.between, window.rows.len() * wide);
            self.rows.down(source, 0, wide, &mut self.between);
            for (from, to) in self.between.chunks_exact(wide).zip(out.chunks_exact_mut(narrow)) {
                self.columns.across(from, &mut self.row, to);
            }
        } else {
            let needed = self.rows.inputs();
            fit(&mut self.between, needed.len() * narrow);
            let source = source[needed.start * wide..needed.end * wide].chunks_exact(wide);
            for (from, to) in source.zip(self.between.chunks_exact_mut(narrow)) {
                self.columns.across(from, &mut self.row, to);
            }
            self.rows.down(&self.between, needed.start, narrow, out);
        }
    }
}

/// Resizes `buffer` to `count` values; their content is undefined. A buffer that is too small is replaced, so that it
/// takes no more memory than needed, and not twice that while it grows.
pub(super) fn fit<T: Clone + Default>(buffer: &mut Vec<T>, count: usize) {
    if buffer.capacity() < count {
        *buffer = Vec::new();
        buffer.reserve_exact(count);
    }
    buffer.resize(count, T::default());
}

/// Pillow resizes rows first if the height shrinks by more than twice as many pixels as the width. Since each pass
/// rounds and clips, the order is visible. torchvision always resizes columns first.
fn rows_first(from: Size, to: Size) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let height = shrinks(from.height, to.height);
    height > 0 && height > shrinks(from.width, to.width) * 2
}

impl Axis {
    /// Each of `count` outputs is a copy of one of `inputs`.
    fn picked(count: usize, inputs: impl Iterator<Item = usize>) -> Self {
        let mut bounds = Vec::new();
        bounds.reserve_exact(count);
        bounds.extend(inputs.map(|at| (at, 1)));
        Self { picks: true, bounds, weights: Vec::new() }
    }

    /// Each output is the input at the same position.
    fn copied(window: Range<usize>) -> Self {
        Self::picked(window.len(), window)
    }

    /// Pillow accumulates the step, whose rounding decides ties.
    fn nearest_of_pillow(input: usize, output: usize, window: Range<usize>) -> Self {
        let step = input as f64 / output as f64;
        let steps = std::iter::successors(Some(step * 0.5), |at| Some(at + step));
        let inputs = steps.map(|at| (at as usize).min(input - 1));
        Self::picked(window.len(), inputs.skip(window.start).take(window.len()))
    }

    /// ATen's `nearest-exact`, with the scale in single precision. Outputs of up to 128 rows plus columns use a
    /// vectorised kernel that computes `floor((i + 0.5) * scale)`, larger ones a generic kernel that computes
    /// `floor(fma(i + 0.5, scale, -0.5) + 0.5)`. They differ if a pixel centre is between two inputs.
    fn nearest_of_torchvision(input: usize, output: usize, window: Range<usize>, size: Size) -> Self {
        const SMALL: usize = 128;
        let ratio = input as f32 / output as f32;
        let input_of = |at: usize| {
            // Exact, since both factors have 24 bits.
            let middle = (at as f64 + 0.5) * f64::from(ratio);
            let at =
                if size.width + size.height <= SMALL { middle as f32 } else { ((middle - 0.5) as f32).max(0.0) + 0.5 };
            (at as usize).min(input - 1)
        };
        Self::picked(window.len(), window.map(input_of))
    }

    fn weighted(backend: Backend, filter: Filter, sizes: (usize, usize), window: Range<usize>) -> Self {
        let precision = if backend == Backend::Pillow { Precision::Full } else { Precision::Short };
        let mut axis = Self::default();
        axis.bounds.reserve_exact(window.len());
        axis.weights.reserve_exact(window.len() * taps_max(filter, sizes.0, sizes.1));
        for_each_output(filter, precision, sizes, window, |first, weights| {
            axis.bounds.push((first, weights.len()));
            axis.weights.extend(weights.iter().copied().map(Weight::new));
        });
        axis
    }

    /// The range of inputs that outputs need.
    fn inputs(&self) -> Range<usize> {
        let start = self.bounds.iter().map(|&(first, _)| first).min().unwrap_or(0);
        start..self.bounds.iter().map(|&(first, count)| first + count).max().unwrap_or(start)
    }

    /// First input and weights of each output.
    fn outputs(&self) -> impl Iterator<Item = (usize, &[Weight])> {
        self.bounds.iter().scan(&self.weights[..], |rest, &(first, count)| {
            let (weights, after) = rest.split_at(count);
            *rest = after;
            Some((first, weights))
        })
    }

    /// Resizes one row of pixels; `row` is scratch memory.
    fn across(&self, from: &[u8], row: &mut Vec<f64>, to: &mut [u8]) {
        let to = to.chunks_exact_mut(3);
        if self.picks {
            for (pixel, &(at, _)) in to.zip(&self.bounds) {
                pixel.copy_from_slice(&from[at * 3..at * 3 + 3]);
            }
            return;
        }
        row.clear();
        row.extend(from.iter().map(|&byte| f64::from(byte)));
        let (row, _) = row.as_chunks();
        for (pixel, (first, weights)) in to.zip(self.outputs()) {
            let sums = sums_of_pixels(&row[first..][..weights.len()], weights);
            for (byte, sum) in pixel.iter_mut().zip(sums) {
                *byte = rounded(sum as i32);
            }
        }
    }

    /// Resizes all columns of `width` bytes at once; the first row of `from` is input row `offset`.
    fn down(&self, from: &[u8], offset: usize, width: usize, to: &mut [u8]) {
        for (row, (first, weights)) in to.chunks_exact_mut(width).zip(self.outputs()) {
            let inputs = &from[(first - offset) * width..][..weights.len() * width];
            for start in (0..width).step_by(LANES) {
                // The last block overlaps the previous one instead of exceeding the row.
                let start = start.min(width.saturating_sub(LANES));
                let sums = sums_of_block(inputs, width, start, weights);
                for (byte, sum) in row[start..].iter_mut().zip(sums) {
                    *byte = rounded(sum);
                }
            }
        }
    }
}

impl Weight {
    fn new(weight: i32) -> Self {
        // Rounding keeps the low half of a small weight small, so that its sums cannot overflow.
        let high = (weight + (1 << (LOW_BITS - 1))) >> LOW_BITS;
        let low = weight - (high << LOW_BITS);
        Self { whole: f64::from(weight), low: low as i16, high: high as i16 }
    }
}

/// Weighted sums of red, green and blue over the pixels of a row.
#[inline]
fn sums_of_pixels(pixels: &[[f64; 3]], weights: &[Weight]) -> [f64; 3] {
    // Several accumulators, so that additions do not wait for each other.
    const CHAINS: usize = 2;
    let mut sums = [[0.0; 3]; CHAINS];
    let (pixels, last_pixels) = pixels.as_chunks::<CHAINS>();
    let (weights, last_weights) = weights.as_chunks::<CHAINS>();
    for (pixels, weights) in pixels.iter().zip(weights) {
        for chain in 0..CHAINS {
            for lane in 0..3 {
                sums[chain][lane] += pixels[chain][lane] * weights[chain].whole;
            }
        }
    }
    for (chain, (pixel, weight)) in last_pixels.iter().zip(last_weights).enumerate() {
        for lane in 0..3 {
            sums[chain][lane] += pixel[lane] * weight.whole;
        }
    }
    std::array::from_fn(|lane| sums.iter().map(|sum| sum[lane]).sum())
}

/// Weighted sums over the rows of `inputs`, for the bytes from `start` on.
#[inline]
fn sums_of_block(inputs: &[u8], width: usize, start: usize, weights: &[Weight]) -> [i32; LANES] {
    let (mut low, mut high) = ([0_i32; LANES], [0_i32; LANES]);
    for (row, weight) in inputs.chunks_exact(width).zip(weights) {
        let block = match row[start..].first_chunk::<LANES>() {
            Some(&block) => block,
            None => std::array::from_fn(|lane| row.get(start + lane).copied().unwrap_or(0)),
        };
        for lane in 0..LANES {
            low[lane] = low[lane].wrapping_add(i32::from(block[lane]) * i32::from(weight.low));
        }
        for lane in 0..LANES {
            high[lane] = high[lane].wrapping_add(i32::from(block[lane]) * i32::from(weight.high));
        }
    }
    std::array::from_fn(|lane| low[lane].wrapping_add(high[lane] << LOW_BITS))
}

/// Converts a fixed-point sum to a pixel value: Pillow's `clip8`.
#[inline]
fn rounded(sum: i32) -> u8 {
    (sum.wrapping_add(HALF) >> FRACTION_BITS).clamp(0, 255) as u8
}
