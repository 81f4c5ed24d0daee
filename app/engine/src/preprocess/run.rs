//! Runs a preprocessing configuration.

use std::ops::Range;

use super::resample::{Resampler, Window, fit};
use super::{Backend, Filter, Normalize, PreprocessConfig, Size};
use crate::picture::{MAX_BYTES, Picture};

/// The longest side of an image after resizing, before the crop: a strip 4000 times as long as high, for an image tower
/// of 256 pixels.
const RESIZED_SIDE_MAX: usize = 1 << 20;

/// Why an image could not become a tensor. All but [`Self::Config`] concern the one image; others may be fine.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The configuration has an invalid value.
    #[error("preprocessing configuration: expected {expected}; correct the bundle's manifest")]
    Config {
        /// The valid values.
        expected: String,
    },
    /// The buffer of the image does not have the size of the image.
    #[error("image of {width} x {height}: expected width * height * 3 bytes and 1 pixel or more, found {found} bytes")]
    Picture {
        /// Columns claimed.
        width: usize,
        /// Rows claimed.
        height: usize,
        /// Bytes found.
        found: usize,
    },
    /// The image is so elongated that nothing of its shorter side is left after resizing to a longest edge.
    #[error("image of {width} x {height}: expected 1 pixel or more a side when resized; use a less elongated one")]
    Vanished {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The image is larger than the size that it is padded to.
    #[error(
        "image of {width} x {height}: {resized_height} rows and {resized_width} columns before padding, expected at \
         most {pad_height} and {pad_width}; use a smaller one"
    )]
    Pad {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Rows after resize and crop.
        resized_height: usize,
        /// Columns after resize and crop.
        resized_width: usize,
        /// Rows after padding.
        pad_height: usize,
        /// Columns after padding.
        pad_width: usize,
    },
    /// The image is so elongated that one side would be too long after resizing.
    #[error(
        "image of {width} x {height}: expected sides of at most {RESIZED_SIDE_MAX} pixels when resized, found \
         {resized_width} x {resized_height}; use a less elongated one"
    )]
    Output {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Columns when resized.
        resized_width: usize,
        /// Rows when resized.
        resized_height: usize,
    },
    /// Image, resizing and tensor would take more memory than [`MAX_BYTES`].
    #[error(
        "image of {width} x {height}: preprocessing it takes {needed_bytes} bytes of memory, expected at most \
         {MAX_BYTES}; use a smaller or less elongated one"
    )]
    Memory {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes needed.
        needed_bytes: u64,
    },
    /// The size of the tensor depends on the image, and the image tower takes another size.
    #[error(
        "image of {width} x {height}: {found_height} rows and {found_width} columns when preprocessed, expected \
         {expected_height} and {expected_width}, which the image tower takes; use one of that shape, or export the \
         checkpoint again with --crop {expected_height}x{expected_width}"
    )]
    Shape {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Rows of the tensor.
        found_height: usize,
        /// Columns of the tensor.
        found_width: usize,
        /// Rows that the image tower takes.
        expected_height: usize,
        /// Columns that the image tower takes.
        expected_width: usize,
    },
}

/// Runs a [`PreprocessConfig`]. Buffers and weights are reused, so that a stream of images of one size allocates
/// nothing.
#[derive(Debug)]
pub struct Preprocessor {
    config: PreprocessConfig,
    /// The tensor's value for each pixel value, per channel.
    tables: [[f32; 256]; 3],
    resampler: Resampler,
    resized: Vec<u8>,
    /// The size of the tensor, if it is fixed.
    expected: Option<Size>,
}

impl Preprocessor {
    /// Checks and prepares a configuration.
    ///
    /// # Errors
    /// The configuration has an invalid value.
    pub fn new(config: &PreprocessConfig) -> Result<Self, PreprocessError> {
        config.validate().map_err(|expected| PreprocessError::Config { expected })?;
        // Without a resize step the sizes are equal, and every filter copies.
        let filter = config.resize.as_ref().map_or(Filter::Nearest, |resize| resize.filter);
        let resampler = Resampler::new(config.backend, filter);
        let tables = tables(config);
        Ok(Self { config: config.clone(), tables, resampler, resized: Vec::new(), expected: None })
    }

    /// As [`Self::new`], for an image tower that takes tensors of `size` only.
    pub(crate) fn for_size(config: &PreprocessConfig, size: Size) -> Result<Self, PreprocessError> {
        Ok(Self { expected: Some(size), ..Self::new(config)? })
    }

    /// Size of the tensor's planes for an image of the given size.
    pub fn output_size(&self, picture: Size) -> Size {
        self.config.pad.or(self.config.crop).unwrap_or_else(|| self.config.resized(picture))
    }

    /// Fills `out` with three planes (red, green, blue), rows top to bottom, and returns their size.
    ///
    /// # Errors
    /// The image has another number of bytes than its size says; it is too elongated, or larger than the size it is
    /// padded to; the tensor would have another size than the tower takes
    /// ([`Manifest::preprocessor`](crate::bundle::Manifest::preprocessor)); or more memory than [`MAX_BYTES`] would be
    /// needed. Limits are checked before memory is allocated.
    pub fn run(&mut self, picture: &Picture, out: &mut Vec<f32>) -> Result<Size, PreprocessError> {
        let Picture { width, height, ref rgb, transparent } = *picture;
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if rgb.is_empty() || bytes != Some(rgb.len()) {
            return Err(PreprocessError::Picture { width, height, found: rgb.len() });
        }
        let from = Size { height, width };
        let resized = self.config.resized(from);
        let cropped = self.config.crop.unwrap_or(resized);
        let size = self.config.pad.unwrap_or(cropped);
        self.check_sizes(from, resized, cropped, size)?;
        let rows = Span::new(self.config.backend, resized.height, cropped.height);
        let columns = Span::new(self.config.backend, resized.width, cropped.width);
        let window = Window { size: resized, rows: rows.source.clone(), columns: columns.source.clone() };
        let transparent = transparent.filter(|_| self.config.transparent_on_white);
        self.check_bytes(from, &window, size, transparent.is_some())?;
        let whitened = transparent.map(|color| whitened(rgb, color));
        self.resampler.run(from, whitened.as_ref().unwrap_or(rgb), &window, &mut self.resized);
        self.spread(cropped, size, &rows, &columns, out);
        Ok(size)
    }

    /// Refuses an image that vanishes, or gets a size that is not valid.
    fn check_sizes(&self, from: Size, resized: Size, cropped: Size, size: Size) -> Result<(), PreprocessError> {
        let Size { height, width } = from;
        let Size { height: resized_height, width: resized_width } = resized;
        if resized_height == 0 || resized_width == 0 {
            return Err(PreprocessError::Vanished { width, height });
        }
        if resized_height.max(resized_width) > RESIZED_SIDE_MAX.max(height.max(width)) {
            return Err(PreprocessError::Output { width, height, resized_width, resized_height });
        }
        if cropped.height > size.height || cropped.width > size.width {
            let (resized_height, resized_width) = (cropped.height, cropped.width);
            let (pad_height, pad_width) = (size.height, size.width);
            let error = PreprocessError::Pad { width, height, resized_height, resized_width, pad_height, pad_width };
            return Err(error);
        }
        match self.expected {
            Some(expected) if expected != size => Err(PreprocessError::Shape {
                width,
                height,
                found_height: size.height,
                found_width: size.width,
                expected_height: expected.height,
                expected_width: expected.width,
            }),
            _ => Ok(()),
        }
    }

    /// Refuses an image that needs too much memory on its way to a tensor of `size`.
    fn check_bytes(&self, from: Size, window: &Window, size: Size, is_copied: bool) -> Result<(), PreprocessError> {
        const RGB_BYTES: u64 = 3;
        const TENSOR_BYTES: u64 = 3 * size_of::<f32>() as u64;
        let bytes =
            |height: usize, width: usize, each: u64| (height as u64).saturating_mul(width as u64).saturating_mul(each);
        let parts = [
            bytes(from.height, from.width, if is_copied { 2 * RGB_BYTES } else { RGB_BYTES }),
            self.resampler.bytes(from, window),
            bytes(window.rows.len(), window.columns.len(), RGB_BYTES),
            bytes(size.height, size.width, TENSOR_BYTES),
        ];
        let needed_bytes = parts.into_iter().fold(0, u64::saturating_add);
        if needed_bytes <= MAX_BYTES {
            return Ok(());
        }
        Err(PreprocessError::Memory { width: from.width, height: from.height, needed_bytes })
    }

    /// Converts interleaved bytes to planes of the given size: black around an image that is smaller than the crop, and
    /// zeros after the crop.
    fn spread(&self, cropped: Size, size: Size, rows: &Span, columns: &Span, out: &mut Vec<f32>) {
        let plane = size.height * size.width;
        fit(out, plane * 3);
        for (channel, (plane, table)) in out.chunks_exact_mut(plane).zip(&self.tables).enumerate() {
            if cropped != size {
                plane.fill(0.0);
            }
            let crop = plane.chunks_exact_mut(size.width).take(cropped.height);
            if rows.source.len() < cropped.height || columns.source.len() < cropped.width {
                crop.for_each(|row| row[..cropped.width].fill(table[0]));
            }
            let to = plane.chunks_exact_mut(size.width).skip(rows.before);
            for (to, from) in to.zip(self.resized.chunks_exact(columns.source.len() * 3)) {
                let to = &mut to[columns.before..][..columns.source.len()];
                for (to, pixel) in to.iter_mut().zip(from.chunks_exact(3)) {
                    *to = table[usize::from(pixel[channel])];
                }
            }
        }
    }
}

/// A copy of `rgb` with white in place of a colour.
fn whitened(rgb: &[u8], color: [u8; 3]) -> Vec<u8> {
    let mut out = rgb.to_vec();
    let (pixels, _) = out.as_chunks_mut();
    pixels.iter_mut().filter(|pixel| **pixel == color).for_each(|pixel| *pixel = [255; 3]);
    out
}

/// The tensor's value for each pixel value, per channel.
///
/// On Pillow, rescaling has double precision and normalising single precision. On torchvision, both have single
/// precision; if images are normalised, mean and deviation are rescaled and not the pixels.
fn tables(config: &PreprocessConfig) -> [[f32; 256]; 3] {
    let pillow = config.backend == Backend::Pillow;
    let rescaled = |value: usize| match config.rescale_factor {
        Some(factor) if pillow => (value as f64 * factor) as f32,
        Some(factor) if config.normalize.is_none() => value as f32 * factor as f32,
        _ => value as f32,
    };
    let unit = config.rescale_factor.filter(|_| !pillow).map_or(1.0, |factor| (1.0 / factor) as f32);
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| {
            let value = rescaled(value);
            config
                .normalize
                .map_or(value, |Normalize { mean, std }| (value - mean[channel] * unit) / (std[channel] * unit))
        })
    })
}

/// A centre crop along one axis.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    /// The range of the resized image that is kept.
    source: Range<usize>,
    /// Black pixels before it.
    before: usize,
}

impl Span {
    /// As `transformers.image_transforms.center_crop` on Pillow, which cuts an odd pixel at the end and pads it at the
    /// start. torchvision pads it at the end, and `Fast` processors cut half of an odd margin, rounded to even, at the
    /// start.
    fn new(backend: Backend, have: usize, want: usize) -> Self {
        let (cut, black) = (have.saturating_sub(want), want.saturating_sub(have));
        let start = match backend {
            Backend::Fast if cut % 4 == 3 => cut / 2 + 1,
            _ => cut / 2,
        };
        let before = if backend == Backend::Pillow { black.div_ceil(2) } else { black / 2 };
        Self { source: start..start + have.min(want), before }
    }
}

#[cfg(test)]
mod tests;
