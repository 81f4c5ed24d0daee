//! Transposes an image in place.

/// The most rows of a band. Moving runs of this many pixels is faster than moving single ones.
const BAND_ROWS_MAX: usize = 64;

/// Bytes that [`transpose`] takes beside the image.
pub(super) fn scratch_bytes(width: usize, height: usize) -> u64 {
    let rows = band_rows(height);
    let (band, marks) = (3 * rows * (width + 1), (width * height / rows).div_ceil(8));
    (band + marks) as u64
}

/// Transposes `rgb` from `height` rows of `width` pixels to `width` rows of `height` pixels.
pub(super) fn transpose(rgb: &mut [u8], width: usize, height: usize) {
    let rows = band_rows(height);
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    // Within a band of rows, each column becomes a contiguous piece.
    let mut band = vec![[0_u8; 3]; rows * width];
    for pixels in pixels.chunks_exact_mut(rows * width) {
        band.copy_from_slice(pixels);
        for (column, piece) in pixels.chunks_exact_mut(rows).enumerate() {
            for (row, pixel) in piece.iter_mut().enumerate() {
                *pixel = band[row * width + column];
            }
        }
    }
    drop(band);
    // Then the pieces of each column, one per band, are brought together, by following the cycles of the permutation.
    let bands = height / rows;
    let mut is_moved = vec![0_u64; (width * bands).div_ceil(64)];
    let mut piece = vec![[0_u8; 3]; rows];
    for start in 0..width * bands {
        if (is_moved[start / 64] >> (start % 64)) & 1 == 1 {
            continue;
        }
        piece.copy_from_slice(&pixels[start * rows..][..rows]);
        let mut at = start;
        loop {
            at = (at % width) * bands + at / width;
            piece.swap_with_slice(&mut pixels[at * rows..][..rows]);
            is_moved[at / 64] |= 1 << (at % 64);
            if at == start {
                break;
            }
        }
    }
}

/// The largest divisor of `height` up to [`BAND_ROWS_MAX`].
fn band_rows(height: usize) -> usize {
    (1..=BAND_ROWS_MAX).rev().find(|rows| height.is_multiple_of(*rows)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_any_size_are_transposed() {
        let check = |width: usize, height: usize| {
            let pixel = |x: usize, y: usize| [x as u8, y as u8, (x / 256 + y / 256 * 16) as u8];
            let mut rgb: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
            let expected: Vec<u8> = (0..width).flat_map(|x| (0..height).flat_map(move |y| pixel(x, y))).collect();
            transpose(&mut rgb, width, height);
            assert!(rgb == expected, "{width} x {height}");
        };
        for side in [1, 2, 7, 53, 64, 65, 128, 300] {
            for other in [1, 3, 37, 64, 96, 127, 192] {
                check(side, other);
                check(other, side);
            }
        }
    }

    #[test]
    fn scratch_memory_is_small() {
        let check = |width, height, bytes_max: u64| {
            let found = scratch_bytes(width, height);
            assert!(found <= bytes_max, "{width} x {height}: {found}");
        };
        check(9504, 6336, 2 << 20);
        check(65_535, 1024, 14 << 20);
        // A prime number of rows.
        check(8_000, 8_191, 9 << 20);
    }
}
