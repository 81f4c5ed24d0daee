//! Preprocessing: from an RGB image to the image tower's input, as the checkpoint's image processor does it.
//!
//! The steps are resize (on 8-bit pixels), centre crop, rescale, normalise, pad. This is their only implementation; the
//! live loop, calibration and evaluation all use it.
//!
//! transformers has each image processor twice, on Pillow with NumPy and on torchvision. They differ in the weights and
//! order of resampling, in the position of a crop with an odd margin, and in the last bit of normalised values;
//! [`Backend`] tells which of them a configuration follows.

mod filter;
mod resample;
mod run;
mod size;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::picture::Picture;

pub use run::{PreprocessError, Preprocessor};

/// The longest side in pixels that a configuration may ask for. Image towers take a tenth of it; a mistyped number must
/// not fill the memory.
pub const MAX_SIDE: usize = 4096;

/// The preprocessing steps of an image tower, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Resizing, if any.
    pub resize: Option<Resize>,
    /// Centre crop to this size, padded with black where the image is smaller.
    pub crop: Option<Size>,
    /// Factor on the 0..=255 pixel values, if any.
    pub rescale_factor: Option<f64>,
    /// Mean and standard deviation per channel, if any.
    pub normalize: Option<Normalize>,
    /// Zeros to the right of and below the normalised image, up to this size, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<Size>,
    /// The implementation whose arithmetic is followed.
    #[serde(default, skip_serializing_if = "Backend::is_default")]
    pub backend: Backend,
    /// True if pixels of the colour that the file marks as transparent ([`Picture::transparent`]) become white.
    #[serde(default, skip_serializing_if = "is_false")]
    pub transparent_on_white: bool,
}

impl PreprocessConfig {
    /// A configuration without steps, on Pillow: the rest of a configuration that is written out in code, as in
    /// `PreprocessConfig { crop, ..PreprocessConfig::NONE }`.
    pub const NONE: Self = Self {
        resize: None,
        crop: None,
        rescale_factor: None,
        normalize: None,
        pad: None,
        backend: Backend::Pillow,
        transparent_on_white: false,
    };
}

/// Implementations of image processors in transformers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Pillow and NumPy: image processors of transformers 4 without a suffix, and those of transformers 5 with the
    /// suffix `Pil`.
    #[default]
    Pillow,
    /// torchvision, as in image processors of transformers 4 with the suffix `Fast`.
    Fast,
    /// torchvision, as in image processors of transformers 5, which place crops differently.
    Torchvision,
}

impl Backend {
    /// True if a manifest can omit it.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if it has this resampling filter.
    pub fn has(self, filter: Filter) -> bool {
        self == Self::Pillow || !matches!(filter, Filter::Box | Filter::Hamming)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Height and width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A resize step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The resulting size.
    pub to: Target,
    /// The resampling filter.
    pub filter: Filter,
}

/// The resulting size of a resize step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Exactly this size; the aspect ratio may change.
    Exact(Size),
    /// The shorter side gets this many pixels, the longer side `edge * long / short`, rounded down.
    ShortestEdge(usize),
    /// As `ShortestEdge` if the longer side is then at most `longest`; else the longer side gets `longest` pixels and
    /// the shorter side fewer than `shortest`.
    Edges {
        /// Pixels of the shorter side.
        shortest: usize,
        /// The most pixels of the longer side.
        longest: usize,
    },
}

/// Resampling filters, with the numbers that Pillow and the image processors' `resample` use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// 0.
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    Bilinear,
    /// 3.
    Bicubic,
    /// 4.
    Box,
    /// 5.
    Hamming,
}

/// Per-channel normalisation: `(x - mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Mean of red, green, blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green, blue.
    pub std: [f32; 3],
}

impl PreprocessConfig {
    /// Checks the values. The error says which values are valid.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let accept = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        let side = |pixels: usize| (1..=MAX_SIDE).contains(&pixels);
        let size = |size: Size| side(size.height) && side(size.width);
        if let Some(resize) = &self.resize {
            let fits = match resize.to {
                Target::Exact(exact) => size(exact),
                Target::ShortestEdge(edge) => side(edge),
                Target::Edges { shortest, longest } => side(shortest) && side(longest),
            };
            accept(fits, &format!("resize.to: sides of 1 to {MAX_SIDE} pixels"))?;
            let filter = "resize.filter: nearest, lanczos, bilinear or bicubic, which torchvision has";
            accept(self.backend.has(resize.filter), filter)?;
        }
        accept(self.crop.is_none_or(size), &format!("crop: sides of 1 to {MAX_SIDE} pixels"))?;
        accept(self.pad.is_none_or(size), &format!("pad: sides of 1 to {MAX_SIDE} pixels"))?;
        let fits =
            self.crop.zip(self.pad).is_none_or(|(crop, pad)| crop.height <= pad.height && crop.width <= pad.width);
        accept(fits, "pad: sides of the crop's or more")?;
        let factor = self.rescale_factor.is_none_or(|factor| factor.is_finite() && factor != 0.0);
        accept(factor, "rescale_factor: a finite number other than 0")?;
        let Some(Normalize { mean, std }) = self.normalize else { return Ok(()) };
        accept(mean.iter().all(|mean| mean.is_finite()), "normalize.mean: three finite numbers")?;
        accept(std.iter().all(|&std| std.is_finite() && std > 0.0), "normalize.std: three finite numbers above 0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: Size = Size { height: 48, width: 48 };

    fn config() -> PreprocessConfig {
        PreprocessConfig {
            resize: Some(Resize { to: Target::Exact(SQUARE), filter: Filter::Bilinear }),
            rescale_factor: Some(1.0 / 255.0),
            normalize: Some(Normalize { mean: [0.5; 3], std: [0.5; 3] }),
            ..PreprocessConfig::NONE
        }
    }

    #[test]
    fn invalid_values_are_refused_with_the_valid_ones() {
        let check = |change: &dyn Fn(&mut PreprocessConfig), expected: &str| {
            let mut config = config();
            change(&mut config);
            let found = config.validate().err().unwrap_or_default();
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{config:?}: {found:?}");
        };
        let exact = |height, width| Some(Resize { to: Target::Exact(Size { height, width }), filter: Filter::Box });
        let edge = |edge| Some(Resize { to: Target::ShortestEdge(edge), filter: Filter::Box });
        let edges = |shortest, longest| Some(Resize { to: Target::Edges { shortest, longest }, filter: Filter::Box });
        check(&|_| {}, "");
        check(&|r| *r = PreprocessConfig::NONE, "");
        check(&|r| r.resize = exact(1, MAX_SIDE), "");
        check(&|r| r.resize = exact(0, 48), "resize.to");
        check(&|r| r.resize = exact(48, MAX_SIDE + 1), "resize.to");
        check(&|r| r.resize = edge(0), "resize.to");
        check(&|r| r.resize = edge(usize::MAX), "resize.to");
        check(&|r| r.resize = edges(1, MAX_SIDE), "");
        check(&|r| r.resize = edges(0, 48), "resize.to");
        check(&|r| r.resize = edges(48, 0), "resize.to");
        check(&|r| r.crop = Some(Size { height: 48, width: 0 }), "crop");
        check(&|r| r.pad = Some(SQUARE), "");
        check(&|r| r.pad = Some(Size { height: 48, width: 0 }), "pad");
        check(&|r| (r.crop, r.pad) = (Some(SQUARE), Some(Size { height: 47, width: 48 })), "pad");
        check(&|r| r.backend = Backend::Fast, "");
        for filter in [Filter::Box, Filter::Hamming] {
            let resize = Some(Resize { to: Target::Exact(SQUARE), filter });
            check(&|r| (r.backend, r.resize) = (Backend::Torchvision, resize.clone()), "resize.filter");
        }
        for factor in [0.0, f64::NAN, f64::INFINITY] {
            check(&|r| r.rescale_factor = Some(factor), "rescale_factor");
        }
        check(&|r| r.normalize = Some(Normalize { mean: [0.5, f32::NAN, 0.5], std: [0.5; 3] }), "normalize.mean");
        for std in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            check(&|r| r.normalize = Some(Normalize { mean: [0.5; 3], std: [0.5, 0.5, std] }), "normalize.std");
        }
    }
}
