//! The image processors of transformers 4.56.2 and 5.24.0 that are known: what each reads of its file, and what it does
//! where the file says nothing. Of those of transformers 4 without a suffix:
//!
//! | class | `size` | a number is | resized to, by | crop | mean, deviation |
//! |---|---|---|---|---|---|
//! | ViT | height and width | a square | 224 x 224, bilinear | ignored | 0.5 |
//! | DeiT, BEiT | height and width | a square | 256 x 256, bicubic | 224 | 0.5 |
//! | CLIP, BiT | shortest edge, or height and width | an edge | edge 224, bicubic | 224 | CLIP's |
//! | SigLIP | height and width | refused | 224 x 224, bicubic | ignored | 0.5 |
//! | ConvNeXT | shortest edge | an edge | 384 x 384, bilinear | by `crop_pct` | 0.5 |
//!
//! All of them resize, crop, rescale and normalise, in this order; shortest edges are rounded down. DINOv2 comes with
//! BiT's, Swin with ViT's. BEiT's `do_reduce_labels` (once `reduce_labels`) is about label maps, `do_convert_rgb` about
//! pictures that are not RGB: pictures are always made RGB here.
//!
//! The `Fast` classes, and all classes of transformers 5, share one implementation, which does more: every one takes a
//! shortest edge, with a longest edge if there is one, as well as height and width, and crops if told to. Those of
//! transformers 5 pad, too, and lay a transparent colour on white where they make pictures RGB.

use spotter_engine::preprocess::{Backend, Size, Target};

use crate::overrides::ImageProcessor;

/// What an image processor reads, and its defaults.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) sizes: Sizes,
    /// Whether a number given as size is a square's side, not a shortest edge.
    pub(super) square: bool,
    pub(super) size: Target,
    /// Pillow's number of the filter.
    pub(super) filter: u64,
    pub(super) crop: Crop,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    pub(super) backend: Backend,
    /// Whether it is the implementation that all classes share but those of transformers 4 without a suffix.
    pub(super) shared: bool,
    /// Whether it pads if told to.
    pub(super) pads: bool,
    /// Where a transparent colour is laid on white if pictures are made RGB: whether they are by default.
    pub(super) on_white: Option<bool>,
}

/// Forms of `size` that a class takes.
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
    /// For messages; `square` as in [`Class`].
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
    /// As `do_center_crop` and `crop_size` say.
    Switched {
        /// What `do_center_crop` is by default.
        on: bool,
        /// What `crop_size` is by default, if anything.
        size: Option<Size>,
    },
    /// Edges below 384 by `crop_pct`, edges from there on not at all.
    Share,
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
    Class { sizes: Sizes::Edge, square: false, size: Target::ShortestEdge(384), crop: Crop::Share, ..VIT };

/// What a file is asked to name.
pub(super) const KNOWN: &str = "image processors: ViTImageProcessor, DeiTImageProcessor, BeitImageProcessor, \
                                CLIPImageProcessor, BitImageProcessor, SiglipImageProcessor, ConvNextImageProcessor";

impl Class {
    /// What `implementation` does by this class name, with or without its suffix, or by that of the feature extractors of
    /// old.
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
            // This class alone has other defaults.
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

    /// Name of the class that comes with an image tower, by the `model_type` of its configuration, as the reference's
    /// `AutoImageProcessor` has it; ViT's for others.
    pub(super) fn of_tower(model_type: &str) -> &'static str {
        match model_type {
            "deit" => "DeiTImageProcessor",
            "beit" | "data2vec-vision" => "BeitImageProcessor",
            "clip" | "clip_vision_model" => "CLIPImageProcessor",
            "dinov2" | "dinov2_with_registers" => "BitImageProcessor",
            "siglip" | "siglip_vision_model" => "SiglipImageProcessor",
            "convnext" | "convnextv2" => "ConvNextImageProcessor",
            _ => "ViTImageProcessor",
        }
    }
}

/// A class name without what all have in common.
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
        for tower in ["vit", "deit", "beit", "clip", "dinov2", "siglip_vision_model", "swin", "convnext", "?"] {
            assert!(Class::named(Class::of_tower(tower), Slow).is_some(), "{tower}");
        }
    }
}
