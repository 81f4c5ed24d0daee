//! `preprocessor_config.json` to a preprocessing recipe; defaults are those of the named image processor in
//! transformers 4.56.2.

use std::path::Path;

use serde_json::Value;
use spotter_engine::preprocess::{Filter, Normalize, Recipe, Resize, Size, Target};

use super::CheckpointError;
use super::json::Object;

/// What an image processor does where the file says nothing.
struct Defaults {
    size: Target,
    filter: u64,
    crop: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

/// ViTImageProcessor.
const VIT: Defaults = Defaults {
    size: Target::Exact(Size { height: 224, width: 224 }),
    filter: 2,
    crop: false,
    mean: [0.5; 3],
    std: [0.5; 3],
};

/// CLIPImageProcessor, which some dual encoders with a ViT were trained with.
const CLIP: Defaults = Defaults {
    size: Target::ShortestEdge(224),
    filter: 3,
    crop: true,
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

/// Reads `preprocessor_config.json`, or the `image_processor` of the `processor_config.json` that newer versions of
/// transformers write in its place. `input` is the height and width of the image tower's input.
pub(crate) fn read(checkpoint: &Path, input: [usize; 2]) -> Result<Recipe, CheckpointError> {
    let path = checkpoint.join("preprocessor_config.json");
    let newer = checkpoint.join("processor_config.json");
    let object = if !path.exists() && newer.exists() {
        Object::read(&newer)?.object("image_processor")?
    } else {
        Object::read(&path)?
    };
    let recipe = recipe(&object)?;
    let [height, width] = input;
    match recipe.output_size() {
        Some(size) if [size.height, size.width] == input => Ok(recipe),
        found => {
            let key = if recipe.crop.is_some() { "crop_size" } else { "size" };
            let expected = format!("{height} x {width} pixels, vision_config.image_size of config.json");
            let found = found
                .map_or("a size that depends on the picture".into(), |s| format!("{} x {} pixels", s.height, s.width));
            Err(object.wrong_shown(key, &expected, found))
        }
    }
}

fn recipe(object: &Object) -> Result<Recipe, CheckpointError> {
    let kind = match object.get("image_processor_type") {
        Some(_) => object.text("image_processor_type", "")?,
        None => object.text("feature_extractor_type", "ViTImageProcessor")?,
    };
    let family = kind.trim_end_matches("Pil").trim_end_matches("Fast");
    let family = family.trim_end_matches("ImageProcessor").trim_end_matches("FeatureExtractor");
    let defaults = match family {
        "ViT" => VIT,
        "CLIP" => CLIP,
        _ => {
            let reason = "image processors: ViTImageProcessor, CLIPImageProcessor";
            return Err(object.unsupported("image_processor_type", format!("{kind:?}"), reason));
        }
    };
    let resize = if object.flag("do_resize", true)? {
        let square = matches!(defaults.size, Target::Exact(_));
        let to = object.or("size", defaults.size, SIZE_EXPECTED, |v| target(v, square))?;
        Some(Resize { to, filter: filter(object, defaults.filter)? })
    } else {
        None
    };
    let crop = if object.flag("do_center_crop", defaults.crop)? {
        let default = Size { height: 224, width: 224 };
        let exact = |v: &Value| match target(v, true) {
            Some(Target::Exact(size)) => Some(size),
            _ => None,
        };
        Some(object.or("crop_size", default, "a whole number, or height and width", exact)?)
    } else {
        None
    };
    let rescale_factor =
        if object.flag("do_rescale", true)? { Some(object.number("rescale_factor", 1.0 / 255.0)?) } else { None };
    let normalize = if object.flag("do_normalize", true)? {
        let mean = channels(object, "image_mean", defaults.mean, |_| true)?;
        let std = channels(object, "image_std", defaults.std, |v| v > 0.0)?;
        Some(Normalize { mean, std })
    } else {
        None
    };
    Ok(Recipe { resize, crop, rescale_factor, normalize })
}

const SIZE_EXPECTED: &str = "a whole number, or height and width, or shortest_edge alone";

/// A number is a square where `square`, else the shorter side.
fn target(value: &Value, square: bool) -> Option<Target> {
    let side = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    match value {
        Value::Object(map) => match (map.get("height"), map.get("width"), map.get("shortest_edge")) {
            (Some(height), Some(width), None) => {
                Some(Target::Exact(Size { height: side(height)?, width: side(width)? }))
            }
            // A longest edge would bound the other side, which no recipe does.
            (None, None, Some(edge)) if map.get("longest_edge").is_none_or(Value::is_null) => {
                Some(Target::ShortestEdge(side(edge)?))
            }
            _ => None,
        },
        Value::Array(sides) => match &sides[..] {
            [height, width] => Some(Target::Exact(Size { height: side(height)?, width: side(width)? })),
            _ => None,
        },
        _ => {
            let side = side(value)?;
            Some(if square { Target::Exact(Size { height: side, width: side }) } else { Target::ShortestEdge(side) })
        }
    }
}

fn filter(object: &Object, default: u64) -> Result<Filter, CheckpointError> {
    let number =
        object.or("resample", default, "one of Pillow's filter numbers, 0 to 5", |v| v.as_u64().filter(|n| *n <= 5))?;
    Ok(match number {
        0 => Filter::Nearest,
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        4 => Filter::Box,
        _ => Filter::Hamming,
    })
}

/// One number for all channels, or one for each.
fn channels(
    object: &Object,
    key: &str,
    default: [f32; 3],
    fits: impl Fn(f32) -> bool,
) -> Result<[f32; 3], CheckpointError> {
    let one = |v: &Value| v.as_f64().map(|n| n as f32).filter(|n| fits(*n));
    object.or(key, default, "a number, or three of them, standard deviations above 0", |v| match v {
        Value::Array(values) => match &values[..] {
            [red, green, blue] => Some([one(red)?, one(green)?, one(blue)?]),
            _ => None,
        },
        _ => one(v).map(|n| [n; 3]),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn recipes_of_image_processors() {
        let check = |json: &str, expected: &str| {
            let object = Object::parse(Path::new("p.json"), json.as_bytes()).unwrap();
            let found = match recipe(&object) {
                Ok(r) => format!(
                    "{:?} {:?} {:?} {:?}",
                    r.resize.map(|r| (r.to, r.filter)),
                    r.crop.map(|c| [c.height, c.width]),
                    r.rescale_factor.map(|f| (f * 255.0).round()),
                    r.normalize.map(|n| (n.mean[0], n.std[2]))
                ),
                Err(e) => e.to_string(),
            };
            assert_eq!(found, expected, "{json}");
        };
        let exact = |h, w| format!("Exact(Size {{ height: {h}, width: {w} }})");
        let tail = "None Some(1.0) Some((0.5, 0.5))";
        check("{}", &format!("Some(({}, Bilinear)) {tail}", exact(224, 224)));
        check(r#"{"size": 48, "resample": 3}"#, &format!("Some(({}, Bicubic)) {tail}", exact(48, 48)));
        check(r#"{"size": {"height": 3, "width": 4}}"#, &format!("Some(({}, Bilinear)) {tail}", exact(3, 4)));
        check(
            r#"{"size": {"shortest_edge": 9}, "do_center_crop": true, "crop_size": 8}"#,
            "Some((ShortestEdge(9), Bilinear)) Some([8, 8]) Some(1.0) Some((0.5, 0.5))",
        );
        check(r#"{"do_resize": false, "do_rescale": false, "do_normalize": false}"#, "None None None None");
        check(
            r#"{"image_processor_type": "CLIPImageProcessorFast"}"#,
            "Some((ShortestEdge(224), Bicubic)) Some([224, 224]) Some(1.0) Some((0.48145467, 0.2757771))",
        );
        check(
            r#"{"resample": "bilinear"}"#,
            "p.json: resample: expected one of Pillow's filter numbers, 0 to 5, found \"bilinear\"",
        );
        check(
            r#"{"image_std": [1, 0, 1]}"#,
            "p.json: image_std: expected a number, or three of them, standard deviations above 0, found [1,0,1]",
        );
        check(
            r#"{"image_processor_type": "SamImageProcessor"}"#,
            "p.json: image_processor_type \"SamImageProcessor\" is not supported: image processors: \
             ViTImageProcessor, CLIPImageProcessor",
        );
    }
}
