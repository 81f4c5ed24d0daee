//! Converts `preprocessor_config.json` to a preprocessing configuration: the steps of the named image processor of
//! transformers 4.56.2, or of 5.24.0 if transformers 5 wrote the file.

mod class;
mod file;
mod geometry;

use std::path::Path;

use serde_json::Value;
use spotter_engine::bundle::Override;
use spotter_engine::preprocess::{Filter, Normalize, PreprocessConfig, Resize, Size};

use self::class::Class;
use self::file::{File, switch};
use self::geometry::{geometry, overridden, sides};
use super::config::Patching;
use super::error::CheckpointError;
use super::json::Object;
use crate::overrides::{CropTo, IMAGE_PROCESSOR, IMAGE_SIZE, ImageProcessor, ImageSize, Overrides, ResizeTo};

/// Returns the configuration of the image processor in `folder`, with `overrides` applied, and the record of the
/// overrides.
pub fn preprocess_config_of(
    folder: &Path,
    overrides: &Overrides,
) -> Result<(PreprocessConfig, Vec<Override>), CheckpointError> {
    configuration(&File::read(folder)?, overrides)
}

/// Returns the configuration with `overrides` applied, and the record of the overrides. The configuration's output has
/// the size of the image tower's input: the trained size, unless it is overridden or the tower accepts any size.
pub(crate) fn read(
    checkpoint: &Path,
    tower: &Patching,
    overrides: &Overrides,
) -> Result<(PreprocessConfig, Vec<Override>), CheckpointError> {
    let file = File::read(checkpoint)?;
    let (mut config, mut record) = configuration(&file, overrides)?;
    let [height, width] = tower.trained_size;
    let mut input = Size { height, width };
    if let Some(ImageSize(asked)) = overrides.image_size {
        let (from, to) = (ImageSize(input).to_string(), ImageSize(asked).to_string());
        record.push(overrides.entry(IMAGE_SIZE, from, to));
        // Overridden steps are left unchanged.
        if overrides.resize.is_none() && overrides.crop.is_none() {
            config = config.with_output_size(asked).unwrap_or(config);
        }
        input = asked;
    } else if tower.any_size {
        input = config.output_size().unwrap_or(input);
    }
    match config.output_size() {
        Some(size) if size == input => Ok((config, record)),
        found => Err(other_size(&file.object, &config, input, found)),
    }
}

/// The error for a configuration whose output size differs from the image tower's input.
fn other_size(object: &Object, config: &PreprocessConfig, input: Size, found: Option<Size>) -> CheckpointError {
    let key = match config {
        PreprocessConfig { pad: Some(_), .. } => "pad_size",
        PreprocessConfig { crop: Some(_), .. } => "crop_size",
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

/// Returns the configuration of the implementation that `overrides` name, or else that the file means.
fn configuration(file: &File, overrides: &Overrides) -> Result<(PreprocessConfig, Vec<Override>), CheckpointError> {
    let object = &file.object;
    let (key, name) = file.class()?;
    let of = |implementation| {
        let class = Class::named(&name, implementation);
        let class = class.ok_or_else(|| object.unsupported(key, format!("{name:?}"), class::KNOWN))?;
        of_class(object, &class, &name, overrides)
    };
    let meant = file.implementation(&name);
    if let Some(implementation) = overrides.image_processor {
        let (config, mut record) = of(implementation)?;
        let from = meant.map_or_else(|| "slow or pil".to_owned(), |meant| meant.to_string());
        record.push(overrides.entry(IMAGE_PROCESSOR, from, implementation.to_string()));
        return Ok((config, record));
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
    let steps = |config: &PreprocessConfig| PreprocessConfig { transparent_on_white: false, ..config.clone() };
    match newer {
        Ok((newer, _)) if steps(&newer) != steps(&older.0) => {
            let shown = |PreprocessConfig { resize, crop, .. }: PreprocessConfig| {
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

/// Returns the configuration of a class, with `overrides` applied, and the record of the overrides.
fn of_class(
    object: &Object,
    class: &Class,
    name: &str,
    overrides: &Overrides,
) -> Result<(PreprocessConfig, Vec<Override>), CheckpointError> {
    let mut record = Vec::new();
    let geometry = geometry(object, class, name);
    let (to, crop) = overridden(object, geometry, overrides, &mut record)?;
    let resize = to.map(|to| filter(object, class).map(|filter| Resize { to, filter })).transpose()?;
    let rescale = switch(object, "do_rescale", true)?;
    let rescale_factor = if rescale { Some(object.number("rescale_factor", 1.0 / 255.0)?) } else { None };
    let normalize = if switch(object, "do_normalize", true)? {
        let mean = channels(object, "image_mean", class.mean, |_| true)?;
        let std = channels(object, "image_std", class.std, |v| v > 0.0)?;
        Some(Normalize { mean, std })
    } else {
        None
    };
    let pad = pad(object, class, crop)?;
    let transparent_on_white =
        class.on_white.map(|default| switch(object, "do_convert_rgb", default)).transpose()?.unwrap_or(false);
    let backend = class.backend;
    Ok((PreprocessConfig { resize, crop, rescale_factor, normalize, pad, backend, transparent_on_white }, record))
}

/// The size that images are padded to, if any.
fn pad(object: &Object, class: &Class, crop: Option<Size>) -> Result<Option<Size>, CheckpointError> {
    if !class.pads || !switch(object, "do_pad", false)? {
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

/// Reads the resampling filter.
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
mod tests;
