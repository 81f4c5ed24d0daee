//! One row of a depthwise convolution over a map of floats whose channels lie side by side.
//!
//! Written in plain Rust for each instruction set, as `rows.rs` is. Channels are taken sixteen at a time, and four results
//! side by side share the loads of their weights.

use super::fma::fma;

/// Channels that are computed together.
const LANES: usize = 16;

/// Results of a row that are computed together.
const ACROSS: usize = 4;

/// Arguments: `out[x][c] = bias[c] + sum weights[i][j][c] input[i][x * stride + j - before][c]`, over the `i` and `j`
/// that lie within the input. [`super::Kernels::depthwise`] checks all bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DepthwiseRow<'a> {
    /// The rows of the input that the window meets, `[rows][width][channels]`.
    pub(crate) input: &'a [f32],
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// The weights that meet them, `[rows][kernel_width][channels]`.
    pub(crate) weights: &'a [f32],
    pub(crate) kernel_width: usize,
    pub(crate) bias: &'a [f32],
    /// Columns of the input from one result to the next.
    pub(crate) stride: usize,
    /// Columns of zeros on the left.
    pub(crate) before: usize,
}

impl DepthwiseRow<'_> {
    fn rows(&self) -> usize {
        self.input.len() / (self.width * self.channels).max(1)
    }

    /// Panics unless all slices have their lengths.
    pub(super) fn check(&self, out: &[f32]) {
        let (rows, channels) = (self.rows(), self.channels);
        assert!(channels > 0 && self.width > 0 && self.kernel_width > 0 && self.stride > 0);
        assert!(self.input.len() == rows * self.width * channels && self.bias.len() == channels);
        assert!(self.weights.len() == rows * self.kernel_width * channels && out.len().is_multiple_of(channels));
    }
}

/// Computes one row of results.
///
/// # Safety
/// [`DepthwiseRow::check`] holds.
#[inline(always)]
pub(super) unsafe fn row<const FMA: bool>(row: &DepthwiseRow<'_>, out: &mut [f32]) {
    // SAFETY: as this function's. What occurs most is constant, so that its loops are unrolled.
    unsafe {
        match (row.kernel_width, row.stride) {
            (3, 1) => results::<FMA, 3, 1>(row, out),
            (3, 2) => results::<FMA, 3, 2>(row, out),
            (5, 1) => results::<FMA, 5, 1>(row, out),
            (5, 2) => results::<FMA, 5, 2>(row, out),
            _ => results::<FMA, 0, 0>(row, out),
        }
    }
}

/// All results of a row, for windows of `K` columns that are `S` columns apart, or of any number if `K` is 0.
#[inline(always)]
unsafe fn results<const FMA: bool, const K: usize, const S: usize>(row: &DepthwiseRow<'_>, out: &mut [f32]) {
    let count = out.len() / row.channels;
    // Results from `first` to `end` lie within the input with all columns of the window.
    let first = row.before.div_ceil(row.stride).min(count);
    let fitting = (row.width + row.before).checked_sub(row.kernel_width).map_or(0, |room| room / row.stride + 1);
    let end = fitting.clamp(first, count);
    let whole = (0, row.kernel_width);
    // SAFETY: as this function's; the columns of a result within the input are within its row.
    unsafe {
        let mut x = 0;
        while x < count {
            let within = if x >= first { end.saturating_sub(x) } else { 0 };
            if within >= ACROSS {
                channels::<FMA, ACROSS, K, S>(row, x, whole, out);
                x += ACROSS;
            } else if within > 0 && x >= first + ACROSS - within {
                // Some results once more, which costs less than the others one by one.
                channels::<FMA, ACROSS, K, S>(row, end - ACROSS, whole, out);
                x = end;
            } else if within >= 2 {
                channels::<FMA, 2, K, S>(row, x, whole, out);
                x += 2;
            } else {
                let at = x * row.stride;
                let from = row.before.saturating_sub(at).min(row.kernel_width);
                let to = (row.width + row.before).saturating_sub(at).clamp(from, row.kernel_width);
                channels::<FMA, 1, 0, 0>(row, x, (from, to), out);
                x += 1;
            }
        }
    }
}

/// All channels of `N` results from `x` on, with the columns `from` to `to` of the window.
#[inline(always)]
unsafe fn channels<const FMA: bool, const N: usize, const K: usize, const S: usize>(
    row: &DepthwiseRow<'_>,
    x: usize,
    columns: (usize, usize),
    out: &mut [f32],
) {
    let mut channel = 0;
    // SAFETY: as the caller's; `channel` and what is computed from it on are below the number of channels.
    unsafe {
        while channel + LANES <= row.channels {
            if K > 0 {
                across::<FMA, N, LANES, K, S>(row, x, channel, out);
            } else {
                lanes::<FMA, N, LANES>(row, x, columns, channel, out);
            }
            channel += LANES;
        }
        if channel + 8 <= row.channels {
            lanes::<FMA, N, 8>(row, x, columns, channel, out);
            channel += 8;
        }
        while channel < row.channels {
            lanes::<FMA, N, 1>(row, x, columns, channel, out);
            channel += 1;
        }
    }
}

#[inline(always)]
unsafe fn lanes<const FMA: bool, const N: usize, const L: usize>(
    row: &DepthwiseRow<'_>,
    x: usize,
    (from, to): (usize, usize),
    channel: usize,
    out: &mut [f32],
) {
    let (channels, line) = (row.channels, row.width * row.channels);
    let stride = row.stride * channels;
    // SAFETY: the caller promises that columns `from` to `to` of the window lie within the input for all N results.
    unsafe {
        let bias = load::<L>(row.bias.as_ptr().wrapping_add(channel));
        let mut sums = [bias; N];
        // Never left of the row, since `from` is where it begins.
        let mut input = row.input.as_ptr().add((x * row.stride + from - row.before) * channels + channel);
        let mut weights = row.weights.as_ptr().add(from * channels + channel);
        for _ in 0..row.rows() {
            for j in 0..to - from {
                let weights = load::<L>(weights.add(j * channels));
                for (n, sums) in sums.iter_mut().enumerate() {
                    let input = load::<L>(input.add(n * stride + j * channels));
                    for l in 0..L {
                        sums[l] = fma::<FMA>(input[l], weights[l], sums[l]);
                    }
                }
            }
            input = input.wrapping_add(line);
            weights = weights.wrapping_add(row.kernel_width * channels);
        }
        for (n, sums) in sums.iter().enumerate() {
            out.as_mut_ptr().add((x + n) * channels + channel).cast::<[f32; L]>().write_unaligned(*sums);
        }
    }
}

/// As [`lanes`] for windows that lie within the input: each column of it is loaded once, for all results that it is part of.
#[inline(always)]
unsafe fn across<const FMA: bool, const N: usize, const L: usize, const K: usize, const S: usize>(
    row: &DepthwiseRow<'_>,
    x: usize,
    channel: usize,
    out: &mut [f32],
) {
    let (channels, line) = (row.channels, row.width * row.channels);
    // SAFETY: the caller promises that the windows of all N results lie within the input.
    unsafe {
        let bias = load::<L>(row.bias.as_ptr().wrapping_add(channel));
        let mut sums = [bias; N];
        let mut input = row.input.as_ptr().add((x * S - row.before) * channels + channel);
        let mut weights = row.weights.as_ptr().add(channel);
        for _ in 0..row.rows() {
            let line_weights: [[f32; L]; K] = std::array::from_fn(|j| load::<L>(weights.add(j * channels)));
            let mut pixel = input;
            for column in 0..(N - 1) * S + K {
                let values = load::<L>(pixel);
                pixel = pixel.wrapping_add(channels);
                for (n, sums) in sums.iter_mut().enumerate() {
                    if column >= n * S && column - n * S < K {
                        for l in 0..L {
                            sums[l] = fma::<FMA>(values[l], line_weights[column - n * S][l], sums[l]);
                        }
                    }
                }
            }
            input = input.wrapping_add(line);
            weights = weights.wrapping_add(K * channels);
        }
        for (n, sums) in sums.iter().enumerate() {
            out.as_mut_ptr().add((x + n) * channels + channel).cast::<[f32; L]>().write_unaligned(*sums);
        }
    }
}

#[inline(always)]
unsafe fn load<const L: usize>(from: *const f32) -> [f32; L] {
    // SAFETY: the caller promises L values there.
    unsafe { from.cast::<[f32; L]>().read_unaligned() }
}
