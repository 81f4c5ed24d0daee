//! The resize and the crop step of an image processor's file.

use serde_json::Value;
use spotter_engine::bundle::Override;
use spotter_engine::preprocess::{Size, Target};

use super::class::{Class, Crop, Sizes};
use super::file::switch;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;
use crate::overrides::{CROP, CropTo, Overrides, RESIZE, ResizeTo};

/// The resize and the crop step by the file, or why each is invalid.
pub(super) type Geometry = (Result<Option<Target>, CheckpointError>, Result<Option<Size>, CheckpointError>);

/// Reads the resize and the crop step of a class.
pub(super) fn geometry(object: &Object, class: &Class, name: &str) -> Geometry {
    let resize = switch(object, "do_resize", true).and_then(|on| on.then(|| size(object, class)).transpose());
    match class.crop {
        Crop::Never => {
            if object.get("do_center_crop") == Some(&Value::Bool(true)) {
                log::info!("do_center_crop has no effect, as in {name} of transformers 4.56.2; use --crop to crop");
            }
            (resize, Ok(None))
        }
        Crop::Switched { on, size } => {
            let crop = switch(object, "do_center_crop", on)
                .and_then(|on| on.then(|| sides(object, "crop_size", size)).transpose());
            (resize, crop)
        }
        Crop::Percentage => percentage_crop(object, class, resize),
    }
}

/// Applies the overrides of the resize and the crop step, even where the file's own are invalid.
pub(super) fn overridden(
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
        if class.shared && switch(object, "do_center_crop", false)? {
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

/// Reads the size that images are resized to.
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
pub(super) fn sides(object: &Object, key: &str, default: Option<Size>) -> Result<Size, CheckpointError> {
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
