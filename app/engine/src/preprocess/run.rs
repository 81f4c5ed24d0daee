//! The recipe at work.

use std::ops::Range;

use super::resample::{Resampler, Window};
use super::{Filter, Normalize, Recipe, Size};
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
    resized: Vec<u8>,
}

impl Preprocessor {
    /// Checks the recipe and prepares for it.
    pub fn new(recipe: &Recipe) -> Result<Self, PreprocessError> {
        recipe.validate().map_err(|expected| PreprocessError::Recipe { expected })?;
        let resampler = Resampler::default();
        Ok(Self { recipe: recipe.clone(), tables: tables(recipe), resampler, resized: Vec::new() })
    }

    /// Size of the tensor's planes for a picture of the given size.
    pub fn output_size(&self, picture: Size) -> Size {
        self.recipe.crop.unwrap_or_else(|| self.recipe.resized(picture))
    }

    /// Fills `out` with three planes (red, green, blue), rows top to bottom, and returns their size.
    pub fn run(&mut self, picture: &Picture, out: &mut Vec<f32>) -> Result<Size, PreprocessError> {
        let Picture { width, height, ref rgb } = *picture;
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if rgb.is_empty() || bytes != Some(rgb.len()) {
            return Err(PreprocessError::Picture { width, height, found: rgb.len() });
        }
        let from = Size { height, width };
        let resized = self.recipe.resized(from);
        if resized.height == 0 || resized.width == 0 {
            return Err(PreprocessError::Vanished { width, height });
        }
        let size = self.recipe.crop.unwrap_or(resized);
        if size.height.saturating_mul(size.width) > MAX_PIXELS {
            return Err(PreprocessError::Output { width, height });
        }
        let rows = Span::new(resized.height, size.height);
        let columns = Span::new(resized.width, size.width);
        let window = Window { size: resized, rows: rows.source.clone(), columns: columns.source.clone() };
        // Without a resize step the sizes are equal, and every filter copies.
        let filter = self.recipe.resize.as_ref().map_or(Filter::Nearest, |resize| resize.filter);
        self.resampler.run(filter, from, rgb, &window, &mut self.resized);
        self.spread(size, &rows, &columns, out);
        Ok(size)
    }

    /// Interleaved bytes to planes of numbers, with black around where the crop is larger than the picture.
    fn spread(&self, size: Size, rows: &Span, columns: &Span, out: &mut Vec<f32>) {
        let plane = size.height * size.width;
        out.resize(plane * 3, 0.0);
        for (channel, (plane, table)) in out.chunks_exact_mut(plane).zip(&self.tables).enumerate() {
            if rows.source.len() < size.height || columns.source.len() < size.width {
                plane.fill(table[0]);
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

/// Rescaling in double precision, then normalising in single precision, as the reference's arrays do.
fn tables(recipe: &Recipe) -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| {
            let value = recipe.rescale_factor.map_or(value as f32, |factor| (value as f64 * factor) as f32);
            recipe.normalize.map_or(value, |Normalize { mean, std }| (value - mean[channel]) / std[channel])
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
    /// As `transformers.image_transforms.center_crop`: an odd pixel is cut from the end, or padded at the start.
    fn new(have: usize, want: usize) -> Self {
        let start = have.saturating_sub(want) / 2;
        Self { source: start..start + have.min(want), before: want.saturating_sub(have).div_ceil(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resize, Target};
    use super::*;

    const AS_IS: Recipe = Recipe { resize: None, crop: None, rescale_factor: None, normalize: None };

    #[test]
    fn crops_are_centred() {
        let check = |have, want, source: Range<usize>, before| {
            assert_eq!(Span::new(have, want), Span { source, before }, "{want} of {have}");
        };
        check(8, 8, 0..8, 0);
        check(8, 4, 2..6, 0);
        check(8, 5, 1..6, 0);
        check(7, 4, 1..5, 0);
        check(4, 8, 0..4, 2);
        check(5, 8, 0..5, 2);
        check(4, 7, 0..4, 2);
        check(1, 4, 0..1, 2);
    }

    #[test]
    fn planes_follow_the_recipe() {
        let picture = Picture { width: 2, height: 1, rgb: vec![0, 51, 102, 255, 204, 153] };
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
    }

    #[test]
    fn a_picture_that_is_not_its_size_is_refused() {
        let edge = Some(Resize { to: Target::ShortestEdge(4096), filter: Filter::Box });
        let edges = Some(Resize { to: Target::Edges { shortest: 24, longest: 48 }, filter: Filter::Box });
        let check = |recipe: &Recipe, width, height, bytes: usize, expected: &str| {
            let mut preprocessor = Preprocessor::new(recipe).expect("a valid recipe");
            let picture = Picture { width, height, rgb: vec![0; bytes] };
            let message = preprocessor.run(&picture, &mut Vec::new()).expect_err("refused").to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        };
        check(&AS_IS, 0, 0, 0, "1 pixel or more");
        check(&AS_IS, 2, 2, 11, "found 11 bytes");
        check(&AS_IS, usize::MAX, 2, 12, "found 12 bytes");
        check(&Recipe { resize: edge, ..AS_IS }, 1, 50_000, 150_000, "less elongated");
        check(&Recipe { resize: edges, ..AS_IS }, 300, 1, 900, "1 pixel or more a side");
    }
}
