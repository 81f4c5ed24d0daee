//! Decodes frames of all pixel formats to RGB.

mod yuv;

use std::path::PathBuf;

use spotter_engine::picture::{self, DecodeError, JpegDecoder, Picture};

use self::yuv::Converter;
use crate::source::{Frame, PixelFormat, Range};

/// Decodes frames to RGB. Reuses its buffers and those of the picture that it is given.
#[derive(Default)]
pub struct Decoder {
    jpeg: JpegDecoder,
}

/// Why a frame could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame has no pixels, or too many.
    #[error("{format} frame of {width} x {height} pixels, expected 1 to {} in all", picture::MAX_PIXELS)]
    Size {
        /// The frame's format.
        format: PixelFormat,
        /// Its columns.
        width: usize,
        /// Its rows.
        height: usize,
    },
    /// The stride is too small.
    #[error("{format} frame with {found_bytes} bytes a row, expected at least {expected_bytes} for {width} pixels")]
    Stride {
        /// The frame's format.
        format: PixelFormat,
        /// Its columns.
        width: usize,
        /// Minimum bytes of a row.
        expected_bytes: usize,
        /// The frame's stride.
        found_bytes: usize,
    },
    /// The frame is truncated.
    #[error("{format} frame of {width} x {height} pixels with {found_bytes} bytes, expected {expected_bytes}")]
    Short {
        /// The frame's format.
        format: PixelFormat,
        /// Its columns.
        width: usize,
        /// Its rows.
        height: usize,
        /// Minimum bytes.
        expected_bytes: usize,
        /// Bytes found.
        found_bytes: usize,
    },
    /// An image file could not be decoded.
    #[error("{}: cannot decode", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: DecodeError,
    },
    /// An encoded frame of a stream could not be decoded.
    #[error("cannot decode the {format} frame {number}")]
    Encoded {
        /// The frame's format.
        format: PixelFormat,
        /// Its number.
        number: u64,
        /// The decoder's error.
        source: DecodeError,
    },
}

impl Decoder {
    /// A decoder that has allocated nothing yet.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Decodes `frame` into `picture`. After an error the picture's content is undefined.
    ///
    /// # Errors
    /// The frame is truncated, has no size or too many pixels, or is no valid image.
    pub fn decode(&mut self, frame: &Frame, picture: &mut Picture) -> Result<(), FrameError> {
        picture.transparent = None;
        match frame.format {
            PixelFormat::Encoded => {
                // Frees the previous image first.
                picture.rgb = Vec::new();
                picture::decode(&frame.bytes).map(|decoded| *picture = decoded)
            }
            PixelFormat::Mjpeg => self.jpeg.decode_into(&frame.bytes, picture),
            _ => return decode_raw(frame, picture),
        }
        .map_err(|source| match &frame.path {
            Some(path) => FrameError::File { path: path.clone(), source },
            None => FrameError::Encoded { format: frame.format, number: frame.number, source },
        })
    }
}

fn decode_raw(frame: &Frame, picture: &mut Picture) -> Result<(), FrameError> {
    check(frame)?;
    let Frame { width, height, stride, bytes, .. } = frame;
    (picture.width, picture.height) = (*width, *height);
    picture.rgb.resize(width * height * 3, 0);
    let converter = Converter::new(frame.matrix, frame.range);
    let row_bytes = frame.format.row_bytes(*width);
    let chroma = stride * height;
    for (y, rgb) in picture.rgb.chunks_exact_mut(width * 3).enumerate() {
        let row = &bytes[y * stride..y * stride + row_bytes];
        match frame.format {
            PixelFormat::Yuyv => converter.yuyv(row, rgb),
            PixelFormat::Uyvy => converter.uyvy(row, rgb),
            PixelFormat::Nv12 => {
                let uv = chroma + y / 2 * stride;
                converter.nv12(&row[..*width], &bytes[uv..uv + row_bytes], rgb);
            }
            PixelFormat::Grey => converter.grey(row, rgb),
            PixelFormat::Rgb24 if frame.range == Range::Limited => converter.rgb(row, rgb),
            PixelFormat::Rgb24 | PixelFormat::Encoded | PixelFormat::Mjpeg => rgb.copy_from_slice(row),
        }
    }
    Ok(())
}

/// Checks that a raw frame has all its rows.
fn check(frame: &Frame) -> Result<(), FrameError> {
    let Frame { format, width, height, stride, .. } = *frame;
    let pixels = width.saturating_mul(height);
    if !(1..=picture::MAX_PIXELS).contains(&pixels) {
        return Err(FrameError::Size { format, width, height });
    }
    let row_bytes = format.row_bytes(width);
    if stride < row_bytes {
        return Err(FrameError::Stride { format, width, expected_bytes: row_bytes, found_bytes: stride });
    }
    let (expected_bytes, found_bytes) = (format.frame_bytes(width, height, stride), frame.bytes.len());
    if found_bytes < expected_bytes {
        return Err(FrameError::Short { format, width, height, expected_bytes, found_bytes });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
