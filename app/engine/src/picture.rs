//! Decoding image files to 8-bit RGB.
//!
//! The pixels are those of `transformers.image_utils.load_image`, that is
//! `PIL.ImageOps.exif_transpose(Image.open(f)).convert("RGB")`: rotated by EXIF, grey copied to three channels, alpha
//! dropped. They are equal to the last bit, JPEG and WebP included; only JPEG inside TIFF, which another decoder reads, can
//! differ by 1/255.
//!
//! Image processors themselves do not rotate: an image that is passed as `Image.open(f)` keeps the orientation of the file.
//! Cameras that are mounted sideways say so in EXIF, and labels describe the upright image, so `load_image` is the
//! reference here. It drops alpha channels and the alpha of palettes; a single colour that a PNG or GIF marks as transparent
//! is kept ([`Picture::transparent`]), because image processors of transformers 5 replace it by white.

mod budget;
mod declared;
mod gif;
mod jpeg;
mod rgb;
mod tiff;
mod transparent;
mod transpose;
mod unsupported;

use std::io::Cursor;
use std::path::Path;

use image::{ImageDecoder, ImageFormat, ImageReader, Limits, metadata::Orientation};

use self::budget::{check_bytes, check_size, decoder_bytes, upright_bytes};
use self::declared::Declared;

pub use budget::{MAX_BYTES, MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE};
pub use gif::Damage as GifDamage;
pub use jpeg::{JpegDecoder, JpegError, marker as jpeg_marker};
pub use unsupported::{START_BYTES, UnsupportedFormat, unsupported_format};

/// File name extensions of images, for finding them in a folder.
pub const IMAGE_EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"];

/// Returns true if a file name has one of [`IMAGE_EXTENSIONS`], in upper or lower case.
pub fn has_image_extension(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    IMAGE_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending))
}

/// A decoded image: 8-bit RGB, rows top to bottom, three bytes per pixel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Columns; 1 or more.
    pub width: usize,
    /// Rows; 1 or more.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
    /// The colour that the file marks as transparent, as Pillow reports it after conversion to RGB. Pixels of this colour
    /// are unchanged.
    pub transparent: Option<[u8; 3]>,
}

/// Why bytes could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("empty: expected an image, found 0 bytes")]
    Empty,
    /// The format is unknown or not supported.
    #[error("not an image: expected JPEG, PNG, WebP, BMP, GIF, TIFF or PNM, found {found}")]
    UnknownFormat {
        /// Name of the format and what to do, or the first bytes, escaped.
        found: String,
    },
    /// The header declares a side longer than [`MAX_SIDE`], more pixels than [`MAX_PIXELS`], or none.
    #[error(
        "{width} x {height} pixels: expected sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} pixels in all; scale the \
         image down, or crop it"
    )]
    Size {
        /// Declared columns.
        width: usize,
        /// Declared rows.
        height: usize,
    },
    /// Decoding the image would take more memory than [`MAX_BYTES`].
    #[error(
        "{width} x {height} pixels: reading them takes {needed_bytes} bytes of memory, expected at most {MAX_BYTES}; scale \
         the image down, or save it with 8 bits a channel, as a JPEG that is not progressive"
    )]
    Memory {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes of the file, the decoder's memory and the pixels.
        needed_bytes: u64,
    },
    /// The file ends before the image does.
    #[error("truncated JPEG: expected an end-of-image marker, found the end of {found_bytes} bytes; copy it again")]
    Truncated {
        /// Length of the file.
        found_bytes: usize,
    },
    /// The pixels have a type without a conversion to 8-bit RGB.
    #[error("pixels of type {found}: expected 8 or 16 bits of grey or RGB, with or without alpha")]
    PixelType {
        /// The type.
        found: String,
    },
    /// A TIFF of a kind that is not supported.
    #[error("a TIFF with {found}, which is not supported; save it as PNG or JPEG")]
    Tiff {
        /// Description of its samples.
        found: String,
    },
    /// A damaged GIF.
    #[error("damaged GIF: {what}")]
    Gif {
        /// The damage.
        what: GifDamage,
    },
    /// A damaged TIFF.
    #[error("damaged TIFF")]
    DamagedTiff(#[source] ::tiff::TiffError),
    /// A JPEG of a kind that is not supported, or with damaged headers.
    #[error("damaged or unsupported JPEG")]
    Jpeg(#[from] JpegError),
    /// The decoder of another format failed.
    #[error("damaged or unsupported image")]
    Image(#[from] image::ImageError),
}

/// Decodes a whole file: JPEG, PNG, WebP, BMP, GIF (its first frame), TIFF (its first page) or PNM.
///
/// 16-bit grey is clipped at 255, as in Pillow's conversion; 16-bit colour keeps the high byte.
///
/// # Errors
/// The bytes are no image, or a damaged one; a side is longer than [`MAX_SIDE`], there are more than [`MAX_PIXELS`], or
/// decoding would take more than [`MAX_BYTES`] of memory. Limits are checked before memory is allocated.
pub fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    if jpeg::is_jpeg(bytes) {
        let mut picture = Picture::default();
        JpegDecoder::new().decode_into(bytes, &mut picture)?;
        return Ok(picture);
    }
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if tiff::is_tiff(bytes) {
        let (picture, orientation) = tiff::decode(bytes)?;
        return rgb::upright(picture, orientation);
    }
    if gif::is_gif(bytes) {
        return gif::decode(bytes);
    }
    if let Some(UnsupportedFormat { what, advice, .. }) = unsupported_format(bytes) {
        return Err(DecodeError::UnknownFormat { found: format!("{what}; {advice}") });
    }
    let format = image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat { found: start_of(bytes) })?;
    if !format.reading_enabled() {
        let found = format!("{format:?}; {}", unsupported::CONVERT);
        return Err(DecodeError::UnknownFormat { found });
    }
    let (pixels, orientation) = decode_by_image(bytes, format)?;
    let upright = rgb::upright(rgb::from_image(pixels, bytes)?, orientation)?;
    let transparent = if format == ImageFormat::Png { transparent::color_of_png(bytes) } else { None };
    Ok(Picture { transparent, ..upright })
}

/// Decodes a format of the `image` crate; also returns the orientation to apply.
fn decode_by_image(bytes: &[u8], format: ImageFormat) -> Result<(image::DynamicImage, Orientation), DecodeError> {
    let Declared { sizes, is_animated } = Declared::read(format, bytes);
    sizes.into_iter().try_for_each(|(width, height)| check_size(width, height))?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let size = (width as usize, height as usize);
    check_size(size.0, size.1)?;
    check_bytes(size, bytes.len(), decoder_bytes(format, decoder.color_type(), size, is_animated))?;
    let exif = decoder.exif_metadata()?;
    let xmp = decoder.xmp_metadata()?;
    let orientation = orientation(exif.as_deref(), xmp.as_deref());
    let orientation = orientation.map_or_else(|| decoder.orientation(), Ok)?;
    check_bytes(size, bytes.len(), upright_bytes(size, orientation))?;
    Ok((image::DynamicImage::from_decoder(decoder)?, orientation))
}

/// The orientation in EXIF, else in XMP; `None` if neither has one.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    exif.and_then(Orientation::from_exif_chunk).or_else(|| {
        const KEY: &[u8] = b"tiff:Orientation";
        let xmp = xmp?;
        let at = xmp.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
        let rest = &xmp[at..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        Orientation::from_exif(value.first()?.checked_sub(b'0')?)
    })
}

/// The first bytes, escaped for a message.
fn start_of(bytes: &[u8]) -> String {
    format!("bytes that start with \"{}\"", bytes[..bytes.len().min(8)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientation_comes_from_exif_else_xmp() {
        let exif = |value: u8| {
            let mut chunk = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
            chunk.extend([value, 0, 0, 0, 0, 0, 0, 0]);
            chunk
        };
        let check = |exif: Option<&[u8]>, xmp: Option<&[u8]>, expected| {
            assert_eq!(orientation(exif, xmp), expected, "{exif:?} {xmp:?}");
        };
        check(None, None, None);
        check(Some(&exif(6)), None, Some(Orientation::Rotate90));
        check(Some(&exif(1)), Some(b"tiff:Orientation=\"6\""), Some(Orientation::NoTransforms));
        check(None, Some(b"<x tiff:Orientation=\"8\"/>"), Some(Orientation::Rotate270));
        check(Some(b"broken"), Some(b"<tiff:Orientation>3</tiff:Orientation>"), Some(Orientation::Rotate180));
        check(None, Some(b"tiff:Orientation=\""), None);
        check(None, Some(b"tiff:Orientation=\"x\""), None);
    }

    #[test]
    fn other_bytes_are_refused_with_their_format() {
        let check = |bytes: &[u8], expected: &str| {
            let message = decode(bytes).expect_err("no image").to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        };
        check(b"", "0 bytes");
        check(b"hello\nworld", "start with \"hello\\nwo\"");
        check(b"\0\0\0\x18ftypisom\0\0\0\0", "an MP4 or QuickTime video; extract images from it");
        check(b"\0\0\x01\0\x01\0", "Ico; save it as PNG or JPEG");
        check(b"\x89PNG\r\n\x1a\n", "damaged or unsupported image");
        check(b"\xff\xd8", "truncated JPEG");
        check(b"\xff\xd8\xff\xd9", "damaged or unsupported JPEG");
    }
}
