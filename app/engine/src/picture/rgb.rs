//! Converts decoded pixels of any type to 8-bit RGB, as Pillow's `convert("RGB")` does, and applies the orientation.

use image::{DynamicImage, ImageFormat, RgbImage, metadata::Orientation};

use super::transpose::transpose;
use super::{DecodeError, Picture};

/// Offset of the colour type in a PNG file, and its value for grey without alpha.
const PNG_COLOR_TYPE: (usize, u8) = (25, 0);

/// Converts pixels to 8-bit RGB; `bytes` is their file.
pub(super) fn from_image(image: DynamicImage, bytes: &[u8]) -> Result<Picture, DecodeError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high = |value: u16| (value >> 8) as u8;
    let clipped = |value: u16| value.min(255) as u8;
    let rgb = match image {
        DynamicImage::ImageRgb8(pixels) => pixels.into_raw(),
        DynamicImage::ImageRgba8(pixels) => drop_alpha(pixels.into_raw()),
        DynamicImage::ImageLuma8(pixels) => triple(pixels.into_raw().into_iter()),
        DynamicImage::ImageLumaA8(pixels) => triple(pixels.into_raw().into_iter().step_by(2)),
        DynamicImage::ImageLuma16(pixels) => triple(pixels.into_raw().into_iter().map(clipped)),
        // A PNG with a transparent grey level is decoded as grey with alpha, but is clipped as grey.
        DynamicImage::ImageLumaA16(pixels) if is_grey_png(bytes) => {
            triple(pixels.into_raw().into_iter().step_by(2).map(clipped))
        }
        DynamicImage::ImageLumaA16(pixels) => triple(pixels.into_raw().into_iter().step_by(2).map(high)),
        DynamicImage::ImageRgb16(pixels) => pixels.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(pixels) => drop_alpha(pixels.into_raw().into_iter().map(high).collect()),
        other => return Err(DecodeError::PixelType { found: format!("{:?}", other.color()) }),
    };
    Ok(Picture { width, height, rgb, transparent: None })
}

/// Converts CMYK to RGB as Pillow does; 255 is full ink.
pub(super) fn from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - k;
    [c, m, y].map(|ink| {
        // Divides by 255, rounding to the nearest.
        let product = u32::from(ink) * u32::from(white) + 128;
        white.saturating_sub(((product + (product >> 8)) >> 8) as u8)
    })
}

/// Rotates and mirrors an image by its EXIF orientation.
pub(super) fn upright(picture: Picture, orientation: Orientation) -> Result<Picture, DecodeError> {
    if orientation == Orientation::NoTransforms {
        return Ok(picture);
    }
    let Picture { width, height, rgb, transparent } = picture;
    let size = || DecodeError::Size { width, height };
    let columns = u32::try_from(width).map_err(|_| size())?;
    let rows = u32::try_from(height).map_err(|_| size())?;
    let mut image = DynamicImage::ImageRgb8(RgbImage::from_raw(columns, rows, rgb).ok_or_else(size)?);
    // A rotation by 90 degrees is a mirrored image transposed, which works in place.
    let (mirrored, is_quarter) = match orientation {
        Orientation::Rotate90 => (Orientation::FlipVertical, true),
        Orientation::Rotate270 => (Orientation::FlipHorizontal, true),
        Orientation::Rotate90FlipH => (Orientation::NoTransforms, true),
        Orientation::Rotate270FlipH => (Orientation::Rotate180, true),
        other => (other, false),
    };
    image.apply_orientation(mirrored);
    let mut rgb = image.into_rgb8().into_raw();
    if !is_quarter {
        return Ok(Picture { width, height, rgb, transparent });
    }
    transpose(&mut rgb, width, height);
    Ok(Picture { width: height, height: width, rgb, transparent })
}

fn is_grey_png(bytes: &[u8]) -> bool {
    let (offset, grey) = PNG_COLOR_TYPE;
    image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Png) && bytes.get(offset) == Some(&grey)
}

fn triple(grey: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(grey.len() * 3);
    for value in grey {
        rgb.extend([value; 3]);
    }
    rgb
}

/// Converts RGBA to RGB in place.
fn drop_alpha(mut rgba: Vec<u8>) -> Vec<u8> {
    let pixels = rgba.len() / 4;
    for pixel in 0..pixels {
        rgba.copy_within(pixel * 4..pixel * 4 + 3, pixel * 3);
    }
    rgba.truncate(pixels * 3);
    rgba.shrink_to_fit();
    rgba
}
