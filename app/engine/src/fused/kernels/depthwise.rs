//! One row of a depthwise convolution over a map of floats whose channels lie side by side.
//!
//! Written in plain Rust for each instruction set, as `rows.rs` is. Channels are taken sixteen at a time, and four results
//! side by side share the loads of their weights.

use super::rows::fma;

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
    let count = out.len() / row.channels;
    // Results from `first` to `end` lie within the input with all columns of the window.
    let first = row.before.div_ceil(row.stride).min(count);
    let fitting = (row.width + row.before).checked_sub(row.kernel_width).map_or(0, |room| room / row.stride + 1);
    let end = fitting.clamp(first, count);
    // SAFETY: as this function's; the columns of a result within the input are within its row.
    unsafe {
        let mut x = 0;
        while x < count {
            if x >= first && x + ACROSS <= end {
                channels::<FMA, ACROSS>(row, x, 0, row.kernel_width, out);
                x += ACROSS;
            } else {
                let at = x * row.stride;
                let from = row.before.saturating_sub(at).min(row.kernel_width);
                let to = (row.width + row.before).saturating_sub(at).clamp(from, row.kernel_width);
                channels::<FMA, 1>(row, x, from, to, out);
                x += 1;
            }
        }
    }
}

/// All channels of `N` results from `x` on, with the columns `from` to `to` of the window.
#[inline(always)]
unsafe fn channels<const FMA: bool, const N: usize>(
    row: &DepthwiseRow<'_>,
    x: usize,
    from: usize,
    to: usize,
    out: &mut [f32],
) {
    let mut channel = 0;
    // SAFETY: as the caller's; `channel` and what is computed from it on are below the number of channels.
    unsafe {
        while channel + LANES <= row.channels {
            lanes::<FMA, N, LANES>(row, x, from, to, channel, out);
            channel += LANES;
        }
        if channel + 8 <= row.channels {
            lanes::<FMA, N, 8>(row, x, from, to, channel, out);
            channel += 8;
        }
        while channel < row.channels {
            lanes::<FMA, N, 1>(row, x, from, to, channel, out);
            channel += 1;
        }
    }
}

#[inline(always)]
unsafe fn lanes<const FMA: bool, const N: usize, const L: usize>(
    row: &DepthwiseRow<'_>,
    x: usize,
    from: usize,
    to: usize,
    channel: usize,
    out: &mut [f32],
) {
    let (stride, line) = (row.stride * row.channels, row.width * row.channels);
    // SAFETY: the caller promises that columns `from` to `to` of the window lie within the input for all N results.
    unsafe {
        let bias = load::<L>(row.bias.as_ptr().wrapping_add(channel));
        let mut sums = [bias; N];
        for i in 0..row.rows() {
            for j in from..to {
                let weights = row.weights.as_ptr().add((i * row.kernel_width + j) * row.channels + channel);
                let weights = load::<L>(weights);
                // Never left of the row, since `from` is where it begins.
                let column = x * row.stride + j - row.before;
                let input = row.input.as_ptr().add(i * line + column * row.channels + channel);
                for (n, sums) in sums.iter_mut().enumerate() {
                    let input = load::<L>(input.add(n * stride));
                    for l in 0..L {
                        sums[l] = fma::<FMA>(input[l], weights[l], sums[l]);
                    }
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            out.as_mut_ptr().add((x + n) * row.channels + channel).cast::<[f32; L]>().write_unaligned(*sums);
        }
    }
}

#[inline(always)]
unsafe fn load<const L: usize>(from: *const f32) -> [f32; L] {
    // SAFETY: the caller promises L values there.
    unsafe { from.cast::<[f32; L]>().read_unaligned() }
}
