//! x86-64 with AVX-512 and VNNI: `vpdpbusd` multiplies unsigned by signed bytes and adds four products to 32 bits.

use std::arch::x86_64::*;

use super::rows::row_functions;
use super::{Kernels, Layout, TileF32, TileI8};

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512vnni",
    layout_i8: Layout { nr: 32, k_tile: 4 },
    layout_f32: Layout { nr: 32, k_tile: 1 },
    signed: false,
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

row_functions!(true, false, "avx512f,avx512bw,avx512vl,avx512dq,fma");

/// Rows of a tile. Each needs two registers for results, which makes 24 of 32; with more, the compiler spills.
const MR: usize = 12;

/// Bytes of a panel for each block of four inputs.
const BLOCK_BYTES: usize = 128;

/// Calls `$tile::<N>` for groups of rows. The groups are as even as possible, since a small one is bound by latency.
macro_rules! tiles {
    ($job:ident, $tile:ident $(, $ahead:ident)?; $($per_row:ident),*) => {{
        let mut job = *$job;
        let mut rest = job.rows;
        let mut count = rest.div_ceil(MR);
        while count > 0 {
            job.rows = rest.div_ceil(count);
            match job.rows {
                1 => $tile::<1>(&job $(, $ahead)?),
                2 => $tile::<2>(&job $(, $ahead)?),
                3 => $tile::<3>(&job $(, $ahead)?),
                4 => $tile::<4>(&job $(, $ahead)?),
                5 => $tile::<5>(&job $(, $ahead)?),
                6 => $tile::<6>(&job $(, $ahead)?),
                7 => $tile::<7>(&job $(, $ahead)?),
                8 => $tile::<8>(&job $(, $ahead)?),
                9 => $tile::<9>(&job $(, $ahead)?),
                10 => $tile::<10>(&job $(, $ahead)?),
                11 => $tile::<11>(&job $(, $ahead)?),
                _ => $tile::<MR>(&job $(, $ahead)?),
            }
            job.a = job.a.wrapping_add(job.rows * job.a_stride);
            job.out = job.out.wrapping_add(job.rows * job.out_stride);
            $(job.$per_row = job.$per_row.wrapping_add(job.rows);)*
            $(job.next = job.next.wrapping_add(job.blocks * $ahead);)?
            rest -= job.rows;
            count -= 1;
        }
    }};
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn panel_i8(tile: &TileI8) {
    // The next panel is prefetched in equal parts, which spreads the load on memory.
    let ahead = BLOCK_BYTES.div_ceil(tile.rows.div_ceil(MR));
    // SAFETY: the contract of `TileI8`, handed on for each group of rows.
    unsafe { tiles!(tile, tile_i8, ahead; scales, zero_points) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn panel_f32(tile: &TileF32) {
    // SAFETY: the contract of `TileF32`, handed on for each group of rows.
    unsafe { tiles!(tile, tile_f32;) }
}

/// Masks of the two registers of a row of results.
fn masks(width: usize) -> (u16, u16) {
    let mask = |n: usize| if n >= 16 { u16::MAX } else { (1 << n) - 1 };
    (mask(width), mask(width.saturating_sub(16)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn tile_i8<const R: usize>(tile: &TileI8, ahead: usize) {
    // SAFETY: the contract of `TileI8`; a panel has 128 bytes for each block of four inputs.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        let (mut a, mut w, mut next) = (tile.a, tile.panel, tile.next);
        for _ in 0..tile.blocks {
            // Hardware prefetching stops at every page boundary, and weights come from memory.
            _mm_prefetch::<_MM_HINT_T1>(next);
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64));
            next = next.wrapping_add(ahead);
            let (w0, w1) = (_mm512_load_si512(w.cast()), _mm512_load_si512(w.add(64).cast()));
            for (r, sum) in sums.iter_mut().enumerate() {
                let q = _mm512_set1_epi32(a.add(r * tile.a_stride).cast::<i32>().read_unaligned());
                sum[0] = _mm512_dpbusd_epi32(sum[0], q, w0);
                sum[1] = _mm512_dpbusd_epi32(sum[1], q, w1);
            }
            a = a.add(4);
            w = w.add(BLOCK_BYTES);
        }
        let masks = masks(tile.width);
        for (half, mask) in [masks.0, masks.1].into_iter().enumerate() {
            let at = half * 16;
            let channel_sums = _mm512_loadu_si512(tile.sums.add(at).cast());
            let scales = _mm512_loadu_ps(tile.weight_scales.add(at));
            let bias = _mm512_loadu_ps(tile.bias.add(at));
            for (r, sum) in sums.iter().enumerate() {
                let zero = _mm512_mullo_epi32(_mm512_set1_epi32(*tile.zero_points.add(r)), channel_sums);
                let value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[half], zero));
                let scale = _mm512_mul_ps(_mm512_set1_ps(*tile.scales.add(r)), scales);
                let mut value = _mm512_fmadd_ps(value, scale, bias);
                let out = tile.out.add(r * tile.out_stride + at);
                if tile.accumulate {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
                }
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn tile_f32<const R: usize>(tile: &TileF32) {
    // SAFETY: the contract of `TileF32`; a panel has 32 floats for each input.
    unsafe {
        let bias = [_mm512_loadu_ps(tile.bias), _mm512_loadu_ps(tile.bias.add(16))];
        let mut sums = [bias; R];
        let (mut a, mut w) = (tile.a, tile.panel);
        for _ in 0..tile.inputs {
            let (w0, w1) = (_mm512_load_ps(w), _mm512_load_ps(w.add(16)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(r * tile.a_stride));
                sum[0] = _mm512_fmadd_ps(x, w0, sum[0]);
                sum[1] = _mm512_fmadd_ps(x, w1, sum[1]);
            }
            a = a.add(1);
            w = w.add(32);
        }
        let masks = masks(tile.width);
        for (r, sum) in sums.iter().enumerate() {
            for (half, mask) in [masks.0, masks.1].into_iter().enumerate() {
                let out = tile.out.add(r * tile.out_stride + half * 16);
                let mut value = sum[half];
                if tile.accumulate {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
                }
                _mm512_mask_storeu_ps(out, mask, value);
            }
        }
    }
}
