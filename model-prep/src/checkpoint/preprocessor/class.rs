//! The supported image processors of transformers 4.56.2 and 5.24.0: the keys that each reads, and its defaults. The
//! classes of transformers 4 without a suffix:
//!
//! | class | `size` | a number is | resized to, filter | crop | mean, std |
//! |---|---|---|---|---|---|
//! | ViT | height and width | a square | 224 x 224, bilinear | ignored | 0.5 |
//! | DeiT, BEiT | height and width | a square | 256 x 256, bicubic | 224 | 0.5 |
//! | CLIP, BiT | shortest edge, or height and width | an edge | edge 224, bicubic | 224 | CLIP's |
//! | SigLIP | height and width | refused | 224 x 224, bicubic | ignored | 0.5 |
//! | ConvNeXT | shortest edge | an edge | 384 x 384, bilinear | by `crop_pct` | 0.5 |
//!
//! All of them resize, crop, rescale and normalise, in this order; the scaled sides of a shortest edge are rounded
//! down. DINOv2 uses BiT's, Swin uses ViT's. `do_reduce_labels` of BEiT (once `reduce_labels`) is about label maps and
//! ignored. `do_convert_rgb` is ignored too: images are always converted to RGB.
//!
//! The `Fast` classes, and all classes of transformers 5, share one implementation, which does more: each accepts
//! height and width, or a shortest edge with or without a longest edge, and crops if `do_center_crop` says so. Those of
//! transformers 5 can also pad, and put a transparent colour on white when they convert to RGB.

use spotter_engine::preprocess::{Backend, Size, Target};

use crate::overrides::ImageProcessor;

/// The behaviour of an image processor class, and its defaults.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) sizes: Sizes,
    /// True if a plain number as size is a square's side, not a shortest edge.
    pub(super) square: bool,
    pub(super) size: Target,
    /// Pillow's number of the resampling filter.
    pub(super) filter: u64,
    pub(super) crop: Crop,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    pub(super) backend: Backend,
    /// True if it is the shared implementation, of all classes except those of transformers 4 without a suffix.
    pub(super) shared: bool,
    /// True if `do_pad` has an effect.
    pub(super) pads: bool,
    /// The default of `do_convert_rgb`, if converting to RGB puts a transparent colour on white.
    pub(super) on_white: Option<bool>,
}

/// The forms of `size` that a class accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Height and width.
    Exact,
    /// A shortest edge; a longest edge is ignored.
    Edge,
    /// Either; a longest edge is ignored.
    ExactOrEdge,
    /// Either, and a shortest edge with a longest.
    All,
}

impl Sizes {
    /// Describes the accepted forms; `square` as in [`Class`].
    pub(super) fn expected(self, square: bool) -> &'static str {
        match self {
            Self::Exact if square => "a whole number, or height and width",
            Self::Exact => "height and width",
            Self::Edge => "a whole number, or shortest_edge",
            Self::ExactOrEdge => "a whole number, or height and width, or shortest_edge",
            Self::All => "a whole number, or height and width, or shortest_edge with longest_edge or alone",
        }
    }
}

/// How a class crops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Crop {
    /// Never, whatever the file says.
    Never,
    /// By `do_center_crop` and `crop_size`.
    Switched {
        /// Default of `do_center_crop`.
        on: bool,
        /// Default of `crop_size`, if there is one.
        size: Option<Size>,
    },
    /// By `crop_pct`, for edges below 384 pixels only.
    Percentage,
}

const HALF: [f32; 3] = [0.5; 3];
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
const CROP: Crop = Crop::Switched { on: true, size: Some(square(224)) };

const BILINEAR: u64 = 2;
const BICUBIC: u64 = 3;

const fn square(side: usize) -> Size {
    Size { height: side, width: side }
}

const VIT: Class = Class {
    sizes: Sizes::Exact,
    square: true,
    size: Target::Exact(square(224)),
    filter: BILINEAR,
    crop: Crop::Never,
    mean: HALF,
    std: HALF,
    backend: Backend::Pillow,
    shared: false,
    pads: false,
    on_white: None,
};

const DEIT: Class = Class { size: Target::Exact(square(256)), filter: BICUBIC, crop: CROP, ..VIT };

const SIGLIP: Class = Class { square: false, filter: BICUBIC, ..VIT };

const CLIP: Class = Class {
    sizes: Sizes::ExactOrEdge,
    square: false,
    size: Target::ShortestEdge(224),
    filter: BICUBIC,
    crop: CROP,
    mean: CLIP_MEAN,
    std: CLIP_STD,
    ..VIT
};

const CONVNEXT: Class =
    Class { sizes: Sizes::Edge, square: false, size: Target::ShortestEdge(384), crop: Crop::Percentage, ..VIT };

/// The supported classes, for messages.
pub(super) const KNOWN: &str = "image processors: ViTImageProcessor, DeiTImageProcessor, BeitImageProcessor, \
                                CLIPImageProcessor, BitImageProcessor, SiglipImageProcessor, ConvNextImageProcessor";

impl Class {
    /// The behaviour of class `name` in `implementation`. The name may have a suffix, or be that of an old feature
    /// extractor.
    pub(super) fn named(name: &str, implementation: ImageProcessor) -> Option<Self> {
        let family = family(name)?;
        let class = match family {
            "ViT" => VIT,
            "DeiT" | "Beit" => DEIT,
            "CLIP" | "Bit" => CLIP,
            "Siglip" => SIGLIP,
            "ConvNext" => CONVNEXT,
            _ => return None,
        };
        if implementation == ImageProcessor::Slow {
            return Some(class);
        }
        let crop = match class.crop {
            Crop::Never => Crop::Switched { on: false, size: None },
            // Only this class has other defaults.
            Crop::Switched { size, .. } if family == "Beit" => Crop::Switched { on: false, size },
            crop => crop,
        };
        let size = if family == "Beit" { Target::Exact(square(224)) } else { class.size };
        let sizes = if class.sizes == Sizes::Edge { Sizes::Edge } else { Sizes::All };
        let five = implementation != ImageProcessor::Fast;
        let filter = if five && family == "ConvNext" { BICUBIC } else { class.filter };
        let backend = match implementation {
            ImageProcessor::Slow | ImageProcessor::Pil => Backend::Pillow,
            ImageProcessor::Fast => Backend::Fast,
            ImageProcessor::Torchvision => Backend::Torchvision,
        };
        let pads = five && !matches!(family, "Beit" | "ConvNext");
        let on_white = five.then_some(matches!(family, "CLIP" | "Bit" | "Siglip"));
        Some(Self { sizes, size, filter, crop, backend, shared: true, pads, on_white, ..class })
    }

    /// Name of the class that the reference's `AutoImageProcessor` uses for an image tower, by its `model_type`;
    /// `None` for unknown types.
    pub(super) fn of_tower(model_type: &str) -> Option<&'static str> {
        Some(match model_type {
            "vit" | "vit_mae" | "vit_msn" | "swin" | "swinv2" => "ViTImageProcessor",
            "deit" => "DeiTImageProcessor",
            "beit" | "data2vec-vision" => "BeitImageProcessor",
            "clip" | "clip_vision_model" => "CLIPImageProcessor",
            "dinov2" | "dinov2_with_registers" => "BitImageProcessor",
            "siglip" | "siglip_vision_model" => "SiglipImageProcessor",
            "convnext" | "convnextv2" => "ConvNextImageProcessor",
            _ => return None,
        })
    }
}

/// The model family in a class name.
fn family(name: &str) -> Option<&str> {
    let full = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
    full.strip_suffix("ImageProcessor").or_else(|| full.strip_suffix("FeatureExtractor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_by_all_their_names() {
        use ImageProcessor::{Fast, Pil, Slow, Torchvision};
        let check = |name: &str, implementation, expected: Option<(usize, u64, bool, Option<bool>)>| {
            let found = Class::named(name, implementation).map(|class| {
                let (Target::Exact(Size { width: side, .. }) | Target::ShortestEdge(side)) = class.size else {
                    panic!("{name}: {:?}", class.size)
                };
                (side, class.filter, class.pads, class.on_white)
            });
            assert_eq!(found, expected, "{name} {implementation}");
        };
        check("ViTImageProcessor", Slow, Some((224, 2, false, None)));
        check("ViTFeatureExtractor", Slow, Some((224, 2, false, None)));
        check("ViTImageProcessor", Pil, Some((224, 2, true, Some(false))));
        check("DeiTImageProcessorFast", Fast, Some((256, 3, false, None)));
        check("BeitImageProcessor", Slow, Some((256, 3, false, None)));
        check("BeitImageProcessorPil", Pil, Some((224, 3, false, Some(false))));
        check("BeitImageProcessor", Torchvision, Some((224, 3, false, Some(false))));
        check("CLIPImageProcessor", Torchvision, Some((224, 3, true, Some(true))));
        check("ConvNextFeatureExtractor", Slow, Some((384, 2, false, None)));
        check("ConvNextImageProcessor", Pil, Some((384, 3, false, Some(false))));
        for name in ["ViT", "Fast", "", "ViTImageProcessorFastFast", "ImageProcessor", "SamImageProcessor"] {
            check(name, Slow, None);
        }
        for tower in ["vit", "deit", "beit", "clip", "dinov2", "siglip_vision_model", "swin", "convnext"] {
            assert!(Class::of_tower(tower).is_some_and(|name| Class::named(name, Slow).is_some()), "{tower}");
        }
        assert_eq!(Class::of_tower("foo"), None);
    }
}
