//! 64-bit ARM with the matrix multiplication extension (Cortex-A710 and newer): `smmla` multiplies two rows of eight signed
//! bytes by two columns and adds to four sums of 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Ahead, NR, Sums, TABLE, finish, groups, rows_i8};
use super::{Kernels, Layout, TileI8};

pub(super) static KERNELS: Kernels =
    Kernels { name: "i8mm", layout_i8: Layout { nr: NR, k_tile: K_TILE }, panel_i8, ..TABLE };

const K_TILE: usize = 8;
/// Pairs of rows of a tile. With 16 columns, 24 of 32 registers hold sums. The tile is wide rather than high, since `zip1`,
/// which combines a pair of rows, runs on the same pipes as the multiplications.
const PAIRS: usize = 3;

unsafe fn panel_i8(tile: &TileI8) {
    let pairs = tile.rows.div_ceil(2);
    let mut ahead = Ahead::new(tile.next.addr(), tile.blocks * NR * K_TILE, pairs.div_ceil(PAIRS) * tile.blocks);
    groups(pairs, PAIRS, |first, count| {
        let rows = rows_i8(tile, 2 * first, (2 * count).min(tile.rows - 2 * first));
        // SAFETY: the contract of `TileI8`, handed on for each group of rows; `KERNELS` is only reachable on a CPU with
        // the extension.
        unsafe {
            ahead = match count {
                1 => tile_i8::<1, 2>(&rows, ahead),
                2 => tile_i8::<2, 4>(&rows, ahead),
                _ => tile_i8::<3, 6>(&rows, ahead),
            };
        }
    });
}

/// `P` pairs of rows, `R` rows in all. If the last pair has only one row, it is used twice.
#[target_feature(enable = "neon,i8mm")]
unsafe fn tile_i8<const P: usize, const R: usize>(tile: &TileI8, mut ahead: Ahead) -> Ahead {
    // SAFETY: the contract of `TileI8`; a panel has 128 bytes for each block of eight inputs.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 8]; P];
        let rows: [*const i8; R] =
            std::array::from_fn(|r| tile.a.add(r.min(tile.rows - 1) * tile.a_stride).cast::<i8>());
        for block in 0..tile.blocks {
            let w = tile.panel.add(block * NR * K_TILE);
            let load = |r: usize| vcombine_s8(vld1_s8(rows[r].add(block * K_TILE)), vdup_n_s8(0));
            let pairs: [int8x16_t; P] = std::array::from_fn(|p| {
                let (a, b) = (load(2 * p), load(2 * p + 1));
                vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)))
            });
            for c in 0..8 {
                let w = vld1q_s8(w.add(16 * c));
                for (sums, pair) in sums.iter_mut().zip(pairs) {
                    sums[c] = smmla(sums[c], pair, w);
                }
            }
            ahead.step();
        }
        let sums: [Sums; R] = std::array::from_fn(|r| {
            std::array::from_fn(|c| {
                let (a, b) = (vreinterpretq_s64_s32(sums[r / 2][2 * c]), vreinterpretq_s64_s32(sums[r / 2][2 * c + 1]));
                vreinterpretq_s32_s64(if r % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) })
            })
        });
        finish(tile, tile.blocks * K_TILE, &sums[..tile.rows]);
    }
    ahead
}

/// Adds the products of two rows with two columns to their four sums, row by row; the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sums: int32x4_t, rows: int8x16_t, columns: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the CPU has.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {rows:v}.16b, {columns:v}.16b",
            sums = inout(vreg) sums,
            rows = in(vreg) rows,
            columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
