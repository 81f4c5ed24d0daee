//! The image processors of transformers 4.56.2 that are known: what each reads of its file, and what it does where the
//! file says nothing.
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
//! The `Fast` twins, called `Pil` or nothing in transformers 5, share one implementation, which does more: every one
//! takes a shortest edge, with a longest edge if there is one, as well as height and width, and crops if told to.

use spotter_engine::preprocess::{Size, Target};

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
    /// Whether it is the implementation that all `Fast` processors share.
    pub(super) fast: bool,
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
    fast: false,
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
    fast: false,
};

const CONVNEXT: Class =
    Class { sizes: Sizes::Edge, square: false, size: Target::ShortestEdge(384), crop: Crop::Share, ..VIT };

/// What a file is asked to name.
pub(super) const KNOWN: &str = "image processors: ViTImageProcessor, DeiTImageProcessor, BeitImageProcessor, \
                                CLIPImageProcessor, BitImageProcessor, SiglipImageProcessor, ConvNextImageProcessor";

impl Class {
    /// The class of this name: the image processors', their `Fast` or `Pil` twins', or that of the feature extractors
    /// of old.
    pub(super) fn named(name: &str) -> Option<Self> {
        let twin = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil"));
        let full = twin.unwrap_or(name);
        let family = full.strip_suffix("ImageProcessor").or_else(|| full.strip_suffix("FeatureExtractor"))?;
        let class = match family {
            "ViT" => VIT,
            "DeiT" | "Beit" => DEIT,
            "CLIP" | "Bit" => CLIP,
            "Siglip" => SIGLIP,
            "ConvNext" => CONVNEXT,
            _ => return None,
        };
        if twin.is_none() {
            return Some(class);
        }
        let crop = match class.crop {
            Crop::Never => Crop::Switched { on: false, size: None },
            // This twin alone has other defaults.
            Crop::Switched { size, .. } if family == "Beit" => Crop::Switched { on: false, size },
            crop => crop,
        };
        let size = if family == "Beit" { Target::Exact(square(224)) } else { class.size };
        let sizes = if class.sizes == Sizes::Edge { Sizes::Edge } else { Sizes::All };
        Some(Self { sizes, size, crop, fast: true, ..class })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_by_all_their_names() {
        let check = |name: &str, expected: Option<(usize, bool)>| {
            let found = Class::named(name).map(|class| {
                let (Target::Exact(Size { width: side, .. }) | Target::ShortestEdge(side)) = class.size else {
                    panic!("{name}: {:?}", class.size)
                };
                (side, class.fast)
            });
            assert_eq!(found, expected, "{name}");
        };
        check("ViTImageProcessor", Some((224, false)));
        check("ViTFeatureExtractor", Some((224, false)));
        check("DeiTImageProcessorFast", Some((256, true)));
        check("BeitImageProcessor", Some((256, false)));
        check("BeitImageProcessorPil", Some((224, true)));
        check("ConvNextFeatureExtractor", Some((384, false)));
        for name in ["ViT", "Fast", "", "ViTImageProcessorFastFast", "ImageProcessor", "SamImageProcessor"] {
            check(name, None);
        }
        for tower in ["vit", "deit", "beit", "clip", "dinov2", "siglip_vision_model", "swin", "convnext", "?"] {
            assert!(Class::named(Class::of_tower(tower)).is_some(), "{tower}");
        }
    }
}
