//! 64-bit ARM with nothing but NEON (Cortex-A53, A57, A72).
//!
//! Products of two pairs of bytes are added in 16 bits, which cannot overflow since activations are signed (-128 to 127)
//! and weights at least -127: `2 * 128 * 127 < 2^15`. `sadalp` then adds neighbours to 32 bits. The other ARM kernels share
//! the float kernel and the conversion of sums to results.

use std::arch::aarch64::*;
use std::arch::asm;

use super::rows::row_functions;
use super::{Kernels, Layout, TileF32, TileI8};

pub(super) static KERNELS: Kernels = TABLE;

/// The other ARM instances differ only in the int8 kernel.
pub(super) const TABLE: Kernels = Kernels {
    name: "neon",
    layout_i8: Layout { nr: NR, k_tile: K_TILE },
    layout_f32: Layout { nr: NR, k_tile: 1 },
    signed: true,
    panel_i8,
    panel_f32,
    quantize,
    layer_norm,
    softmax,
    activate,
    softmax_u8,
    dots,
    depthwise,
};

row_functions!(true, true, "neon");

/// Columns of a panel, for all ARM kernels. A tile works on four or eight of them at a time; its rows stay in the L1 cache
/// for the rest.
pub(super) const NR: usize = 16;
const K_TILE: usize = 16;
/// Rows of a tile. With four columns they need 16 registers for sums, which leaves 16 for operands and products.
const MR: usize = 4;

/// Rows of a float tile. With eight columns there are 16 accumulators, enough to hide the latency of `fmla`.
const MR_F32: usize = 8;

/// Calls `f` with the first row and the number of rows of each group of at most `most` rows. The groups are as even as
/// possible, since a small one is bound by latency.
#[inline(always)]
pub(super) fn groups(rows: usize, most: usize, mut f: impl FnMut(usize, usize)) {
    let mut first = 0;
    for left in (1..=rows.div_ceil(most)).rev() {
        let count = (rows - first).div_ceil(left);
        f(first, count);
        first += count;
    }
}

/// `count` rows of a tile from `first` on.
pub(super) fn rows_i8(tile: &TileI8, first: usize, count: usize) -> TileI8 {
    TileI8 {
        a: tile.a.wrapping_add(first * tile.a_stride),
        rows: count,
        scales: tile.scales.wrapping_add(first),
        zero_points: tile.zero_points.wrapping_add(first),
        out: tile.out.wrapping_add(first * tile.out_stride),
        ..*tile
    }
}

/// Prefetches the next panel while the current one is computed. Otherwise the first rows of each panel would wait for
/// memory, which would be idle during the others.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// An address that is never read from.
    next: usize,
    stride: usize,
}

impl Ahead {
    /// Prefetches `bytes` bytes at `next` in equal parts over `steps` calls of [`Self::step`].
    pub(super) fn new(next: usize, bytes: usize, steps: usize) -> Self {
        Self { next, stride: bytes.div_ceil(steps.max(1)).min(64) }
    }

    #[inline(always)]
    pub(super) fn step(&mut self) {
        // SAFETY: a hint, which never faults.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) self.next, options(nomem, nostack, preserves_flags));
        }
        self.next += self.stride;
    }
}

/// Writes or adds the first `width` values of one row of results.
#[inline(always)]
unsafe fn store<const C: usize>(out: *mut f32, values: [float32x4_t; C], width: usize, accumulate: bool) {
    // SAFETY: the caller promises `width` values at `out`.
    unsafe {
        if width < 4 * C {
            // A copy, so that the values can stay in registers in the other branch.
            let values = values.map(|value| value);
            return store_some(out, values.as_ptr().cast(), width, accumulate);
        }
        for (c, value) in values.iter().enumerate() {
            let out = out.add(4 * c);
            vst1q_f32(out, if accumulate { vaddq_f32(vld1q_f32(out), *value) } else { *value });
        }
    }
}

/// The rare case of [`store`].
#[cold]
#[inline(never)]
unsafe fn store_some(out: *mut f32, values: *const f32, width: usize, accumulate: bool) {
    // SAFETY: the caller promises `width` values at both.
    unsafe {
        for i in 0..width {
            let value = *values.add(i);
            let out = out.add(i);
            *out = if accumulate { *out + value } else { value };
        }
    }
}

/// Sums of one row for all columns of a panel.
pub(super) type Sums = [int32x4_t; NR / 4];

/// Converts sums of `inputs` products to results, one element of `sums` per row.
///
/// # Safety
/// The contract of [`TileI8`], which has at least as many rows as `sums`.
pub(super) unsafe fn finish(tile: &TileI8, inputs: usize, sums: &[Sums]) {
    // SAFETY: as this function's.
    unsafe {
        // Up to 1024 times 128 * 127 is less than 2^24.
        if inputs <= 1024 { finish_rows::<true>(tile, sums) } else { finish_rows::<false>(tile, sums) }
    }
}

/// If all sums are `SMALL`, they and the zero point terms are exact as floats, and their difference is rounded once, as the
/// conversion of an integer difference to float would be. The results are equal to the last bit, and no integer
/// multiplication is needed, which takes four times as long.
#[inline(never)]
unsafe fn finish_rows<const SMALL: bool>(tile: &TileI8, sums: &[Sums]) {
    // SAFETY: within the bounds that `TileI8` promises; channels have values for whole panels.
    unsafe {
        let (mut shares, mut scales, mut bias) = ([vdupq_n_s32(0); 4], [vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
        for c in 0..4 {
            shares[c] = vld1q_s32(tile.sums.add(4 * c));
            scales[c] = vld1q_f32(tile.weight_scales.add(4 * c));
            bias[c] = vld1q_f32(tile.bias.add(4 * c));
        }
        let mut out = tile.out;
        for (r, sums) in sums.iter().enumerate() {
            let (zero, scale) = (*tile.zero_points.add(r), *tile.scales.add(r));
            let values = std::array::from_fn::<_, 4, _>(|c| {
                let value = if SMALL {
                    vfmsq_n_f32(vcvtq_f32_s32(sums[c]), vcvtq_f32_s32(shares[c]), zero as f32)
                } else {
                    vcvtq_f32_s32(vmlsq_n_s32(sums[c], shares[c], zero))
                };
                vfmaq_f32(bias[c], value, vmulq_n_f32(scales[c], scale))
            });
            store(out, values, tile.width, tile.accumulate);
            out = out.wrapping_add(tile.out_stride);
        }
    }
}

unsafe fn panel_i8(tile: &TileI8) {
    let steps = tile.rows.div_ceil(MR) * tile.width.div_ceil(4) * tile.blocks;
    let mut ahead = Ahead::new(tile.next.addr(), tile.blocks * NR * K_TILE, steps);
    groups(tile.rows, MR, |first, count| {
        let rows = rows_i8(tile, first, count);
        // SAFETY: the contract of `TileI8`, handed on for each group of rows.
        unsafe {
            ahead = match count {
                1 => tile_i8::<1>(&rows, ahead),
                2 => tile_i8::<2>(&rows, ahead),
                3 => tile_i8::<3>(&rows, ahead),
                _ => tile_i8::<4>(&rows, ahead),
            };
        }
    });
}

#[target_feature(enable = "neon")]
unsafe fn tile_i8<const R: usize>(tile: &TileI8, mut ahead: Ahead) -> Ahead {
    // SAFETY: the contract of `TileI8`; a panel has 256 bytes for each block of 16 inputs.
    unsafe {
        let mut done: [Sums; R] = [[vdupq_n_s32(0); 4]; R];
        for quarter in 0..tile.width.div_ceil(4) {
            let mut sums = [[vdupq_n_s32(0); 4]; R];
            let (mut a, mut w) = (tile.a.cast::<i8>(), tile.panel.add(quarter * 4 * K_TILE));
            for _ in 0..tile.blocks {
                let ws = [vld1q_s8(w), vld1q_s8(w.add(16)), vld1q_s8(w.add(32)), vld1q_s8(w.add(48))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let q = vld1q_s8(a.add(r * tile.a_stride));
                    for (sum, w) in sums.iter_mut().zip(ws) {
                        let products = vmull_s8(vget_low_s8(q), vget_low_s8(w));
                        *sum = vpadalq_s16(*sum, vmlal_high_s8(products, q, w));
                    }
                }
                a = a.add(K_TILE);
                w = w.add(NR * K_TILE);
                ahead.step();
            }
            for (done, [a, b, c, d]) in done.iter_mut().zip(sums) {
                done[quarter] = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            }
        }
        finish(tile, tile.blocks * K_TILE, &done);
    }
    ahead
}

unsafe fn panel_f32(tile: &TileF32) {
    let steps = tile.rows.div_ceil(MR_F32) * tile.width.div_ceil(8) * (tile.inputs / 4);
    let bytes = tile.inputs * NR * 4;
    let mut ahead = Ahead::new(tile.panel.addr() + bytes, bytes, steps);
    groups(tile.rows, MR_F32, |first, count| {
        let rows = TileF32 {
            a: tile.a.wrapping_add(first * tile.a_stride),
            rows: count,
            out: tile.out.wrapping_add(first * tile.out_stride),
            ..*tile
        };
        // SAFETY: the contract of `TileF32`, handed on for each group of rows.
        unsafe {
            ahead = match count {
                1 => tile_f32::<1>(&rows, ahead),
                2 => tile_f32::<2>(&rows, ahead),
                3 => tile_f32::<3>(&rows, ahead),
                4 => tile_f32::<4>(&rows, ahead),
                5 => tile_f32::<5>(&rows, ahead),
                6 => tile_f32::<6>(&rows, ahead),
                7 => tile_f32::<7>(&rows, ahead),
                _ => tile_f32::<8>(&rows, ahead),
            };
        }
    });
}

#[target_feature(enable = "neon")]
unsafe fn tile_f32<const R: usize>(tile: &TileF32, mut ahead: Ahead) -> Ahead {
    // SAFETY: the contract of `TileF32`; a panel has 16 floats for each input.
    unsafe {
        for column in (0..tile.width).step_by(8) {
            let bias = [vld1q_f32(tile.bias.add(column)), vld1q_f32(tile.bias.add(column + 4))];
            let mut sums = [bias; R];
            let (mut a, mut w) = (tile.a, tile.panel.add(column));
            for _ in 0..tile.inputs / 4 {
                let xs: [float32x4_t; R] = std::array::from_fn(|r| vld1q_f32(a.add(r * tile.a_stride)));
                inputs_f32::<0, R>(&mut sums, &xs, w);
                inputs_f32::<1, R>(&mut sums, &xs, w);
                inputs_f32::<2, R>(&mut sums, &xs, w);
                inputs_f32::<3, R>(&mut sums, &xs, w);
                a = a.add(4);
                w = w.add(4 * NR);
                ahead.step();
            }
            for _ in 0..tile.inputs % 4 {
                let xs: [float32x4_t; R] = std::array::from_fn(|r| vdupq_n_f32(*a.add(r * tile.a_stride)));
                inputs_f32::<0, R>(&mut sums, &xs, w);
                a = a.add(1);
                w = w.add(NR);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                let out = tile.out.add(r * tile.out_stride + column);
                store(out, sums, tile.width - column, tile.accumulate);
            }
        }
    }
    ahead
}

/// Adds the products of lane `I` of each row's inputs with eight columns of input `I` from `w` on.
#[inline(always)]
unsafe fn inputs_f32<const I: i32, const R: usize>(
    sums: &mut [[float32x4_t; 2]; R],
    xs: &[float32x4_t; R],
    w: *const f32,
) {
    // SAFETY: the caller promises that this input's columns may be read.
    unsafe {
        let w = w.add(I as usize * NR);
        let (w0, w1) = (vld1q_f32(w), vld1q_f32(w.add(4)));
        for (sum, x) in sums.iter_mut().zip(xs) {
            sum[0] = vfmaq_laneq_f32::<I>(sum[0], w0, *x);
            sum[1] = vfmaq_laneq_f32::<I>(sum[1], w1, *x);
        }
    }
}
