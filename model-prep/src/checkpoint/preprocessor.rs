//! Converts `preprocessor_config.json` to a preprocessing recipe: the steps of the named image processor of
//! transformers 4.56.2, or of 5.24.0 if transformers 5 wrote the file.

mod class;
mod file;

use std::path::Path;

use serde_json::Value;
use spotter_engine::bundle::Override;
use spotter_engine::preprocess::{Filter, Normalize, Recipe, Resize, Size, Target};

use self::class::{Class, Crop, Sizes};
use self::file::File;
use super::config::Patching;
use super::error::CheckpointError;
use super::json::Object;
use crate::overrides::{
    CROP, CropTo, IMAGE_PROCESSOR, IMAGE_SIZE, ImageProcessor, ImageSize, Overrides, RESIZE, ResizeTo,
};

/// Returns the recipe of the image processor in `folder`, with `overrides` applied, and the record of the overrides.
pub fn recipe_of(folder: &Path, overrides: &Overrides) -> Result<(Recipe, Vec<Override>), CheckpointError> {
    recipe(&File::read(folder)?, overrides)
}

/// Returns the recipe with `overrides` applied, and the record of the overrides. The recipe's output has the size of
/// the image tower's input: the trained size, unless it is overridden or the tower accepts any size.
pub(crate) fn read(
    checkpoint: &Path,
    tower: &Patching,
    overrides: &Overrides,
) -> Result<(Recipe, Vec<Override>), CheckpointError> {
    let file = File::read(checkpoint)?;
    let (mut recipe, mut record) = recipe(&file, overrides)?;
    let [height, width] = tower.trained_size;
    let mut input = Size { height, width };
    if let Some(ImageSize(asked)) = overrides.image_size {
        let (from, to) = (ImageSize(input).to_string(), ImageSize(asked).to_string());
        record.push(overrides.entry(IMAGE_SIZE, from, to));
        // Overridden steps are left unchanged.
        if overrides.resize.is_none() && overrides.crop.is_none() {
            recipe = recipe.with_output_size(asked).unwrap_or(recipe);
        }
        input = asked;
    } else if tower.any_size {
        input = recipe.output_size().unwrap_or(input);
    }
    match recipe.output_size() {
        Some(size) if size == input => Ok((recipe, record)),
        found => Err(other_size(&file.object, &recipe, input, found)),
    }
}

fn other_size(object: &Object, recipe: &Recipe, input: Size, found: Option<Size>) -> CheckpointError {
    let key = match recipe {
        Recipe { pad: Some(_), .. } => "pad_size",
        Recipe { crop: Some(_), .. } => "crop_size",
        _ => "size",
    };
    let Size { height, width } = input;
    let (other, found) = match found {
        Some(size) => (ImageSize(size).to_string(), format!("{} x {} pixels", size.height, size.width)),
        None => ("SIZE".to_owned(), "a size that depends on the image".to_owned()),
    };
    let expected = format!(
        "{height} x {width} pixels, the image tower's input (fit the tower to the images with --image-size {other}, or the \
         images to the tower with --resize and --crop)"
    );
    object.wrong_shown(key, &expected, found)
}

/// Returns the recipe of the implementation that `overrides` name, or else that the file means.
fn recipe(file: &File, overrides: &Overrides) -> Result<(Recipe, Vec<Override>), CheckpointError> {
    let object = &file.object;
    let (key, name) = file.class()?;
    let of = |implementation| {
        let class = Class::named(&name, implementation);
        let class = class.ok_or_else(|| object.unsupported(key, format!("{name:?}"), class::KNOWN))?;
        of_class(object, &class, &name, overrides)
    };
    let meant = file.implementation(&name);
    if let Some(implementation) = overrides.image_processor {
        let (recipe, mut record) = of(implementation)?;
        let from = meant.map_or_else(|| "slow or pil".to_owned(), |meant| meant.to_string());
        record.push(overrides.entry(IMAGE_PROCESSOR, from, implementation.to_string()));
        return Ok((recipe, record));
    }
    if let Some(implementation) = meant {
        if (implementation, name.ends_with("Pil")) == (ImageProcessor::Pil, false) {
            log::info!(
                "{name} of transformers 5 is reproduced on Pillow; see --image-processor torchvision for the other backend"
            );
        }
        return of(implementation);
    }
    let (older, newer) = (of(ImageProcessor::Slow)?, of(ImageProcessor::Pil));
    let steps = |recipe: &Recipe| Recipe { transparent_on_white: false, ..recipe.clone() };
    match newer {
        Ok((newer, _)) if steps(&newer) != steps(&older.0) => {
            let shown = |Recipe { resize, crop, .. }: Recipe| {
                format!("resize {}, crop {}", ResizeTo(resize.map(|resize| resize.to)), CropTo(crop))
            };
            let reason = format!(
                "transformers 4 and 5 interpret this file differently ({}; {}), and config.json has no \
                 transformers_version: use --image-processor slow for 4, pil or torchvision for 5",
                shown(older.0),
                shown(newer)
            );
            Err(object.unsupported(key, format!("{name:?}"), reason))
        }
        _ => Ok(older),
    }
}

/// Returns the recipe of a class, with `overrides` applied, and the record of the overrides.
fn of_class(
    object: &Object,
    class: &Class,
    name: &str,
    overrides: &Overrides,
) -> Result<(Recipe, Vec<Override>), CheckpointError> {
    let mut record = Vec::new();
    let geometry = geometry(object, class, name);
    let (to, crop) = overridden(object, geometry, overrides, &mut record)?;
    let resize = to.map(|to| filter(object, class).map(|filter| Resize { to, filter })).transpose()?;
    let rescale = flag(object, "do_rescale", true)?;
    let rescale_factor = if rescale { Some(object.number("rescale_factor", 1.0 / 255.0)?) } else { None };
    let normalize = if flag(object, "do_normalize", true)? {
        let mean = channels(object, "image_mean", class.mean, |_| true)?;
        let std = channels(object, "image_std", class.std, |v| v > 0.0)?;
        Some(Normalize { mean, std })
    } else {
        None
    };
    let pad = pad(object, class, crop)?;
    let transparent_on_white =
        class.on_white.map(|default| flag(object, "do_convert_rgb", default)).transpose()?.unwrap_or(false);
    let backend = class.backend;
    Ok((Recipe { resize, crop, rescale_factor, normalize, pad, backend, transparent_on_white }, record))
}

/// The size that images are padded to, if any.
fn pad(object: &Object, class: &Class, crop: Option<Size>) -> Result<Option<Size>, CheckpointError> {
    if !class.pads || !flag(object, "do_pad", false)? {
        return Ok(None);
    }
    let pad = sides(object, "pad_size", None)?;
    if let Some(crop) = crop.filter(|crop| crop.height > pad.height || crop.width > pad.width) {
        let expected =
            format!("at least the {} x {} pixels of crop_size (--crop changes those)", crop.height, crop.width);
        return Err(object.wrong("pad_size", &expected, object.get("pad_size")));
    }
    Ok(Some(pad))
}

/// The resize and the crop step by the file, or why each is invalid.
type Geometry = (Result<Option<Target>, CheckpointError>, Result<Option<Size>, CheckpointError>);

fn geometry(object: &Object, class: &Class, name: &str) -> Geometry {
    let resize = flag(object, "do_resize", true).and_then(|on| on.then(|| size(object, class)).transpose());
    match class.crop {
        Crop::Never => {
            if object.get("do_center_crop") == Some(&Value::Bool(true)) {
                log::info!("do_center_crop has no effect, as in {name} of transformers 4.56.2; use --crop to crop");
            }
            (resize, Ok(None))
        }
        Crop::Switched { on, size } => {
            let crop = flag(object, "do_center_crop", on)
                .and_then(|on| on.then(|| sides(object, "crop_size", size)).transpose());
            (resize, crop)
        }
        Crop::Percentage => percentage_crop(object, class, resize),
    }
}

/// Applies the overrides of the resize and the crop step, even where the file's own are invalid.
fn overridden(
    object: &Object,
    (resize, crop): Geometry,
    overrides: &Overrides,
    record: &mut Vec<Override>,
) -> Result<(Option<Target>, Option<Size>), CheckpointError> {
    let as_found = |key: &str| object.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
    let resize = match overrides.resize {
        None => resize?,
        Some(to) => {
            let from = resize.map_or_else(|_| as_found("size"), |from| ResizeTo(from).to_string());
            record.push(overrides.entry(RESIZE, from, to.to_string()));
            to.0
        }
    };
    let crop = match overrides.crop {
        None => crop?,
        Some(to) => {
            let from = crop.map_or_else(|_| as_found("crop_size"), |from| CropTo(from).to_string());
            record.push(overrides.entry(CROP, from, to.to_string()));
            to.0
        }
    };
    Ok((resize, crop))
}

/// ConvNeXT's steps: for an edge below 384 pixels, images are resized to `edge / crop_pct` and center-cropped; from
/// there on, they are resized to a square.
fn percentage_crop(object: &Object, class: &Class, resize: Result<Option<Target>, CheckpointError>) -> Geometry {
    /// Edge from which on images are not cropped.
    const UNCROPPED_EDGE_MIN: usize = 384;
    let share = || {
        let expected = "a number above 0";
        let share = object.or("crop_pct", 224.0 / 256.0, expected, |v| v.as_f64().filter(|n| *n > 0.0))?;
        if class.shared && flag(object, "do_center_crop", false)? {
            return Err(object.unsupported("do_center_crop", "true", "it is a second crop, after that of crop_pct"));
        }
        Ok(share)
    };
    match (resize, share()) {
        (Ok(Some(Target::ShortestEdge(edge))), Ok(share)) => {
            let square = Size { height: edge, width: edge };
            if edge < UNCROPPED_EDGE_MIN {
                (Ok(Some(Target::ShortestEdge((edge as f64 / share) as usize))), Ok(Some(square)))
            } else {
                (Ok(Some(Target::Exact(square))), Ok(None))
            }
        }
        (Ok(_), Err(error)) => (Err(error), Ok(None)),
        (resize, _) => (resize, Ok(None)),
    }
}

/// Reads a switch; null turns it off, whatever the default.
fn flag(object: &Object, key: &str, default: bool) -> Result<bool, CheckpointError> {
    let null = object.entries().any(|(name, value)| name == key && value.is_null());
    object.flag(key, default && !null)
}

fn size(object: &Object, class: &Class) -> Result<Target, CheckpointError> {
    if object.flag("use_square_size", false)? {
        let reason =
            "it means different sizes in different versions of transformers; set the size with --resize HEIGHTxWIDTH";
        return Err(object.unsupported("use_square_size", "true", reason));
    }
    let square = if class.shared { object.flag("default_to_square", class.square)? } else { class.square };
    let expected = class.sizes.expected(class.square);
    let target = object.or("size", class.size, expected, |v| target(v, square, class.sizes))?;
    if class.sizes != Sizes::All && object.get("size").is_some_and(|v| !v["longest_edge"].is_null()) {
        log::info!("size.longest_edge has no effect, as in this image processor of transformers 4.56.2");
    }
    Ok(target)
}

/// Reads height and width under `key`.
fn sides(object: &Object, key: &str, default: Option<Size>) -> Result<Size, CheckpointError> {
    const EXPECTED: &str = "a whole number, or height and width";
    let exact = |v: &Value| match target(v, true, Sizes::Exact) {
        Some(Target::Exact(size)) => Some(size),
        _ => None,
    };
    match default {
        Some(default) => object.or(key, default, EXPECTED, exact),
        None => object.get(key).and_then(exact).ok_or_else(|| object.wrong(key, EXPECTED, object.get(key))),
    }
}

/// Parses a size in one of the forms `sizes`. A plain number is a square's side if `square`, else the shorter side.
fn target(value: &Value, square: bool, sizes: Sizes) -> Option<Target> {
    let side = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let exact = |height, width| Some(Target::Exact(Size { height: side(height)?, width: side(width)? }));
    let target = match value {
        Value::Object(map) => {
            let get = |key| map.get(key).filter(|v: &&Value| !v.is_null());
            let known = ["height", "width", "shortest_edge", "longest_edge"];
            if map.iter().any(|(key, v)| !v.is_null() && !known.contains(&key.as_str())) {
                return None;
            }
            match (get("height"), get("width"), get("shortest_edge"), get("longest_edge")) {
                (Some(height), Some(width), None, None) => exact(height, width),
                (None, None, Some(edge), Some(longest)) if sizes == Sizes::All => {
                    Some(Target::Edges { shortest: side(edge)?, longest: side(longest)? })
                }
                (None, None, Some(edge), _) => Some(Target::ShortestEdge(side(edge)?)),
                _ => None,
            }
        }
        Value::Array(sides) => match &sides[..] {
            [height, width] => exact(height, width),
            _ => None,
        },
        _ => {
            let side = side(value)?;
            Some(if square { Target::Exact(Size { height: side, width: side }) } else { Target::ShortestEdge(side) })
        }
    };
    target.filter(|target| match target {
        Target::Exact(_) => sizes != Sizes::Edge,
        Target::ShortestEdge(_) => sizes != Sizes::Exact,
        Target::Edges { .. } => sizes == Sizes::All,
    })
}

fn filter(object: &Object, class: &Class) -> Result<Filter, CheckpointError> {
    let known = |v: &Value| v.as_u64().filter(|n| *n <= 5);
    let number = object.or("resample", class.filter, "one of Pillow's filter numbers, 0 to 5", known)?;
    let filter = match number {
        0 => Filter::Nearest,
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        4 => Filter::Box,
        _ => Filter::Hamming,
    };
    if class.backend.has(filter) {
        return Ok(filter);
    }
    let reason = "torchvision has no such filter, so this image processor fails in transformers too; \
                  --image-processor slow or pil resizes with Pillow";
    Err(object.unsupported("resample", number, reason))
}

/// Reads one number for all channels, or one per channel.
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
mod tests {
    use super::*;

    /// Formats the steps as the overrides spell them, then the rescaling and normalisation.
    fn shown(json: &str, overrides: &Overrides) -> Result<(String, Vec<Override>), CheckpointError> {
        let object = Object::parse(Path::new("p.json"), json.as_bytes())?;
        shown_of(&File::of(object, Some(4)), overrides)
    }

    fn shown_of(file: &File, overrides: &Overrides) -> Result<(String, Vec<Override>), CheckpointError> {
        let (recipe, record) = recipe(file, overrides)?;
        let Recipe { resize, crop, rescale_factor, normalize, .. } = recipe;
        let (to, filter) = resize.map(|resize| (resize.to, resize.filter)).unzip();
        let filter = filter.map_or(String::new(), |filter| format!(" {filter:?}"));
        let factor = rescale_factor.map_or("as is".into(), |factor| format!("/ {:.1}", 1.0 / factor));
        let normalize = normalize.map_or("as is".into(), |n| format!("{:.2} {:.2}", n.mean[0], n.std[2]));
        Ok((format!("{}{filter}, {}, {factor}, {normalize}", ResizeTo(to), CropTo(crop)), record))
    }

    #[test]
    fn recipes_of_image_processors() {
        let check = |kind: &str, keys: &str, expected: &str| {
            let json = format!(r#"{{"image_processor_type": "{kind}"{keys}}}"#);
            let found = shown(&json, &Overrides::default()).map_or_else(|e| e.to_string(), |found| found.0);
            assert!(found.starts_with(expected), "{json}:\n{found}\n{expected}");
        };
        check("ViTImageProcessor", "", "224x224 Bilinear, none, / 255.0, 0.50 0.50");
        check("ViTImageProcessorFast", "", "224x224 Bilinear, none, / 255.0, 0.50 0.50");
        check("DeiTImageProcessor", "", "256x256 Bicubic, 224x224, / 255.0, 0.50 0.50");
        check("BeitImageProcessor", r#", "reduce_labels": true"#, "256x256 Bicubic, 224x224, / 255.0, 0.50 0.50");
        check("BeitImageProcessorFast", "", "224x224 Bicubic, none, / 255.0, 0.50 0.50");
        check("CLIPImageProcessorFast", "", "224 Bicubic, 224x224, / 255.0, 0.48 0.28");
        check("BitImageProcessor", "", "224 Bicubic, 224x224, / 255.0, 0.48 0.28");
        check("SiglipImageProcessor", "", "224x224 Bicubic, none, / 255.0, 0.50 0.50");
        check("ConvNextImageProcessor", "", "384x384 Bilinear, none, / 255.0, 0.50 0.50");
        check("ConvNextImageProcessor", r#", "size": 224"#, "256 Bilinear, 224x224");
        check("ConvNextImageProcessor", r#", "size": 224, "crop_pct": 0.9"#, "248 Bilinear, 224x224");
        check("ViTImageProcessor", r#", "size": [3, 4], "resample": 0"#, "3x4 Nearest, none");
        check("ViTImageProcessor", r#", "size": 48, "do_center_crop": true"#, "48x48 Bilinear, none");
        check(
            "ViTImageProcessor",
            r#", "do_resize": null, "do_rescale": false, "do_normalize": null"#,
            "none, none, as is, as is",
        );
        check("ViTImageProcessorFast", r#", "do_resize": null, "do_normalize": null"#, "none, none, / 255.0, as is");
        check(
            "ViTImageProcessorFast",
            r#", "size": {"shortest_edge": 9}, "do_center_crop": true, "crop_size": 8"#,
            "9 Bilinear, 8x8",
        );
        check("ViTImageProcessorFast", r#", "size": 9, "default_to_square": false"#, "9 Bilinear");
        check("CLIPImageProcessor", r#", "size": 48, "crop_size": {"height": 3, "width": 4}"#, "48 Bicubic, 3x4");
        check("CLIPImageProcessor", r#", "size": {"shortest_edge": 9, "longest_edge": 12}"#, "9 Bicubic");
        check("CLIPImageProcessorFast", r#", "size": {"shortest_edge": 9, "longest_edge": 12}"#, "9..12 Bicubic");
        check(
            "CLIPImageProcessor",
            r#", "image_mean": 0.25, "image_std": [1, 1, 2]"#,
            "224 Bicubic, 224x224, / 255.0, 0.25 2.00",
        );
    }

    #[test]
    fn files_that_the_image_processor_refuses() {
        let check = |json: &str, expected: &str| {
            let found = shown(json, &Overrides::default()).map_or_else(|e| e.to_string(), |found| found.0);
            assert_eq!(found, format!("p.json: {expected}"), "{json}");
        };
        check(
            r#"{"resample": "bilinear"}"#,
            "resample: expected one of Pillow's filter numbers, 0 to 5, found \"bilinear\"",
        );
        check(
            r#"{"image_std": [1, 0, 1]}"#,
            "image_std: expected a number, or three of them, standard deviations above 0, found [1,0,1]",
        );
        check(
            r#"{"size": {"shortest_edge": 9}}"#,
            "size: expected a whole number, or height and width, found {\"shortest_edge\":9}",
        );
        check(
            r#"{"image_processor_type": "SiglipImageProcessor", "size": 9}"#,
            "size: expected height and width, found 9",
        );
        check(
            r#"{"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": {"shortest_edge": 9}}"#,
            "crop_size: expected a whole number, or height and width, found {\"shortest_edge\":9}",
        );
        check(
            r#"{"image_processor_type": "ViTImageProcessorFast", "do_center_crop": true}"#,
            "crop_size: expected a whole number, or height and width, found nothing",
        );
        check(
            r#"{"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 9}, "crop_pct": 0}"#,
            "crop_pct: expected a number above 0, found 0",
        );
        check(
            r#"{"image_processor_type": "SamImageProcessor"}"#,
            &format!("image_processor_type \"SamImageProcessor\" is not supported: {}", class::KNOWN),
        );
    }

    #[test]
    fn versions_and_implementations() {
        let check = |kind: &str, keys: &str, major: Option<u64>, choice: Option<ImageProcessor>, expected: &str| {
            let json = format!(r#"{{"image_processor_type": "{kind}"{keys}}}"#);
            let object = Object::parse(Path::new("p.json"), json.as_bytes()).expect("an object");
            let overrides = Overrides { image_processor: choice, ..Overrides::default() };
            let found = recipe(&File::of(object, major), &overrides).map_or_else(
                |error| error.to_string(),
                |(recipe, record)| {
                    let Recipe { resize, crop, pad, backend, transparent_on_white, .. } = recipe;
                    let (to, crop, pad) = (ResizeTo(resize.map(|resize| resize.to)), CropTo(crop), CropTo(pad));
                    let record: String = record.iter().map(|o| format!("; {} > {}", o.from, o.to)).collect();
                    format!("{to}, {crop}, {pad}, {backend:?}, {transparent_on_white}{record}")
                },
            );
            assert!(found.starts_with(expected), "{json} {major:?} {choice:?}:\n{found}\n{expected}");
        };
        use ImageProcessor::{Fast, Pil, Slow, Torchvision};
        let crop = r#", "size": {"height": 32, "width": 30}, "do_center_crop": true, "crop_size": 24"#;
        let edges = r#", "size": {"shortest_edge": 24, "longest_edge": 30}, "crop_size": 24"#;
        check("ViTImageProcessor", crop, Some(4), None, "32x30, none, none, Pillow, false");
        check("ViTImageProcessor", crop, Some(5), None, "32x30, 24x24, none, Pillow, false");
        check("ViTImageProcessor", crop, Some(6), None, "32x30, 24x24, none, Pillow, false");
        check(
            "ViTImageProcessor",
            crop,
            Some(5),
            Some(Torchvision),
            "32x30, 24x24, none, Torchvision, false; pil > tor",
        );
        check("ViTImageProcessor", crop, Some(5), Some(Slow), "32x30, none, none, Pillow, false; pil > slow");
        check("ViTImageProcessorFast", crop, Some(5), None, "32x30, 24x24, none, Fast, false");
        check("ViTImageProcessorFast", crop, None, Some(Pil), "32x30, 24x24, none, Pillow, false; fast > pil");
        check("ViTImageProcessorPil", crop, None, None, "32x30, 24x24, none, Pillow, false");
        check("SiglipImageProcessor", crop, Some(5), None, "32x30, 24x24, none, Pillow, true");
        check("CLIPImageProcessor", edges, Some(4), None, "24, 24x24, none, Pillow, false");
        check("CLIPImageProcessor", edges, Some(5), None, "24..30, 24x24, none, Pillow, true");
        check("CLIPImageProcessor", edges, None, Some(Fast), "24..30, 24x24, none, Fast, false; slow or pil > fast");
        // Unknown version.
        check("ViTImageProcessor", r#", "size": 24"#, None, None, "24x24, none, none, Pillow, false");
        check("ViTImageProcessor", crop, None, None, "p.json: image_processor_type \"ViTImageProcessor\" is not supp");
        check(
            "CLIPImageProcessor",
            edges,
            None,
            None,
            "p.json: image_processor_type \"CLIPImageProcessor\" is not sup",
        );
        let null = format!(r#"{crop}, "do_convert_rgb": null"#);
        check("ViTImageProcessor", &null, None, None, "32x30, none, none, Pillow, false");
        // Transparency.
        check("ViTImageProcessor", r#", "do_convert_rgb": true"#, Some(4), None, "224x224, none, none, Pillow, false");
        check("ViTImageProcessor", r#", "do_convert_rgb": true"#, Some(5), None, "224x224, none, none, Pillow, true");
        check("CLIPImageProcessor", r#", "do_convert_rgb": false"#, Some(5), None, "224, 224x224, none, Pillow, false");
        check("BitImageProcessor", r#", "do_convert_rgb": null"#, Some(5), None, "224, 224x224, none, Pillow, false");
        // Padding.
        let pad = r#", "size": 24, "do_pad": true, "pad_size": {"height": 30, "width": 32}"#;
        check("ViTImageProcessor", pad, Some(5), None, "24x24, none, 30x32, Pillow, false");
        check("ViTImageProcessor", pad, Some(4), None, "24x24, none, none, Pillow, false");
        check("BeitImageProcessor", pad, Some(5), None, "24x24, none, none, Pillow, false");
        check(
            "ViTImageProcessor",
            r#", "do_pad": true"#,
            Some(5),
            None,
            "p.json: pad_size: expected a whole number, or",
        );
        let small = r#", "do_pad": true, "pad_size": 20"#;
        check(
            "CLIPImageProcessor",
            small,
            Some(5),
            None,
            "p.json: pad_size: expected at least the 224 x 224 pixels of crop_size",
        );
        // Not supported.
        let boxed = r#", "resample": 4"#;
        check("ViTImageProcessorFast", boxed, Some(4), None, "p.json: resample 4 is not supported: torchvision has no");
        check("ViTImageProcessorFast", boxed, Some(4), Some(Pil), "224x224, none, none, Pillow, false; fast > pil");
        let square = r#", "use_square_size": true"#;
        check("CLIPImageProcessor", square, Some(4), None, "p.json: use_square_size true is not supported: it means");
    }

    #[test]
    fn overrides_take_the_place_of_what_the_file_says() {
        let check = |json: &str, resize: Option<&str>, crop: Option<&str>, expected: &str, made: &str| {
            let (resize, crop) = (resize.map(|v| v.parse().expect("a size")), crop.map(|v| v.parse().expect("a size")));
            let overrides = Overrides { resize, crop, reason: Some("why".into()), ..Overrides::default() };
            let (found, record) = shown(json, &overrides).expect("a recipe");
            assert!(found.starts_with(expected), "{json}: {found}");
            let record: Vec<_> =
                record.iter().map(|o| format!("{} {} > {} {}", o.key, o.from, o.to, o.reason)).collect();
            assert_eq!(record.join("; "), made, "{json}");
        };
        let clip = r#"{"image_processor_type": "CLIPImageProcessor"}"#;
        check(clip, None, None, "224 Bicubic, 224x224", "");
        check(clip, Some("256"), None, "256 Bicubic, 224x224", "resize 224 > 256 why");
        check(
            clip,
            Some("30x40"),
            Some("none"),
            "30x40 Bicubic, none",
            "resize 224 > 30x40 why; crop 224x224 > none why",
        );
        check(
            "{}",
            Some("256"),
            Some("224"),
            "256 Bilinear, 224x224",
            "resize 224x224 > 256 why; crop none > 224x224 why",
        );
        check(r#"{"do_resize": false}"#, Some("8"), None, "8 Bilinear, none", "resize none > 8 why");
        check(
            r#"{"size": {"shortest_edge": 9}}"#,
            Some("8x8"),
            None,
            "8x8 Bilinear, none",
            "resize {\"shortest_edge\":9} > 8x8 why",
        );
    }
}
