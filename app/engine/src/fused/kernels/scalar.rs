//! Portable kernels: the reference for all others in tests, and the fallback where no faster ones run.

use super::rows::row_functions;
use super::{Kernels, Layout, TileF32, TileI8};

pub(super) static KERNELS: Kernels = table("scalar", LAYOUT_I8, LAYOUT_F32, panel_i8, panel_f32);

const LAYOUT_I8: Layout = Layout { nr: 16, k_tile: 4 };
const LAYOUT_F32: Layout = Layout { nr: 16, k_tile: 1 };

row_functions!(false, false);

const fn table(
    name: &'static str,
    layout_i8: Layout,
    layout_f32: Layout,
    panel_i8: unsafe fn(&TileI8),
    panel_f32: unsafe fn(&TileF32),
) -> Kernels {
    Kernels {
        name,
        layout_i8,
        layout_f32,
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
    }
}

unsafe fn panel_i8(tile: &TileI8) {
    // SAFETY: the contract of `TileI8`.
    unsafe { twin_i8::<false>(tile, LAYOUT_I8) }
}

unsafe fn panel_f32(tile: &TileF32) {
    // SAFETY: the contract of `TileF32`.
    unsafe { twin_f32(tile, LAYOUT_F32) }
}

/// The portable int8 kernel, for weights of any layout. `SIGNED` activations are stored less 128.
///
/// # Safety
/// The contract of [`TileI8`].
pub(super) unsafe fn twin_i8<const SIGNED: bool>(tile: &TileI8, layout: Layout) {
    let Layout { nr, k_tile } = layout;
    // SAFETY: within the bounds that `TileI8` promises.
    unsafe {
        for row in 0..tile.rows {
            let a = tile.a.add(row * tile.a_stride);
            for column in 0..tile.width {
                let mut sum = 0i32;
                for block in 0..tile.blocks {
                    for i in 0..k_tile {
                        let q = *a.add(block * k_tile + i);
                        let q = if SIGNED { i32::from(q.cast_signed()) } else { i32::from(q) };
                        sum += q * i32::from(*tile.panel.add((block * nr + column) * k_tile + i));
                    }
                }
                sum -= *tile.zero_points.add(row) * *tile.sums.add(column);
                let scale = *tile.scales.add(row) * *tile.weight_scales.add(column);
                let value = sum as f32 * scale + *tile.bias.add(column);
                let out = tile.out.add(row * tile.out_stride + column);
                *out = if tile.accumulate { *out + value } else { value };
            }
        }
    }
}

/// The portable float kernel, for any `nr`.
///
/// # Safety
/// The contract of [`TileF32`].
pub(super) unsafe fn twin_f32(tile: &TileF32, layout: Layout) {
    // SAFETY: within the bounds that `TileF32` promises.
    unsafe {
        for row in 0..tile.rows {
            let a = tile.a.add(row * tile.a_stride);
            for column in 0..tile.width {
                let mut sum = 0.0f32;
                for k in 0..tile.inputs {
                    sum += *a.add(k) * *tile.panel.add(k * layout.nr + column);
                }
                sum += *tile.bias.add(column);
                let out = tile.out.add(row * tile.out_stride + column);
                *out = if tile.accumulate { *out + sum } else { sum };
            }
        }
    }
}
