//! 64-bit ARM with the dot product extension (Cortex-A76, A78AE): `sdot` multiplies signed bytes and adds four products
//! to 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Ahead, NR, Sums, TABLE, finish, groups, rows_i8};
use super::{Kernels, Layout, TileI8};

pub(super) static KERNELS: Kernels =
    Kernels { name: "dotprod", layout_i8: Layout { nr: NR, k_tile: K_TILE }, panel_i8, ..TABLE };

const K_TILE: usize = 4;
/// Rows of a tile. With eight columns they need 16 registers for sums, and with 16 inputs per row 24 of 32 in all.
const MR: usize = 8;

unsafe fn panel_i8(tile: &TileI8) {
    let steps = tile.rows.div_ceil(MR) * tile.width.div_ceil(8) * (tile.blocks / 4);
    let mut ahead = Ahead::new(tile.next.addr(), tile.blocks * NR * K_TILE, steps);
    groups(tile.rows, MR, |first, count| {
        let rows = rows_i8(tile, first, count);
        // SAFETY: the contract of `TileI8`, handed on for each group of rows; `KERNELS` is only reachable on a CPU with
        // the extension.
        unsafe {
            ahead = match count {
                1 => tile_i8::<1>(&rows, ahead),
                2 => tile_i8::<2>(&rows, ahead),
                3 => tile_i8::<3>(&rows, ahead),
                4 => tile_i8::<4>(&rows, ahead),
                5 => tile_i8::<5>(&rows, ahead),
                6 => tile_i8::<6>(&rows, ahead),
                7 => tile_i8::<7>(&rows, ahead),
                _ => tile_i8::<8>(&rows, ahead),
            };
        }
    });
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_i8<const R: usize>(tile: &TileI8, mut ahead: Ahead) -> Ahead {
    // SAFETY: the contract of `TileI8`; a panel has 64 bytes for each block of four inputs.
    unsafe {
        let mut done: [Sums; R] = [[vdupq_n_s32(0); 4]; R];
        for half in 0..tile.width.div_ceil(8) {
            let mut sums = [[vdupq_n_s32(0); 2]; R];
            let (mut a, mut w) = (tile.a.cast::<i8>(), tile.panel.add(half * 8 * K_TILE));
            for _ in 0..tile.blocks / 4 {
                let qs: [int8x16_t; R] = std::array::from_fn(|r| vld1q_s8(a.add(r * tile.a_stride)));
                block::<0, R>(&mut sums, &qs, w);
                block::<1, R>(&mut sums, &qs, w);
                block::<2, R>(&mut sums, &qs, w);
                block::<3, R>(&mut sums, &qs, w);
                a = a.add(4 * K_TILE);
                w = w.add(4 * NR * K_TILE);
                ahead.step();
            }
            // The remaining blocks of four bytes.
            for _ in 0..tile.blocks % 4 {
                let qs: [int8x16_t; R] = std::array::from_fn(|r| {
                    let q = a.add(r * tile.a_stride).cast::<i32>().read_unaligned();
                    vreinterpretq_s8_s32(vdupq_n_s32(q))
                });
                block::<0, R>(&mut sums, &qs, w);
                a = a.add(K_TILE);
                w = w.add(NR * K_TILE);
            }
            for (done, [a, b]) in done.iter_mut().zip(sums) {
                (done[2 * half], done[2 * half + 1]) = (a, b);
            }
        }
        finish(tile, tile.blocks * K_TILE, &done);
    }
    ahead
}

/// Adds the products of the four bytes in lane `I` of each row's inputs with eight columns of block `I` from `w` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn block<const I: usize, const R: usize>(sums: &mut [[int32x4_t; 2]; R], qs: &[int8x16_t; R], w: *const i8) {
    // SAFETY: the caller promises that this block's columns may be read.
    unsafe {
        let w = w.add(I * NR * K_TILE);
        let (w0, w1) = (vld1q_s8(w), vld1q_s8(w.add(16)));
        for (sum, q) in sums.iter_mut().zip(qs) {
            sum[0] = sdot::<I>(sum[0], w0, *q);
            sum[1] = sdot::<I>(sum[1], w1, *q);
        }
    }
}

/// `sum[i] += w[4 i..4 i + 4] . q[4 I..4 I + 4]`; the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const I: usize>(mut sum: int32x4_t, w: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the CPU has.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {q:v}.4b[{i}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            q = in(vreg) q,
            i = const I,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
