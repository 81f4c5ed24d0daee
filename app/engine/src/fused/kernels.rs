//! The inner loops: one table of functions for each instruction set, chosen at run time.
//!
//! All instruction sets compute the same: integer sums are equal to the last bit, floats up to the rounding of a fused
//! multiply-add. [`scalar`] is the portable implementation that tests compare each of them with.
//!
//! An int8 linear layer is `y[r][c] = (sum_k (q[r][k] - z[r]) w[k][c]) s[r] t[c] + b[c]`, where `q` (0 to 255), the zero
//! point `z` and the scale `s` belong to a row of activations, and the weights `w` (-127 to 127) and their scale `t` to
//! an output channel. Since `sum_k z[r] w[k][c]` is `z[r]` times a precomputed sum, only `q w` is accumulated.
//!
//! Adding a kernel: write a file with a `KERNELS` table beside `scalar.rs`, push it in [`Kernels::available`] behind a test
//! for its CPU features, give it a peak measurement in `peak.rs`, and name it in `heads.rs`. The tests run every available
//! table.
#![allow(unsafe_code, reason = "intrinsics")]

mod depthwise;
mod fma;
mod heads;
mod packed;
mod peak;
mod pool;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod dotprod;
#[cfg(target_arch = "aarch64")]
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod pairs;

pub(crate) use depthwise::DepthwiseRow;
pub(crate) use heads::{HEAD_DIM_MAX, scale_of};
pub(crate) use packed::{Layout, Matrix, PackedF32, PackedI8, QuantizedRows, signed};
pub(crate) use pool::{Pool, lock};
pub(crate) use rows::{Activation, LAPLACE};

use std::sync::LazyLock;

/// Arguments of an int8 panel kernel. [`Kernels::panel_i8`] checks all bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileI8 {
    /// Row `r` starts at `a + r * a_stride`; `blocks * k_tile` bytes of it may be read.
    a: *const u8,
    a_stride: usize,
    rows: usize,
    /// One scale per row.
    scales: *const f32,
    /// One zero point per row; less 128 if the instruction set takes signed activations.
    zero_points: *const i32,
    /// `[blocks][nr][k_tile]`.
    panel: *const i8,
    blocks: usize,
    /// What was taken off the weights of the panel; null if nothing was and pairs may be of any size.
    #[cfg(target_arch = "x86_64")]
    surplus: *const packed::Surplus,
    /// The panel that is likely to be needed next, of the same size: a prefetch hint, never read.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(dead_code))]
    next: *const i8,
    /// `nr` values each: sum of the channel's weights, its scale, its bias.
    sums: *const i32,
    weight_scales: *const f32,
    bias: *const f32,
    /// Row `r` starts at `out + r * out_stride`; `width` values of it are written.
    out: *mut f32,
    out_stride: usize,
    /// 1 to `nr`.
    width: usize,
    /// True if `out` is incremented instead of overwritten.
    accumulate: bool,
}

/// Arguments of a float panel kernel: `out = a panel + bias`. [`Kernels::panel_f32`] checks all bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileF32 {
    /// Row `r` starts at `a + r * a_stride`; `inputs` values of it are read.
    a: *const f32,
    a_stride: usize,
    rows: usize,
    /// `[inputs][nr]`.
    panel: *const f32,
    inputs: usize,
    /// `nr` values.
    bias: *const f32,
    /// Row `r` starts at `out + r * out_stride`; `width` values of it are written.
    out: *mut f32,
    out_stride: usize,
    /// 1 to `nr`.
    width: usize,
    /// True if `out` is incremented instead of overwritten.
    accumulate: bool,
}

/// Row, gamma, beta, epsilon, result.
type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// The functions of one instruction set.
pub(crate) struct Kernels {
    /// `scalar`, `avx2`, `avxvnni`, `avx512vnni`, `neon`, `dotprod` or `i8mm`.
    pub(crate) name: &'static str,
    /// Memory layout of int8 weights.
    pub(crate) layout_i8: Layout,
    /// Memory layout of float weights; `k_tile` is 1.
    pub(crate) layout_f32: Layout,
    /// True if activations are stored less 128, as signed bytes.
    signed: bool,
    panel_i8: unsafe fn(&TileI8),
    panel_f32: unsafe fn(&TileF32),
    quantize: unsafe fn(&[f32], &mut [u8]) -> (f32, i32),
    layer_norm: LayerNorm,
    softmax: unsafe fn(&mut [f32]) -> f32,
    activate: unsafe fn(Activation, &mut [f32], usize, usize),
    /// Computes the exponentials of scores as bytes.
    softmax_u8: unsafe fn(&mut [f32], &mut [u8]) -> f32,
    /// Rows, vector, result.
    dots: unsafe fn(&[f32], &[f32], &mut [f32]),
    depthwise: unsafe fn(&DepthwiseRow<'_>, &mut [f32]),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kernels {
    /// The fastest kernels that this CPU runs, looked for once.
    pub(crate) fn best() -> &'static Self {
        static BEST: LazyLock<&Kernels> = LazyLock::new(|| Kernels::available().pop().unwrap_or(&scalar::KERNELS));
        *BEST
    }

    /// All kernels that this CPU runs, slowest first.
    pub(crate) fn available() -> Vec<&'static Self> {
        #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_mut))]
        let mut all = vec![&scalar::KERNELS];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(&avx2::KERNELS);
                if is_x86_feature_detected!("avxvnni") {
                    all.push(&avxvnni::KERNELS);
                }
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("fma")
            {
                all.push(&avx512::KERNELS);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            all.push(&neon::KERNELS);
            if is_aarch64_feature_detected!("dotprod") {
                all.push(&dotprod::KERNELS);
            }
            if is_aarch64_feature_detected!("i8mm") {
                all.push(&i8mm::KERNELS);
            }
        }
        all
    }

    /// One panel of an int8 linear layer for all rows of `a`: columns `panel * nr ..` of the result go to `out`,
    /// whose row `r` starts at `r * stride`.
    ///
    /// # Panics
    /// If a slice is too short or `weights` has another layout.
    pub(crate) fn panel_i8(
        &self,
        a: &QuantizedRows<'_>,
        weights: &PackedI8,
        panel: usize,
        out: &mut [f32],
        stride: usize,
        accumulate: bool,
    ) {
        let Layout { nr, k_tile } = self.layout_i8;
        assert!(weights.layout == self.layout_i8 && panel < weights.panels());
        let (rows, blocks) = (a.scales.len(), weights.inputs.div_ceil(k_tile));
        let first = panel * nr;
        let width = nr.min(weights.outputs - first);
        if rows == 0 {
            return;
        }
        assert!(a.zero_points.len() == rows && a.stride >= blocks * k_tile && a.values.len() >= rows * a.stride);
        assert!(out.len() >= (rows - 1) * stride + first + width && (rows == 1 || stride >= first + width));
        let tile = TileI8 {
            a: a.values.as_ptr(),
            a_stride: a.stride,
            rows,
            scales: a.scales.as_ptr(),
            zero_points: a.zero_points.as_ptr(),
            panel: weights.panel(panel).as_ptr(),
            blocks,
            #[cfg(target_arch = "x86_64")]
            surplus: weights.surplus.get(panel).and_then(Option::as_ref).map_or(std::ptr::null(), std::ptr::from_ref),
            next: weights.panel((panel + 1) % weights.panels()).as_ptr(),
            sums: weights.sums[first..first + nr].as_ptr(),
            weight_scales: weights.scales[first..first + nr].as_ptr(),
            bias: weights.bias[first..first + nr].as_ptr(),
            out: out[first..].as_mut_ptr(),
            out_stride: stride,
            width,
            accumulate,
        };
        // SAFETY: the asserts above are the contract of `TileI8`, and this table is only reachable on a CPU that has
        // its instructions.
        unsafe { (self.panel_i8)(&tile) }
    }

    /// One panel of a float matrix product for `rows` rows of `a`, whose row `r` starts at `r * a_stride`: columns
    /// `panel * nr ..` of the result go to `out`, whose row `r` starts at `r * stride`.
    ///
    /// # Panics
    /// If a slice is too short or `weights` has another layout.
    #[allow(clippy::too_many_arguments, reason = "two matrices with their strides, as in BLAS")]
    pub(crate) fn panel_f32(
        &self,
        a: &[f32],
        a_stride: usize,
        rows: usize,
        weights: &PackedF32,
        panel: usize,
        out: &mut [f32],
        stride: usize,
        accumulate: bool,
    ) {
        let nr = self.layout_f32.nr;
        assert!(weights.layout == self.layout_f32 && panel < weights.panels());
        let inputs = weights.inputs;
        let first = panel * nr;
        let width = nr.min(weights.outputs - first);
        if rows == 0 {
            return;
        }
        assert!(a.len() >= (rows - 1) * a_stride + inputs);
        assert!(out.len() >= (rows - 1) * stride + first + width && (rows == 1 || stride >= first + width));
        let tile = TileF32 {
            a: a.as_ptr(),
            a_stride,
            rows,
            panel: weights.panel(panel).as_ptr(),
            inputs,
            bias: weights.bias[first..first + nr].as_ptr(),
            out: out[first..].as_mut_ptr(),
            out_stride: stride,
            width,
            accumulate,
        };
        // SAFETY: the asserts above are the contract of `TileF32`, and this table is only reachable on a CPU that has
        // its instructions.
        unsafe { (self.panel_f32)(&tile) }
    }

    /// Quantises one row of activations; returns its scale and zero point. Bytes of `out` after the row become 0.
    ///
    /// The range always includes 0, which is exact: `scale = (max - min) / 255`, `zero_point = round(-min / scale)`,
    /// `q = round(x / scale) + zero_point`, rounding half to even. The scale of a row that is not finite is NaN.
    pub(crate) fn quantize(&self, row: &[f32], out: &mut [u8]) -> (f32, i32) {
        assert!(out.len() >= row.len());
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        let (scale, zero_point) = unsafe { (self.quantize)(row, out) };
        (scale, if self.signed { zero_point - 128 } else { zero_point })
    }

    /// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over one row.
    pub(crate) fn layer_norm(&self, row: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
        assert!(gamma.len() == row.len() && beta.len() == row.len() && out.len() == row.len());
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        unsafe { (self.layer_norm)(row, gamma, beta, epsilon, out) }
    }

    /// Replaces each score by `exp(score - largest)` and returns their sum.
    pub(crate) fn softmax_numerators(&self, row: &mut [f32]) -> f32 {
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        unsafe { (self.softmax)(row) }
    }

    /// `round(255 exp(score - largest))` as bytes (less 128 if activations are signed) and their sum divided by 255. Bytes
    /// of `out` after the row become 0.
    pub(crate) fn softmax_bytes(&self, row: &mut [f32], out: &mut [u8]) -> f32 {
        assert!(out.len() >= row.len());
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        unsafe { (self.softmax_u8)(row, out) }
    }

    /// The zero point of the bytes of [`Self::softmax_bytes`].
    pub(crate) fn softmax_zero_point(&self) -> i32 {
        if self.signed { -128 } else { 0 }
    }

    /// The dot product of each row with `vector`, which is as long as a row.
    pub(crate) fn dots(&self, rows: &[f32], vector: &[f32], out: &mut [f32]) {
        assert!(rows.len() == vector.len() * out.len() && !vector.is_empty());
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        unsafe { (self.dots)(rows, vector, out) }
    }

    /// One row of a depthwise convolution, `[width][channels]`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub(crate) fn depthwise(&self, row: &DepthwiseRow<'_>, out: &mut [f32]) {
        row.check(out);
        // SAFETY: the slices have the lengths that `DepthwiseRow` requires, and this table is only reachable on a CPU that
        // has its instructions.
        unsafe { (self.depthwise)(row, out) }
    }

    /// Applies `activation` to the first `width` values of each row, the rows starting `stride` values apart.
    pub(crate) fn activate(&self, activation: Activation, values: &mut [f32], width: usize, stride: usize) {
        assert!(stride >= width && stride > 0);
        // SAFETY: this table is only reachable on a CPU that has its instructions.
        unsafe { (self.activate)(activation, values, width, stride) }
    }
}
