//! Colour conversion of JPEG components to RGB, as libjpeg-turbo does it, and for CMYK Pillow.

use crate::picture::rgb::from_cmyk;

/// The colour space of the components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColorSpace {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// Pixels that are converted at a time.
const LANES: usize = 16;

impl ColorSpace {
    /// Converts one row of full-size components to RGB. Each component must have at least as many samples as the row
    /// has pixels.
    #[inline(always)]
    pub(super) fn convert(self, components: [&[u8]; 4], rgb: &mut [u8]) {
        let width = rgb.len() / 3;
        let [a, b, c, d] = components;
        match self {
            ColorSpace::Grey => {
                for (pixel, grey) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(a) {
                    *pixel = [*grey; 3];
                }
            }
            ColorSpace::Rgb => {
                for (((pixel, red), green), blue) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(a).zip(b).zip(c) {
                    *pixel = [*red, *green, *blue];
                }
            }
            ColorSpace::YCbCr => ycbcr(&a[..width], &b[..width], &c[..width], rgb),
            ColorSpace::Cmyk => {
                for (at, pixel) in rgb.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    // Adobe's programs store inverted inks, and Pillow assumes that.
                    *pixel = from_cmyk([a[at], b[at], c[at], d[at]].map(|ink| 255 - ink));
                }
            }
            ColorSpace::Ycck => {
                for (at, pixel) in rgb.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    let [cyan, magenta, yellow] = rgb_of(a[at], b[at], c[at]);
                    *pixel = from_cmyk([cyan, magenta, yellow, 255 - d[at]]);
                }
            }
        }
    }
}

/// Converts one pixel of YCbCr.
#[inline(always)]
fn rgb_of(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    // libjpeg's 1.402, 0.34414, 0.71414 and 1.772 times 2^16, minus multiples of 2^16, so that they fit 16 bits.
    const RED: i32 = 91_881 - (1 << 16);
    const GREEN_CB: i32 = -22_554;
    const GREEN_CR: i32 = (1 << 16) - 46_802;
    const BLUE: i32 = 116_130 - (2 << 16);
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + cr + ((RED * cr + HALF) >> 16);
    let green = y - cr + ((GREEN_CB * cb + GREEN_CR * cr + HALF) >> 16);
    let blue = y + 2 * cb + ((BLUE * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Converts a row of YCbCr.
fn ycbcr(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let (y, y_rest) = y.as_chunks::<LANES>();
    let (cb, cb_rest) = cb.as_chunks::<LANES>();
    let (cr, cr_rest) = cr.as_chunks::<LANES>();
    let (pixels, rgb_rest) = rgb.as_chunks_mut::<{ LANES * 3 }>();
    for (((pixels, y), cb), cr) in pixels.iter_mut().zip(y).zip(cb).zip(cr) {
        let mut packed = [0_u32; LANES];
        for lane in 0..LANES {
            let [red, green, blue] = rgb_of(y[lane], cb[lane], cr[lane]).map(u32::from);
            packed[lane] = red | green << 8 | blue << 16;
        }
        // Eight pixels are three words.
        for (bytes, p) in pixels.as_chunks_mut::<24>().0.iter_mut().zip(packed.as_chunks::<8>().0) {
            let p = p.map(u64::from);
            let words = [
                p[0] | p[1] << 24 | p[2] << 48,
                p[2] >> 16 | p[3] << 8 | p[4] << 32 | p[5] << 56,
                p[5] >> 8 | p[6] << 16 | p[7] << 40,
            ];
            for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = word.to_le_bytes();
            }
        }
    }
    for (((pixel, y), cb), cr) in rgb_rest.as_chunks_mut::<3>().0.iter_mut().zip(y_rest).zip(cb_rest).zip(cr_rest) {
        *pixel = rgb_of(*y, *cb, *cr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_match_the_formula() {
        for (y, cb, cr) in (0..256).flat_map(|y| (0..256).map(move |c| (y, c, (c * 7 + y * 3) % 256))) {
            let (blue_difference, red_difference) = (f64::from(cb - 128), f64::from(cr - 128));
            let expected = [
                f64::from(y) + 1.402 * red_difference,
                f64::from(y) - 0.344_14 * blue_difference - 0.714_14 * red_difference,
                f64::from(y) + 1.772 * blue_difference,
            ];
            for (found, expected) in rgb_of(y as u8, cb as u8, cr as u8).into_iter().zip(expected) {
                assert!((f64::from(found) - expected.clamp(0.0, 255.0)).abs() < 0.51, "{y} {cb} {cr}");
            }
        }
    }

    #[test]
    fn rows_of_any_length_are_converted_whole() {
        for width in 1..70 {
            let component = |step: usize| (0..width).map(|x| (x * step % 256) as u8).collect::<Vec<_>>();
            let (y, cb, cr) = (component(5), component(11), component(37));
            let mut rgb = vec![0; width * 3];
            ColorSpace::YCbCr.convert([&y, &cb, &cr, &[]], &mut rgb);
            for (x, pixel) in rgb.as_chunks::<3>().0.iter().enumerate() {
                assert_eq!(*pixel, rgb_of(y[x], cb[x], cr[x]), "{x} of {width}");
            }
        }
    }
}
