//! Checks the format that the driver has set.

use std::fmt;
use std::path::Path;

use super::driver::{Colorspace, Format, Quantization};
use super::negotiate::pixel_format;
use crate::source::{Matrix, PixelFormat, Range, SourceError};

/// Maximum number of columns and of rows; a driver that sets more is broken.
const MAX_SIDE: u32 = 16384;

/// Conversion matrices in V4L2 (`enum v4l2_ycbcr_encoding`).
const ENCODING_DEFAULT: u32 = 0;
const ENCODING_709: u32 = 2;
const ENCODING_XV709: u32 = 4;

/// Memory layout of every frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: PixelFormat,
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bytes from row to row; 0 for MJPEG.
    pub(super) stride: usize,
    pub(super) range: Range,
    pub(super) matrix: Matrix,
}

impl Layout {
    /// Checks the format that the driver has set. `encoding` is V4L2's number of the matrix.
    pub(super) fn check(got: &Format, encoding: u32, path: &Path) -> Result<Self, SourceError> {
        let refuse = |found: String, expected: String| SourceError::Layout { path: path.into(), expected, found };
        let Some(format) = pixel_format(got.fourcc) else {
            let found = format!("format {}", got.fourcc.escape_ascii());
            return Err(refuse(found, "MJPG, YUYV, UYVY, NV12, RGB3 or GREY".into()));
        };
        if ![got.width, got.height].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            let found = format!("{} x {} pixels", got.width, got.height);
            return Err(refuse(found, format!("1 to {MAX_SIDE} each way")));
        }
        if let Some(order) = got.half_images {
            let found = format!("half images ({order})");
            return Err(refuse(found, "whole or interlaced images".into()));
        }
        let (width, height) = (got.width as usize, got.height as usize);
        let row_bytes = format.row_bytes(width);
        let stride = match got.stride as usize {
            _ if row_bytes == 0 => 0,
            // Some drivers leave it 0 if rows are not padded.
            0 => row_bytes,
            stride => stride,
        };
        if stride < row_bytes {
            let found = format!("{stride} bytes a row");
            return Err(refuse(found, format!("at least {row_bytes} for {width} pixels of {format}")));
        }
        let frame_bytes = format.frame_bytes(width, height, stride);
        if got.size != 0 && (got.size as usize) < frame_bytes {
            let found = format!("buffers of {} bytes", got.size);
            return Err(refuse(found, format!("at least {frame_bytes} for {width} x {height} pixels of {format}")));
        }
        Ok(Layout { format, width, height, stride, range: range(got, format), matrix: matrix(got, encoding) })
    }

    /// Bytes of a raw frame; 0 for MJPEG.
    pub(super) fn frame_bytes(&self) -> usize {
        self.format.frame_bytes(self.width, self.height, self.stride)
    }
}

/// The range of sample values, or V4L2's default for the format; grey counts as RGB there.
fn range(got: &Format, format: PixelFormat) -> Range {
    match (got.quantization, got.colorspace) {
        (Quantization::Full, _) | (Quantization::Default, Colorspace::Jpeg) => Range::Full,
        (Quantization::Default, _) if matches!(format, PixelFormat::Grey | PixelFormat::Rgb24) => Range::Full,
        (Quantization::Limited | Quantization::Default, _) => Range::Limited,
    }
}

/// The driver's matrix, or V4L2's default for the colour space.
fn matrix(got: &Format, encoding: u32) -> Matrix {
    match (encoding, got.colorspace) {
        (ENCODING_709 | ENCODING_XV709, _) => Matrix::Bt709,
        (ENCODING_DEFAULT, Colorspace::Rec709 | Colorspace::DciP3) => Matrix::Bt709,
        _ => Matrix::Bt601,
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.width, self.height, self.format)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn format(code: &[u8; 4], width: u32, height: u32, stride: u32, size: u32) -> Format {
        let (colorspace, quantization) = (Colorspace::Other, Quantization::Default);
        Format { width, height, fourcc: *code, stride, size, half_images: None, colorspace, quantization }
    }

    #[test]
    fn valid_formats_are_accepted() {
        for (code, stride, size, expected) in [
            (b"YUYV", 1280, 614_400, 1280),
            (b"YUYV", 0, 0, 1280),
            (b"YUYV", 1344, 645_120, 1344),
            (b"NV12", 640, 460_800, 640),
            (b"RGB3", 1920, 921_600, 1920),
            (b"MJPG", 0, 100_000, 0),
            (b"MJPG", 640, 1, 0),
        ] {
            let layout = Layout::check(&format(code, 640, 480, stride, size), 0, Path::new("v")).unwrap();
            assert_eq!((layout.stride, layout.width, layout.height), (expected, 640, 480));
        }
    }

    #[test]
    fn invalid_formats_are_refused() {
        let alternate =
            Format { half_images: Some("alternate between fields"), ..format(b"YUYV", 640, 480, 1280, 614_400) };
        for (got, part) in [
            (format(b"H264", 640, 480, 0, 0), "the driver set format H264, expected MJPG, YUYV"),
            (format(b"\0\xFFab", 640, 480, 0, 0), "format \\x00\\xffab"),
            (format(b"YUYV", 0, 480, 0, 0), "0 x 480 pixels, expected 1 to 16384"),
            (format(b"YUYV", 640, 1 << 20, 0, 0), "640 x 1048576 pixels"),
            (format(b"YUYV", 640, 480, 1279, 0), "1279 bytes a row, expected at least 1280 for 640 pixels of YUYV"),
            (format(b"NV12", 640, 480, 640, 307_200), "buffers of 307200 bytes, expected at least 460800"),
            (alternate, "half images (alternate between fields)"),
        ] {
            let error = Layout::check(&got, 0, Path::new("v")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn colors_follow_the_driver() {
        for (code, quantization, colorspace, encoding, expected) in [
            (b"YUYV", Quantization::Default, Colorspace::Other, 0, (Range::Limited, Matrix::Bt601)),
            (b"YUYV", Quantization::Default, Colorspace::Jpeg, 0, (Range::Full, Matrix::Bt601)),
            (b"YUYV", Quantization::Full, Colorspace::Rec709, 0, (Range::Full, Matrix::Bt709)),
            (b"YUYV", Quantization::Limited, Colorspace::Jpeg, 0, (Range::Limited, Matrix::Bt601)),
            (b"YUYV", Quantization::Default, Colorspace::Rec709, 0, (Range::Limited, Matrix::Bt709)),
            (b"YUYV", Quantization::Default, Colorspace::Rec709, 1, (Range::Limited, Matrix::Bt601)),
            (b"YUYV", Quantization::Default, Colorspace::Other, 2, (Range::Limited, Matrix::Bt709)),
            (b"YUYV", Quantization::Default, Colorspace::Other, 3, (Range::Limited, Matrix::Bt601)),
            (b"YUYV", Quantization::Default, Colorspace::Other, 4, (Range::Limited, Matrix::Bt709)),
            (b"GREY", Quantization::Default, Colorspace::Other, 0, (Range::Full, Matrix::Bt601)),
            (b"RGB3", Quantization::Default, Colorspace::Other, 0, (Range::Full, Matrix::Bt601)),
            (b"RGB3", Quantization::Limited, Colorspace::Other, 0, (Range::Limited, Matrix::Bt601)),
        ] {
            let got = Format { quantization, colorspace, ..format(code, 2, 2, 0, 0) };
            let layout = Layout::check(&got, encoding, Path::new("v")).unwrap();
            assert_eq!((layout.range, layout.matrix), expected);
        }
    }
}
