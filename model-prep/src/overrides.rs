//! Values that override those of a checkpoint. The bundle records what was changed and why.

use std::fmt;
use std::str::FromStr;

use spotter_engine::bundle::Override;
use spotter_engine::preprocess::{MAX_SIDE, Size, Target};
use spotter_engine::score::LOGIT_SCALE_MAX;

/// The recorded reason where none was given.
const NO_REASON: &str = "given on the command line";

/// Prompt template of a checkpoint that names none, the one that CLIP introduced.
pub(crate) const DEFAULT_TEMPLATE: &str = "a photo of a {}.";

/// Names of the options, on the command line and in the record.
pub(crate) const RESIZE: &str = "resize";
pub(crate) const CROP: &str = "crop";
pub(crate) const IMAGE_SIZE: &str = "image-size";
pub(crate) const IMAGE_PROCESSOR: &str = "image-processor";
pub(crate) const LOGIT_SCALE: &str = "logit-scale";
pub(crate) const TEMPLATE: &str = "template";
/// For ONNX towers only.
pub(crate) const TEXT_PADDING: &str = "text-padding";

/// A recorded override that this version cannot apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("override {key}: expected {expected}, found {found:?}; export the bundle again with this version")]
pub struct OverrideError {
    /// The option's name.
    pub key: String,
    /// The accepted values.
    pub expected: String,
    /// The recorded value.
    pub found: String,
}

/// Values that override those of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// The resize step of the preprocessing.
    pub resize: Option<ResizeTo>,
    /// The crop step of the preprocessing.
    pub crop: Option<CropTo>,
    /// The implementation of the image processor.
    pub image_processor: Option<ImageProcessor>,
    /// The size of the image tower's input; position embeddings are interpolated.
    pub image_size: Option<ImageSize>,
    /// The logit scale.
    pub logit_scale: Option<ScaleTo>,
    /// Prompt templates; empty to keep the default.
    pub templates: Vec<String>,
    /// The reason, for the record.
    pub reason: Option<String>,
}

impl Overrides {
    /// Restores the overrides that a bundle recorded, so that its checkpoint can be opened the same way again.
    pub fn recorded(record: &[Override]) -> Result<Self, OverrideError> {
        let mut overrides = Self::default();
        for Override { key, to, .. } in record {
            let wrong = |expected: String| OverrideError { key: key.clone(), expected, found: to.clone() };
            match key.as_str() {
                RESIZE => overrides.resize = Some(to.parse().map_err(wrong)?),
                CROP => overrides.crop = Some(to.parse().map_err(wrong)?),
                IMAGE_PROCESSOR => overrides.image_processor = Some(to.parse().map_err(wrong)?),
                IMAGE_SIZE => overrides.image_size = Some(to.parse().map_err(wrong)?),
                LOGIT_SCALE => overrides.logit_scale = Some(to.parse().map_err(wrong)?),
                TEMPLATE => overrides.templates.push(to.clone()),
                // Recorded for ONNX towers only, which have no checkpoint to open again.
                TEXT_PADDING => {}
                _ => {
                    let known = [RESIZE, CROP, IMAGE_SIZE, IMAGE_PROCESSOR, LOGIT_SCALE, TEMPLATE];
                    return Err(wrong(format!("one of {}", known.join(", "))));
                }
            }
        }
        Ok(overrides)
    }

    /// The record's entries for templates, which checkpoints do not contain.
    pub(crate) fn template_entries(&self) -> Vec<Override> {
        let entry = |template: &String| self.entry(TEMPLATE, DEFAULT_TEMPLATE.into(), template.clone());
        self.templates.iter().map(entry).collect()
    }

    /// An entry for the record.
    pub(crate) fn entry(&self, key: &str, from: String, to: String) -> Override {
        let reason = self.reason.clone().unwrap_or_else(|| NO_REASON.to_owned());
        Override { key: key.to_owned(), from, to, reason }
    }
}

/// The size that images are resized to, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeTo(pub Option<Target>);

/// The size that images are cropped to, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropTo(pub Option<Size>);

/// The size of the image tower's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize(pub Size);

/// The reference's implementations of an image processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageProcessor {
    /// transformers 4, a class without a suffix: on Pillow, each class with its own steps.
    Slow,
    /// transformers 4, a class called `Fast`: on torchvision.
    Fast,
    /// transformers 5, on Pillow.
    Pil,
    /// transformers 5, on torchvision.
    Torchvision,
}

impl ImageProcessor {
    const ALL: [Self; 4] = [Self::Slow, Self::Fast, Self::Pil, Self::Torchvision];
}

impl FromStr for ImageProcessor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.to_string() == text);
        found.ok_or_else(|| {
            "slow or fast (of transformers 4, on Pillow or torchvision), pil or torchvision (of transformers 5)"
                .to_owned()
        })
    }
}

impl fmt::Display for ImageProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slow => "slow",
            Self::Fast => "fast",
            Self::Pil => "pil",
            Self::Torchvision => "torchvision",
        })
    }
}

/// A logit scale, as a natural logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleTo(pub f32);

impl FromStr for ScaleTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f32>().ok().filter(|number| number.is_finite());
        let factor = |text: &str| number(text).filter(|factor| *factor > 0.0).map(f32::ln);
        let value = text.strip_prefix('x').map_or_else(|| number(text), factor);
        value.filter(|value| *value < LOGIT_SCALE_MAX).map(Self).ok_or_else(|| {
            format!("a natural logarithm below {LOGIT_SCALE_MAX}, or the factor itself after an x, as in x100")
        })
    }
}

impl fmt::Display for ScaleTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ResizeTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let edges = |(shortest, longest): (&str, &str)| {
            Some(Target::Edges { shortest: side(shortest)?, longest: side(longest)? })
        };
        let target = || {
            let exact = size(text).map(Target::Exact);
            exact.or_else(|| text.split_once("..").and_then(edges)).or_else(|| side(text).map(Target::ShortestEdge))
        };
        none_or(text, target).map(Self).ok_or_else(|| {
            format!("shorter side in pixels, HEIGHTxWIDTH, SHORTEST..LONGEST, or none; sides of 1 to {MAX_SIDE}")
        })
    }
}

impl FromStr for CropTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        none_or(text, || square_or_size(text))
            .map(Self)
            .ok_or_else(|| format!("side of a square in pixels, HEIGHTxWIDTH, or none; sides of 1 to {MAX_SIDE}"))
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        square_or_size(text)
            .map(Self)
            .ok_or_else(|| format!("side of a square in pixels, or HEIGHTxWIDTH; sides of 1 to {MAX_SIDE}"))
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.0.height, self.0.width)
    }
}

impl fmt::Display for ResizeTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(Target::Exact(Size { height, width })) => write!(f, "{height}x{width}"),
            Some(Target::ShortestEdge(edge)) => write!(f, "{edge}"),
            Some(Target::Edges { shortest, longest }) => write!(f, "{shortest}..{longest}"),
        }
    }
}

impl fmt::Display for CropTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(Size { height, width }) => write!(f, "{height}x{width}"),
        }
    }
}

fn none_or<T>(text: &str, parse: impl Fn() -> Option<T>) -> Option<Option<T>> {
    if text == "none" { Some(None) } else { parse().map(Some) }
}

fn square_or_size(text: &str) -> Option<Size> {
    size(text).or_else(|| side(text).map(|side| Size { height: side, width: side }))
}

fn size(text: &str) -> Option<Size> {
    let (height, width) = text.split_once('x')?;
    Some(Size { height: side(height)?, width: side(width)? })
}

fn side(text: &str) -> Option<usize> {
    text.parse().ok().filter(|pixels| (1..=MAX_SIDE).contains(pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_formatted_as_they_are_parsed() {
        let exact = |height, width| Some(Some(Target::Exact(Size { height, width })));
        let check = |text: &str, resize: Option<Option<Target>>, crop: Option<Option<Size>>| {
            assert_eq!(text.parse().ok(), resize.map(ResizeTo), "{text:?}");
            assert_eq!(text.parse().ok(), crop.map(CropTo), "{text:?}");
            if let Some(resize) = resize {
                assert_eq!(ResizeTo(resize).to_string(), text);
            }
            if let Some(crop) = crop {
                assert_eq!(CropTo(crop).to_string().parse(), Ok(CropTo(crop)), "{text:?}");
            }
        };
        let square = |side| Some(Some(Size { height: side, width: side }));
        check("none", Some(None), Some(None));
        check("224", Some(Some(Target::ShortestEdge(224))), square(224));
        check("30x40", exact(30, 40), Some(Some(Size { height: 30, width: 40 })));
        check("24..30", Some(Some(Target::Edges { shortest: 24, longest: 30 })), None);
        check("4096x1", exact(4096, 1), Some(Some(Size { height: 4096, width: 1 })));
        for text in ["", "0", "4097", "-1", "2x", "x2", "2x0", "2x3x4", "2..", "2..0", "None", "24.0"] {
            check(text, None, None);
        }
    }

    #[test]
    fn records_are_read_back() {
        let check = |key: &str, to: &str, expected: Result<Overrides, &str>| {
            let made = Override { key: key.into(), from: "9".into(), to: to.into(), reason: "so".into() };
            let found = Overrides::recorded(&[made]).map_err(|error| error.to_string());
            match (found, expected) {
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found:?} lacks {expected:?}"),
                (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{key} {to}"),
            }
        };
        let none = Overrides::default;
        let resize = Some(ResizeTo(Some(Target::ShortestEdge(8))));
        check("resize", "8", Ok(Overrides { resize, ..none() }));
        check("crop", "none", Ok(Overrides { crop: Some(CropTo(None)), ..none() }));
        check("logit-scale", "x1", Ok(Overrides { logit_scale: Some(ScaleTo(0.0)), ..none() }));
        check("logit-scale", "2.5", Ok(Overrides { logit_scale: Some(ScaleTo(2.5)), ..none() }));
        check("template", "a {}", Ok(Overrides { templates: vec!["a {}".into()], ..none() }));
        check("logit-scale", "x-1", Err("expected a natural logarithm below 88"));
        check("logit-scale", "88", Err("expected a natural logarithm below 88"));
        check("crop", "8..9", Err("override crop: expected side of a square in pixels"));
        let image_size = Some(ImageSize(Size { height: 30, width: 40 }));
        check("image-size", "30x40", Ok(Overrides { image_size, ..none() }));
        for image_processor in ImageProcessor::ALL {
            let expected = Overrides { image_processor: Some(image_processor), ..none() };
            check("image-processor", &image_processor.to_string(), Ok(expected));
        }
        check("image-processor", "5", Err("override image-processor: expected slow or fast"));
        check("image-size", "none", Err("override image-size: expected side of a square in pixels"));
        check(
            "colour",
            "blue",
            Err(
                "override colour: expected one of resize, crop, image-size, image-processor, logit-scale, template, found \"blue\"",
            ),
        );
    }
}
