//! x86-64 with AVX2 and FMA.
//!
//! Weights of layers: `vpmaddubsw` multiplies bytes and adds two products in 16 bits, which is exact for weights as `pairs.rs`
//! prepares them; `vpmaddwd` by ones widens to 32 bits.
//!
//! Any other matrix, such as keys and values: `vpmaddwd` multiplies pairs of 16-bit values and adds the two products, which
//! is exact for all bytes. Since both operands come in groups of four, even and odd bytes are widened separately, which takes
//! only shifts and masks and the same layout as with VNNI. Weights are widened when they are loaded, for all rows of a tile;
//! activations once per tile, to a buffer in the L1 cache.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::packed::Surplus;
use super::rows::row_functions;
use super::{Kernels, Layout, TileF32, TileI8};

pub(super) static KERNELS: Kernels = TABLE;

/// The table that AVX-VNNI takes everything from except the int8 panels.
pub(super) const TABLE: Kernels = Kernels {
    name: "avx2",
    layout_i8: Layout { nr: 16, k_tile: 4 },
    layout_f32: Layout { nr: 16, k_tile: 1 },
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

row_functions!(true, false, "avx2,fma");

/// Rows of a tile. Each needs two registers for results, which makes 12 of 16; two more hold weights, one activations and
/// one a product.
pub(super) const MR: usize = 6;

/// Blocks of four inputs that are widened at a time: 6 KiB per tile, which leaves room for weights in the L1 cache.
const BLOCKS: usize = 128;

/// Widened activations: the even bytes of each row's blocks, then the odd ones; each pair is one `i32`.
type Widened = [[[i32; BLOCKS]; MR]; 2];

/// Activations of each row that belong to a surplus, as many as there are widened ones.
type Repeated = [[i32; BLOCKS]; MR];

/// Calls `$tile::<N>` for groups of rows. The groups are as even as possible, since a small one is bound by latency.
macro_rules! tiles {
    ($job:ident, $tile:ident $(, $rest:expr)? ; $($per_row:ident),*) => {{
        let mut job = *$job;
        let mut rest = job.rows;
        let mut count = rest.div_ceil(MR);
        while count > 0 {
            job.rows = rest.div_ceil(count);
            match job.rows {
                1 => $tile::<1>(&job $(, $rest)?),
                2 => $tile::<2>(&job $(, $rest)?),
                3 => $tile::<3>(&job $(, $rest)?),
                4 => $tile::<4>(&job $(, $rest)?),
                5 => $tile::<5>(&job $(, $rest)?),
                _ => $tile::<MR>(&job $(, $rest)?),
            }
            job.a = job.a.wrapping_add(job.rows * job.a_stride);
            job.out = job.out.wrapping_add(job.rows * job.out_stride);
            $(job.$per_row = job.$per_row.wrapping_add(job.rows);)*
            rest -= job.rows;
            count -= 1;
        }
    }};
}
pub(super) use tiles;

#[target_feature(enable = "avx2,fma")]
unsafe fn panel_i8(tile: &TileI8) {
    // SAFETY: null or a surplus that lives as long as the weights.
    if let Some(surplus) = unsafe { tile.surplus.as_ref() } {
        let mut repeated = MaybeUninit::<Repeated>::uninit();
        // SAFETY: the contract of `TileI8`, handed on for each group of rows.
        unsafe { tiles!(tile, tile_limited, (surplus, repeated.as_mut_ptr()); scales, zero_points) }
        return;
    }
    // Uninitialised, since zeroing would be a quarter of the work for one row.
    let mut widened = MaybeUninit::<Widened>::uninit();
    // SAFETY: the contract of `TileI8`, handed on for each group of rows.
    unsafe { tiles!(tile, tile_i8, widened.as_mut_ptr(); scales, zero_points) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn panel_f32(tile: &TileF32) {
    // SAFETY: the contract of `TileF32`, handed on for each group of rows.
    unsafe { tiles!(tile, tile_f32;) }
}

/// Writes or adds the first `width` values of one row of results.
#[target_feature(enable = "avx2,fma")]
unsafe fn store(out: *mut f32, width: usize, values: [__m256; 2], accumulate: bool) {
    // SAFETY: `width` values of `out` are the caller's to write.
    unsafe {
        if width == 16 {
            let [mut low, mut high] = values;
            if accumulate {
                low = _mm256_add_ps(low, _mm256_loadu_ps(out));
                high = _mm256_add_ps(high, _mm256_loadu_ps(out.add(8)));
            }
            _mm256_storeu_ps(out, low);
            _mm256_storeu_ps(out.add(8), high);
        } else {
            let values: [f32; 16] = std::mem::transmute(values);
            for (i, value) in values[..width].iter().enumerate() {
                *out.add(i) = if accumulate { *out.add(i) + value } else { *value };
            }
        }
    }
}

/// Widens `blocks` blocks of each row.
#[target_feature(enable = "avx2,fma")]
unsafe fn widen<const R: usize>(a: *const u8, stride: usize, blocks: usize, widened: *mut Widened) {
    // SAFETY: four bytes for each block are the caller's to read; at most `BLOCKS` blocks of `MR` rows are written.
    unsafe {
        let [even, odd] = [&raw mut (*widened)[0], &raw mut (*widened)[1]];
        for r in 0..R {
            let (even, odd) = ((&raw mut (*even)[r]).cast::<i32>(), (&raw mut (*odd)[r]).cast::<i32>());
            for block in 0..blocks {
                let four = a.add(r * stride + 4 * block).cast::<i32>().read_unaligned();
                even.add(block).write(four & 0x00ff_00ff);
                odd.add(block).write((four >> 8) & 0x00ff_00ff);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_i8<const R: usize>(tile: &TileI8, widened: *mut Widened) {
    // SAFETY: the contract of `TileI8`; a panel has 64 bytes for each block of four inputs.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        let (mut a, mut w) = (tile.a, tile.panel.cast::<__m256i>());
        let mut rest = tile.blocks;
        while rest > 0 {
            let blocks = rest.min(BLOCKS);
            widen::<R>(a, tile.a_stride, blocks, widened);
            // Two loops, since the compiler would reorder the sums of one until it runs out of registers.
            for block in 0..blocks {
                let w = [_mm256_load_si256(w.add(2 * block)), _mm256_load_si256(w.add(2 * block + 1))];
                let w = w.map(|w| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)));
                multiply(&mut sums, w, &raw const (*widened)[0], block);
            }
            for block in 0..blocks {
                let w = [_mm256_load_si256(w.add(2 * block)), _mm256_load_si256(w.add(2 * block + 1))];
                multiply(&mut sums, w.map(|w| _mm256_srai_epi16::<8>(w)), &raw const (*widened)[1], block);
            }
            w = w.add(2 * blocks);
            a = a.add(4 * blocks);
            rest -= blocks;
        }
        finish(tile, &sums);
    }
}

/// The tile of a panel whose pairs of weights fit.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_limited<const R: usize>(tile: &TileI8, (surplus, repeated): (&Surplus, *mut Repeated)) {
    // SAFETY: the contract of `TileI8`; a panel has 64 bytes for each block of four inputs, and so has the surplus, whose
    // inputs are inputs of the layer.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        multiply_bytes(&mut sums, tile.a, tile.a_stride, tile.panel.cast(), tile.blocks);
        let mut w = surplus.values.values().as_ptr().cast::<__m256i>();
        for inputs in surplus.inputs.chunks(4 * BLOCKS) {
            for r in 0..R {
                let (a, out) = (tile.a.add(r * tile.a_stride), (&raw mut (*repeated)[r]).cast::<u8>());
                for (i, input) in inputs.iter().enumerate() {
                    out.add(i).write(*a.add(*input as usize));
                }
            }
            let blocks = inputs.len() / 4;
            multiply_bytes(&mut sums, repeated.cast(), 4 * BLOCKS, w, blocks);
            w = w.add(2 * blocks);
        }
        finish(tile, &sums);
    }
}

/// Adds the products of blocks of four inputs whose pairs of weights fit.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_bytes<const R: usize>(
    sums: &mut [[__m256i; 2]; R],
    a: *const u8,
    stride: usize,
    w: *const __m256i,
    blocks: usize,
) {
    let one = _mm256_set1_epi16(1);
    for block in 0..blocks {
        // SAFETY: the caller promises that many blocks of each row and of the weights.
        unsafe {
            let w = [_mm256_load_si256(w.add(2 * block)), _mm256_load_si256(w.add(2 * block + 1))];
            for (r, sum) in sums.iter_mut().enumerate() {
                let q = _mm256_set1_epi32(a.add(r * stride + 4 * block).cast::<i32>().read_unaligned());
                let products = w.map(|w| _mm256_maddubs_epi16(q, w));
                sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(products[0], one));
                sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(products[1], one));
            }
        }
    }
}

/// Adds the products of one pair of inputs for each row.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const R: usize>(
    sums: &mut [[__m256i; 2]; R],
    w: [__m256i; 2],
    widened: *const [[i32; BLOCKS]; MR],
    block: usize,
) {
    for (r, sum) in sums.iter_mut().enumerate() {
        // SAFETY: `widen` has written this block of each row.
        let q = _mm256_set1_epi32(unsafe { (&raw const (*widened)[r]).cast::<i32>().add(block).read() });
        sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(q, w[0]));
        sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(q, w[1]));
    }
}

/// Converts sums of products to results.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn finish<const R: usize>(tile: &TileI8, sums: &[[__m256i; 2]; R]) {
    // SAFETY: the contract of `TileI8`: 16 values for each channel, one for each row.
    unsafe {
        for (r, sum) in sums.iter().enumerate() {
            let (zero_point, scale) =
                (_mm256_set1_epi32(*tile.zero_points.add(r)), _mm256_set1_ps(*tile.scales.add(r)));
            let mut values = [_mm256_setzero_ps(); 2];
            for (half, value) in values.iter_mut().enumerate() {
                let channel_sums = _mm256_loadu_si256(tile.sums.add(8 * half).cast());
                let zero = _mm256_mullo_epi32(zero_point, channel_sums);
                let scale = _mm256_mul_ps(scale, _mm256_loadu_ps(tile.weight_scales.add(8 * half)));
                let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[half], zero));
                *value = _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(tile.bias.add(8 * half)));
            }
            store(tile.out.add(r * tile.out_stride), tile.width, values, tile.accumulate);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile_f32<const R: usize>(tile: &TileF32) {
    // SAFETY: the contract of `TileF32`; a panel has 16 floats for each input.
    unsafe {
        let mut sums = [[_mm256_loadu_ps(tile.bias), _mm256_loadu_ps(tile.bias.add(8))]; R];
        let (mut a, mut w) = (tile.a, tile.panel);
        for _ in 0..tile.inputs {
            let (w0, w1) = (_mm256_load_ps(w), _mm256_load_ps(w.add(8)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(r * tile.a_stride));
                sum[0] = _mm256_fmadd_ps(x, w0, sum[0]);
                sum[1] = _mm256_fmadd_ps(x, w1, sum[1]);
            }
            a = a.add(1);
            w = w.add(16);
        }
        for (r, sum) in sums.into_iter().enumerate() {
            store(tile.out.add(r * tile.out_stride), tile.width, sum, tile.accumulate);
        }
    }
}
