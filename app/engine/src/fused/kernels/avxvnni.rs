//! x86-64 with AVX-VNNI (Intel since Alder Lake, N100 among them; AMD since Zen 5): `vpdpbusd` on 256 bits for CPUs without
//! AVX-512. It multiplies unsigned by signed bytes and adds four products to 32 bits. All but the int8 panels is AVX2's.

use std::arch::x86_64::*;

use super::avx2::{MR, TABLE, finish, tiles};
use super::{Kernels, TileI8};

pub(super) static KERNELS: Kernels = Kernels { name: "avxvnni", panel_i8, ..TABLE };

#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn panel_i8(tile: &TileI8) {
    // SAFETY: the contract of `TileI8`, handed on for each group of rows.
    unsafe { tiles!(tile, tile_i8; scales, zero_points) }
}

/// Each row needs two registers for sums, which makes 12 of 16; two more hold weights and one activations.
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn tile_i8<const R: usize>(tile: &TileI8) {
    // SAFETY: the contract of `TileI8`; a panel has 64 bytes for each block of four inputs.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        let (mut a, mut w) = (tile.a, tile.panel.cast::<__m256i>());
        for _ in 0..tile.blocks {
            let (w0, w1) = (_mm256_load_si256(w), _mm256_load_si256(w.add(1)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let q = _mm256_set1_epi32(a.add(r * tile.a_stride).cast::<i32>().read_unaligned());
                sum[0] = _mm256_dpbusd_avx_epi32(sum[0], q, w0);
                sum[1] = _mm256_dpbusd_avx_epi32(sum[1], q, w1);
            }
            a = a.add(4);
            w = w.add(2);
        }
        finish(tile, &sums);
    }
}
