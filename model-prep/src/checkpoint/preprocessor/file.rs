//! Reads the image processor's file and determines which of the reference's implementations it means.
//!
//! The files of transformers 4 and 5 have the same keys and class names, but the implementations differ. The version is
//! in the `config.json` next to them.

use std::path::Path;

use super::class::Class;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;
use crate::overrides::ImageProcessor;

/// An image processor's file, with what `config.json` says about it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) object: Object,
    /// Class name for a file that names none: that of the image tower, if one is known for it.
    default_class: Option<String>,
    /// Major version of the transformers release that wrote it, if known.
    major: Option<u64>,
}

/// Class of an image processor that neither its file nor a `model_type` names.
const UNNAMED: &str = "ViTImageProcessor";

/// Keys that `to_dict` of transformers 4 writes even if their values are null; transformers 5 leaves them out.
const NULLS_OF_FOUR: [&str; 7] =
    ["do_convert_rgb", "crop_size", "data_format", "device", "disable_grouping", "input_data_format", "return_tensors"];

impl File {
    /// Reads `preprocessor_config.json`, or `image_processor` in the `processor_config.json` that transformers 5 writes
    /// instead, and prefers.
    pub(super) fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let config = folder.join("config.json");
        let (default_class, mut major) =
            if config.exists() { of_config(Object::read(&config)?)? } else { (Some(UNNAMED.to_owned()), None) };
        let (own, joint) = (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
        if joint.exists() && (!own.exists() || major >= Some(5)) {
            let joint = Object::read(&joint)?;
            if !own.exists() || joint.get("image_processor").is_some() {
                // Versions before 5 do not write it like this.
                major = major.max(Some(5));
                return Ok(Self { object: joint.object("image_processor")?, default_class, major });
            }
        }
        Ok(Self { object: Object::read(&own)?, default_class, major })
    }

    #[cfg(test)]
    pub(super) fn of(object: Object, major: Option<u64>) -> Self {
        Self { object, default_class: Some(UNNAMED.to_owned()), major }
    }

    /// The key that names the class, and its name.
    pub(super) fn class(&self) -> Result<(&'static str, String), CheckpointError> {
        let named = self.object.get("image_processor_type").is_some();
        let key = if named { "image_processor_type" } else { "feature_extractor_type" };
        match &self.default_class {
            Some(class) => Ok((key, self.object.text(key, class)?)),
            None if self.object.get(key).is_some() => Ok((key, self.object.text(key, "")?)),
            None => {
                let expected = "the name of an image processor's class, as none is known for this `model_type`";
                Err(self.object.wrong("image_processor_type", expected, None))
            }
        }
    }

    /// The implementation that the file means; `None` if it is unknown whether transformers 4 or 5 wrote it.
    pub(super) fn implementation(&self, class: &str) -> Option<ImageProcessor> {
        let null = |key: &str| self.object.map().get(key).is_some_and(serde_json::Value::is_null);
        match self.major {
            _ if class.ends_with("Fast") => Some(ImageProcessor::Fast),
            _ if class.ends_with("Pil") => Some(ImageProcessor::Pil),
            // Transformers 5 writes neither feature extractors nor files without a class name.
            _ if self.object.get("image_processor_type").is_none() => Some(ImageProcessor::Slow),
            Some(5..) => Some(ImageProcessor::Pil),
            Some(_) => Some(ImageProcessor::Slow),
            None => NULLS_OF_FOUR.into_iter().any(null).then_some(ImageProcessor::Slow),
        }
    }
}

/// The image tower's image processor class, if one is known for it, and the major version.
fn of_config(config: Object) -> Result<(Option<String>, Option<u64>), CheckpointError> {
    let version = config.text("transformers_version", "")?;
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    let tower = if config.get("vision_config").is_some() { config.object("vision_config")? } else { config };
    let class = match tower.text("model_type", "")?.as_str() {
        "" => Some(UNNAMED),
        model_type => Class::of_tower(model_type),
    };
    Ok((class.map(str::to_owned), major))
}

/// Reads a switch; null turns it off, whatever the default.
pub(super) fn switch(object: &Object, key: &str, default: bool) -> Result<bool, CheckpointError> {
    let null = object.entries().any(|(name, value)| name == key && value.is_null());
    object.flag(key, default && !null)
}
