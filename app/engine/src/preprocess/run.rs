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
mod tests {
    use super::super::{Resize, Target};
    use super::*;

    const AS_IS: PreprocessConfig = PreprocessConfig::NONE;

    #[test]
    fn crops_are_centred() {
        let on = |backend, have, want, source: Range<usize>, before| {
            assert_eq!(Span::new(backend, have, want), Span { source, before }, "{want} of {have}");
        };
        let check = |have, want, source: Range<usize>, before| on(Backend::Pillow, have, want, source, before);
        check(8, 8, 0..8, 0);
        check(8, 4, 2..6, 0);
        check(8, 5, 1..6, 0);
        check(7, 4, 1..5, 0);
        check(4, 8, 0..4, 2);
        check(5, 8, 0..5, 2);
        check(4, 7, 0..4, 2);
        check(1, 4, 0..1, 2);
        for backend in [Backend::Fast, Backend::Torchvision] {
            on(backend, 8, 8, 0..8, 0);
            on(backend, 8, 4, 2..6, 0);
            on(backend, 9, 4, 2..6, 0);
            on(backend, 5, 8, 0..5, 1);
            on(backend, 1, 4, 0..1, 1);
            on(backend, 4, 8, 0..4, 2);
        }
        on(Backend::Fast, 7, 4, 2..6, 0);
        on(Backend::Torchvision, 7, 4, 1..5, 0);
    }

    #[test]
    fn planes_follow_the_configuration() {
        let picture =
            Picture { width: 2, height: 1, rgb: vec![0, 51, 102, 255, 204, 153], transparent: Some([0, 51, 102]) };
        let check = |config: PreprocessConfig, expected: &[f32]| {
            let mut out = vec![9.0; 99];
            let mut preprocessor = Preprocessor::new(&config).expect("a valid configuration");
            preprocessor.run(&picture, &mut out).expect("a valid image");
            assert_eq!(out, expected, "{config:?}");
        };
        check(AS_IS, &[0.0, 255.0, 51.0, 204.0, 102.0, 153.0]);
        let rescale_factor = Some(1.0 / 255.0);
        check(PreprocessConfig { rescale_factor, ..AS_IS }, &[0.0, 1.0, 0.2, 0.8, 0.4, 0.6]);
        let normalize = Some(Normalize { mean: [0.5; 3], std: [0.5, 1.0, 2.0] });
        check(
            PreprocessConfig { rescale_factor, crop: Some(Size { height: 1, width: 1 }), normalize, ..AS_IS },
            &[-1.0, 0.2 - 0.5, (0.4 - 0.5) / 2.0],
        );
        check(
            PreprocessConfig { crop: Some(Size { height: 1, width: 3 }), ..AS_IS },
            &[0.0, 0.0, 255.0, 0.0, 51.0, 204.0, 0.0, 102.0, 153.0],
        );
        let (pad, normalize) = (Some(Size { height: 2, width: 3 }), Some(Normalize { mean: [1.0; 3], std: [2.0; 3] }));
        check(
            PreprocessConfig {
                crop: Some(Size { height: 1, width: 1 }),
                normalize,
                pad,
                backend: Backend::Torchvision,
                ..AS_IS
            },
            &[-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 25.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        );
        check(PreprocessConfig { transparent_on_white: true, ..AS_IS }, &[255.0, 255.0, 255.0, 204.0, 255.0, 153.0]);
    }

    #[test]
    fn invalid_images_are_refused() {
        let edge = Some(Resize { to: Target::ShortestEdge(4096), filter: Filter::Box });
        let edges = Some(Resize { to: Target::Edges { shortest: 24, longest: 48 }, filter: Filter::Box });
        let check = |config: &PreprocessConfig, width, height, bytes: usize, expected: &str| {
            let mut preprocessor = Preprocessor::new(config).expect("a valid configuration");
            let picture = Picture { width, height, rgb: vec![0; bytes], transparent: None };
            let message = preprocessor.run(&picture, &mut Vec::new()).expect_err("refused").to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        };
        check(&AS_IS, 0, 0, 0, "1 pixel or more");
        check(&AS_IS, 2, 2, 11, "found 11 bytes");
        check(&AS_IS, usize::MAX, 2, 12, "found 12 bytes");
        check(&PreprocessConfig { resize: edge, ..AS_IS }, 1, 50_000, 150_000, "less elongated");
        check(&PreprocessConfig { resize: edges, ..AS_IS }, 300, 1, 900, "1 pixel or more a side");
        let exact = Some(Resize { to: Target::Exact(Size { height: 4096, width: 4096 }), filter: Filter::Bicubic });
        let backend = Backend::Torchvision;
        // The image is small, but the buffer between the two passes is not.
        check(
            &PreprocessConfig { resize: exact, backend, ..AS_IS },
            1,
            60_000,
            180_000,
            "a smaller or less elongated one",
        );
        check(&AS_IS, 5000, 3000, 45_000_000, "a smaller or less elongated one");
        let pad = Some(Size { height: 9, width: 2 });
        check(
            &PreprocessConfig { pad, ..AS_IS },
            3,
            9,
            81,
            "9 rows and 3 columns before padding, expected at most 9 and 2",
        );
    }
    #[test]
    fn a_tensor_that_the_tower_does_not_take_is_refused() {
        let check = |to: Target, crop: Option<Size>, (width, height): (usize, usize), expected: Option<&str>| {
            let config = PreprocessConfig { resize: Some(Resize { to, filter: Filter::Bilinear }), crop, ..AS_IS };
            let mut preprocessor = Preprocessor::for_size(&config, Size { height: 8, width: 8 }).expect("valid");
            let picture = Picture { width, height, rgb: vec![0; width * height * 3], transparent: None };
            let found = preprocessor.run(&picture, &mut Vec::new()).err().map(|error| error.to_string());
            let is_right = match (&found, expected) {
                (Some(found), Some(part)) => found.contains(part),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_right, "{to:?} of {width} x {height}: {found:?}");
        };
        let (edge, square) = (Target::ShortestEdge(8), Some(Size { height: 8, width: 8 }));
        check(edge, None, (20, 20), None);
        check(edge, square, (1, 400), None);
        check(edge, None, (1, 400), Some("3200 rows and 8 columns when preprocessed, expected 8 and 8"));
        check(edge, None, (1, 40_000), Some("320000 rows and 8 columns when preprocessed"));
        check(Target::Exact(Size { height: 9, width: 8 }), None, (20, 20), Some("9 rows and 8 columns"));
    }

    #[test]
    fn camera_images_fit_every_configuration() {
        let check = |to: Target, backend: Backend, (width, height): (usize, usize), fits: bool| {
            let resize = Some(Resize { to, filter: Filter::Bicubic });
            let crop = Some(Size { height: 224, width: 224 });
            let preprocessor = Preprocessor::new(&PreprocessConfig { resize, crop, backend, ..AS_IS }).expect("valid");
            let from = Size { height, width };
            let size = preprocessor.config.resized(from);
            let window = Window { size, rows: 0..224, columns: 0..224 };
            let found = preprocessor.check_bytes(from, &window, Size { height: 224, width: 224 }, false);
            assert_eq!(found.is_ok(), fits, "{to:?} of {width} x {height}: {found:?}");
        };
        let (edge, exact) = (Target::ShortestEdge(256), Target::Exact(Size { height: 256, width: 256 }));
        for backend in [Backend::Pillow, Backend::Fast, Backend::Torchvision] {
            for to in [edge, exact] {
                check(to, backend, (9504, 6336), true);
                check(to, backend, (6336, 9504), true);
                check(to, backend, (65_535, 1_024), true);
                check(to, backend, (1_000, 65_535), true);
            }
            check(exact, backend, (10_000, 10_000), false);
        }
    }
}
