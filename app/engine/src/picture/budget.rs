//! Limits of the size of an image and of the memory for decoding it.

use image::{ColorType, ImageFormat, metadata::Orientation};

use super::DecodeError;
use super::transpose::scratch_bytes;

/// The longest side in pixels, which is the limit of JPEG and GIF. Models see nothing of a longer strip, and the tables for
/// resizing would grow with it.
pub const MAX_SIDE: usize = 65_535;

/// The most pixels of an image: 192 MiB of RGB, more than a 61-megapixel camera takes.
pub const MAX_PIXELS: usize = 64 << 20;

/// The most memory that decoding an image may take (file, decoder and pixels), and that preprocessing it may take (pixels,
/// resizing and tensor).
///
/// A board with 512 MB has room for it beside an int8 ViT-B/32, which takes 90 MB, and a system without a desktop.
/// [`MAX_PIXELS`] fit, less the size of the file, from a baseline JPEG and an 8-bit PNG; about 40 million pixels from a
/// progressive JPEG (4:2:0), 30 from a WebP, 28 from a 16-bit RGB PNG, 20 from one with alpha.
pub const MAX_BYTES: u64 = 256 << 20;

/// The largest image file: half of [`MAX_BYTES`], since the pixels of an uncompressed file take as much again.
pub const MAX_FILE_BYTES: u64 = MAX_BYTES / 2;

/// Bytes of a pixel of [`super::Picture`].
const RGB_BYTES: u64 = 3;

/// Checks a size before memory is allocated for it.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), DecodeError> {
    let sides = 1..=MAX_SIDE;
    let fits = sides.contains(&width) && sides.contains(&height) && width * height <= MAX_PIXELS;
    if fits { Ok(()) } else { Err(DecodeError::Size { width, height }) }
}

/// Checks the memory for an image whose file has `file_bytes` and whose decoding takes `work_bytes` more, pixels included.
pub(super) fn check_bytes(
    (width, height): (usize, usize),
    file_bytes: usize,
    work_bytes: u64,
) -> Result<(), DecodeError> {
    let needed_bytes = work_bytes.saturating_add(file_bytes as u64);
    if needed_bytes <= MAX_BYTES { Ok(()) } else { Err(DecodeError::Memory { width, height, needed_bytes }) }
}

/// Bytes of an image's pixels as RGB.
pub(super) fn rgb_bytes(width: usize, height: usize) -> u64 {
    pixels(width, height) * RGB_BYTES
}

/// Bytes of an image while it is rotated or mirrored: its pixels, and some more for a rotation by 90 degrees.
pub(super) fn upright_bytes((width, height): (usize, usize), orientation: Orientation) -> u64 {
    rgb_bytes(width, height) + turn_bytes((width, height), orientation)
}

/// Bytes for rotating or mirroring an image beside its pixels.
pub(super) fn turn_bytes((width, height): (usize, usize), orientation: Orientation) -> u64 {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let is_quarter = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    if is_quarter { scratch_bytes(width, height) } else { 0 }
}

/// Peak memory of the `image` crate's decoder of a format and of the conversion to RGB.
pub(super) fn decoder_bytes(
    format: ImageFormat,
    color: ColorType,
    (width, height): (usize, usize),
    is_animated: bool,
) -> u64 {
    let decoded = u64::from(color.bytes_per_pixel());
    // 8-bit colour is converted in place; 16-bit colour with alpha is converted to 8 bits with alpha first.
    let converted = match color {
        ColorType::Rgb8 | ColorType::Rgba8 => 0,
        ColorType::Rgba16 => 4,
        _ => RGB_BYTES,
    };
    // WebP, animated: a canvas, a frame and its planes. With alpha: planes, and alpha that is decoded as RGBA. Else RGBA
    // and the tables of transforms, or planes.
    let internal = match format {
        ImageFormat::WebP if is_animated => 15,
        ImageFormat::WebP if color.has_alpha() => 7,
        ImageFormat::WebP => 5,
        _ => 0,
    };
    pixels(width, height) * (decoded + converted.max(internal))
}

fn pixels(width: usize, height: usize) -> u64 {
    (width as u64).saturating_mul(height as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A camera's 61 megapixels.
    const LARGE: (usize, usize) = (9504, 6336);

    #[test]
    fn sizes_are_refused_before_allocation() {
        let check = |width, height, ok: bool| assert_eq!(check_size(width, height).is_ok(), ok, "{width} x {height}");
        check(1, 1, true);
        check(0, 1, false);
        check(1, 0, false);
        check(LARGE.0, LARGE.1, true);
        check(MAX_SIDE, 1, true);
        check(1, MAX_SIDE, true);
        check(MAX_SIDE + 1, 1, false);
        check(1, MAX_SIDE + 1, false);
        check(8192, 8192, true);
        check(8192, 8193, false);
        check(9459, 9459, false);
        check(89_478_485, 1, false);
        check(20_000, 10_000, false);
        check(usize::MAX, usize::MAX, false);
    }

    #[test]
    fn memory_is_checked_before_it_is_allocated() {
        struct Case {
            format: ImageFormat,
            color: ColorType,
            size: (usize, usize),
            is_animated: bool,
            fits: bool,
        }
        let check = |case: Case| {
            let Case { format, color, size, is_animated, fits } = case;
            let found = check_bytes(size, 1 << 20, decoder_bytes(format, color, size, is_animated));
            assert_eq!(found.is_ok(), fits, "{format:?} {color:?} {size:?}: {found:?}");
        };
        let png = |color, size, fits| check(Case { format: ImageFormat::Png, color, size, is_animated: false, fits });
        png(ColorType::Rgb8, LARGE, true);
        png(ColorType::Rgba8, LARGE, true);
        png(ColorType::L8, LARGE, true);
        png(ColorType::Rgb8, (8192, 8192), true);
        png(ColorType::L16, LARGE, false);
        png(ColorType::Rgb16, LARGE, false);
        png(ColorType::Rgb16, (7000, 4000), true);
        png(ColorType::Rgba16, (7000, 4000), false);
        png(ColorType::Rgba16, (5000, 4000), true);
        let webp = |color, size, is_animated, fits| {
            check(Case { format: ImageFormat::WebP, color, size, is_animated, fits });
        };
        webp(ColorType::Rgb8, (6000, 5000), false, true);
        webp(ColorType::Rgb8, (7000, 5000), false, false);
        webp(ColorType::Rgba8, (6000, 4000), false, true);
        webp(ColorType::Rgba8, (6000, 4000), true, false);
    }

    #[test]
    fn file_and_decoder_memory_add_up() {
        assert!(check_bytes((1, 1), 0, MAX_BYTES).is_ok());
        assert!(check_bytes((1, 1), 1, MAX_BYTES).is_err());
        let error = check_bytes((7000, 4000), 5, u64::MAX).expect_err("too much").to_string();
        assert!(error.contains("7000 x 4000") && error.contains(&MAX_BYTES.to_string()), "{error}");
        let turned = |orientation| upright_bytes(LARGE, orientation);
        assert_eq!(turned(Orientation::NoTransforms), 180_652_032);
        assert_eq!(turned(Orientation::Rotate180), 180_652_032);
        for quarter in [Orientation::Rotate90, Orientation::Rotate270FlipH] {
            assert!((180_652_033..184_000_000).contains(&turned(quarter)), "{quarter:?}: {}", turned(quarter));
        }
    }
}
