//! The recipe at work.

use std::ops::Range;

use super::resample::{Resampler, Window};
use super::{Backend, Filter, Normalize, Recipe, Size};
use crate::picture::{MAX_PIXELS, Picture};

/// Why a picture could not become a tensor.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The recipe has a value that cannot be right.
    #[error("preprocessing recipe: expected {expected}; correct the bundle's manifest")]
    Recipe {
        /// What would be accepted.
        expected: String,
    },
    /// The picture's buffer does not have the picture's size.
    #[error(
        "picture of {width} x {height}: expected width * height * 3 bytes and 1 pixel or more, found {found} bytes"
    )]
    Picture {
        /// Columns claimed.
        width: usize,
        /// Rows claimed.
        height: usize,
        /// Bytes found.
        found: usize,
    },
    /// The picture is so elongated that a longest edge leaves nothing of its shorter side.
    #[error("picture of {width} x {height}: expected 1 pixel or more a side when resized; use a less elongated one")]
    Vanished {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The picture is larger than what it shall be padded to.
    #[error(
        "picture of {width} x {height}: {resized_height} rows and {resized_width} columns before padding, expected at \
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
        /// Rows wanted.
        pad_height: usize,
        /// Columns wanted.
        pad_width: usize,
    },
    /// The picture is so elongated that the whole of it, resized, is too large.
    #[error(
        "picture of {width} x {height}: expected at most {MAX_PIXELS} pixels when resized; use a less elongated one"
    )]
    Output {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// Carries out a [`Recipe`]; buffers and weights are kept, so that a stream of pictures of one size allocates nothing.
#[derive(Debug)]
pub struct Preprocessor {
    recipe: Recipe,
    /// Per channel the tensor's value for each pixel value.
    tables: [[f32; 256]; 3],
    resampler: Resampler,
    /// The picture with its transparent pixels white, where there are some.
    whitened: Vec<u8>,
    resized: Vec<u8>,
}

impl Preprocessor {
    /// Checks the recipe and prepares for it.
    pub fn new(recipe: &Recipe) -> Result<Self, PreprocessError> {
        recipe.validate().map_err(|expected| PreprocessError::Recipe { expected })?;
        // Without a resize step the sizes are equal, and every filter copies.
        let filter = recipe.resize.as_ref().map_or(Filter::Nearest, |resize| resize.filter);
        let resampler = Resampler::new(recipe.backend, filter);
        let (whitened, resized) = (Vec::new(), Vec::new());
        Ok(Self { recipe: recipe.clone(), tables: tables(recipe), resampler, whitened, resized })
    }

    /// Size of the tensor's planes for a picture of the given size.
    pub fn output_size(&self, picture: Size) -> Size {
        self.recipe.pad.or(self.recipe.crop).unwrap_or_else(|| self.recipe.resized(picture))
    }

    /// Fills `out` with three planes (red, green, blue), rows top to bottom, and returns their size.
    pub fn run(&mut self, picture: &Picture, out: &mut Vec<f32>) -> Result<Size, PreprocessError> {
        let Picture { width, height, ref rgb, transparent } = *picture;
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if rgb.is_empty() || bytes != Some(rgb.len()) {
            return Err(PreprocessError::Picture { width, height, found: rgb.len() });
        }
        let from = Size { height, width };
        let resized = self.recipe.resized(from);
        if resized.height == 0 || resized.width == 0 {
            return Err(PreprocessError::Vanished { width, height });
        }
        let cropped = self.recipe.crop.unwrap_or(resized);
        if cropped.height.saturating_mul(cropped.width) > MAX_PIXELS {
            return Err(PreprocessError::Output { width, height });
        }
        let size = self.recipe.pad.unwrap_or(cropped);
        if cropped.height > size.height || cropped.width > size.width {
            let (resized_height, resized_width) = (cropped.height, cropped.width);
            let (pad_height, pad_width) = (size.height, size.width);
            let error = PreprocessError::Pad { width, height, resized_height, resized_width, pad_height, pad_width };
            return Err(error);
        }
        let rows = Span::new(self.recipe.backend, resized.height, cropped.height);
        let columns = Span::new(self.recipe.backend, resized.width, cropped.width);
        let window = Window { size: resized, rows: rows.source.clone(), columns: columns.source.clone() };
        let rgb = match transparent {
            Some(color) if self.recipe.transparent_on_white => {
                whiten(rgb, color, &mut self.whitened);
                &self.whitened
            }
            _ => rgb,
        };
        self.resampler.run(from, rgb, &window, &mut self.resized);
        self.spread(cropped, size, &rows, &columns, out);
        Ok(size)
    }

    /// Interleaved bytes to planes of numbers of the given size, with black around where the crop is larger than the
    /// picture, and zeros behind the crop.
    fn spread(&self, cropped: Size, size: Size, rows: &Span, columns: &Span, out: &mut Vec<f32>) {
        let plane = size.height * size.width;
        out.resize(plane * 3, 0.0);
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

/// Fills `out` with `rgb`, whose pixels of the given color become white.
fn whiten(rgb: &[u8], color: [u8; 3], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(rgb);
    let (pixels, _) = out.as_chunks_mut();
    pixels.iter_mut().filter(|pixel| **pixel == color).for_each(|pixel| *pixel = [255; 3]);
}

/// Per channel the tensor's value for each pixel value.
///
/// On Pillow, rescaling is done in double precision, then normalising in single precision. On torchvision, all is done in
/// single precision, and pictures are not rescaled where they are normalised, too: mean and deviation are.
fn tables(recipe: &Recipe) -> [[f32; 256]; 3] {
    let pillow = recipe.backend == Backend::Pillow;
    let rescaled = |value: usize| match recipe.rescale_factor {
        Some(factor) if pillow => (value as f64 * factor) as f32,
        Some(factor) if recipe.normalize.is_none() => value as f32 * factor as f32,
        _ => value as f32,
    };
    let unit = recipe.rescale_factor.filter(|_| !pillow).map_or(1.0, |factor| (1.0 / factor) as f32);
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| {
            let value = rescaled(value);
            recipe
                .normalize
                .map_or(value, |Normalize { mean, std }| (value - mean[channel] * unit) / (std[channel] * unit))
        })
    })
}

/// A centre crop along one axis.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    /// What is taken of the resized picture.
    source: Range<usize>,
    /// Black before it.
    before: usize,
}

impl Span {
    /// As `transformers.image_transforms.center_crop` does it on Pillow: an odd pixel is cut from the end, or padded at the
    /// start. On torchvision it is padded at the end; the `Fast` processors cut at the start what half an odd margin is,
    /// rounded to even.
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

    const AS_IS: Recipe = Recipe::NONE;

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
    fn planes_follow_the_recipe() {
        let picture =
            Picture { width: 2, height: 1, rgb: vec![0, 51, 102, 255, 204, 153], transparent: Some([0, 51, 102]) };
        let check = |recipe: Recipe, expected: &[f32]| {
            let mut out = vec![9.0; 99];
            let mut preprocessor = Preprocessor::new(&recipe).expect("a valid recipe");
            preprocessor.run(&picture, &mut out).expect("a valid picture");
            assert_eq!(out, expected, "{recipe:?}");
        };
        check(AS_IS, &[0.0, 255.0, 51.0, 204.0, 102.0, 153.0]);
        let rescale_factor = Some(1.0 / 255.0);
        check(Recipe { rescale_factor, ..AS_IS }, &[0.0, 1.0, 0.2, 0.8, 0.4, 0.6]);
        let normalize = Some(Normalize { mean: [0.5; 3], std: [0.5, 1.0, 2.0] });
        check(
            Recipe { rescale_factor, crop: Some(Size { height: 1, width: 1 }), normalize, ..AS_IS },
            &[-1.0, 0.2 - 0.5, (0.4 - 0.5) / 2.0],
        );
        check(
            Recipe { crop: Some(Size { height: 1, width: 3 }), ..AS_IS },
            &[0.0, 0.0, 255.0, 0.0, 51.0, 204.0, 0.0, 102.0, 153.0],
        );
        let (pad, normalize) = (Some(Size { height: 2, width: 3 }), Some(Normalize { mean: [1.0; 3], std: [2.0; 3] }));
        check(
            Recipe { crop: Some(Size { height: 1, width: 1 }), normalize, pad, backend: Backend::Torchvision, ..AS_IS },
            &[-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 25.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        );
        check(Recipe { transparent_on_white: true, ..AS_IS }, &[255.0, 255.0, 255.0, 204.0, 255.0, 153.0]);
    }

    #[test]
    fn a_picture_that_is_not_its_size_is_refused() {
        let edge = Some(Resize { to: Target::ShortestEdge(4096), filter: Filter::Box });
        let edges = Some(Resize { to: Target::Edges { shortest: 24, longest: 48 }, filter: Filter::Box });
        let check = |recipe: &Recipe, width, height, bytes: usize, expected: &str| {
            let mut preprocessor = Preprocessor::new(recipe).expect("a valid recipe");
            let picture = Picture { width, height, rgb: vec![0; bytes], transparent: None };
            let message = preprocessor.run(&picture, &mut Vec::new()).expect_err("refused").to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        };
        check(&AS_IS, 0, 0, 0, "1 pixel or more");
        check(&AS_IS, 2, 2, 11, "found 11 bytes");
        check(&AS_IS, usize::MAX, 2, 12, "found 12 bytes");
        check(&Recipe { resize: edge, ..AS_IS }, 1, 50_000, 150_000, "less elongated");
        check(&Recipe { resize: edges, ..AS_IS }, 300, 1, 900, "1 pixel or more a side");
        let pad = Some(Size { height: 9, width: 2 });
        check(&Recipe { pad, ..AS_IS }, 3, 9, 81, "9 rows and 3 columns before padding, expected at most 9 and 2");
    }
}
