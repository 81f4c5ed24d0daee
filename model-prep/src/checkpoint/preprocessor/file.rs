//! The image processor's file, and which of the reference's implementations it means.
//!
//! The files of transformers 4 and 5 have the same keys and the same class names, which mean different implementations.
//! The version stands in the `config.json` beside them.

use std::path::Path;

use super::class::Class;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;
use crate::overrides::ImageProcessor;

/// An image processor's file with what its folder says about it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) object: Object,
    /// Name of the class where the file names none: that of the image tower.
    default_class: String,
    /// The version of transformers that wrote it, up to the first dot.
    major: Option<u64>,
}

/// Keys that only the `to_dict` of transformers 4 writes, where their values are null.
const NULLS_OF_FOUR: [&str; 7] =
    ["do_convert_rgb", "crop_size", "data_format", "device", "disable_grouping", "input_data_format", "return_tensors"];

impl File {
    /// Reads `preprocessor_config.json`, or the `image_processor` of the `processor_config.json` that transformers 5 writes
    /// in its place, and prefers.
    pub(super) fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let config = folder.join("config.json");
        let (default_class, mut major) =
            if config.exists() { of_config(Object::read(&config)?)? } else { (Class::of_tower("").to_owned(), None) };
        let (own, joint) = (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
        if joint.exists() && (!own.exists() || major >= Some(5)) {
            let joint = Object::read(&joint)?;
            if !own.exists() || joint.get("image_processor").is_some() {
                // No version before 5 writes it so.
                major = major.max(Some(5));
                return Ok(Self { object: joint.object("image_processor")?, default_class, major });
            }
        }
        Ok(Self { object: Object::read(&own)?, default_class, major })
    }

    #[cfg(test)]
    pub(super) fn of(object: Object, major: Option<u64>) -> Self {
        Self { object, default_class: "ViTImageProcessor".into(), major }
    }

    /// The key that names the class, and its name.
    pub(super) fn class(&self) -> Result<(&'static str, String), CheckpointError> {
        let named = self.object.get("image_processor_type").is_some();
        let key = if named { "image_processor_type" } else { "feature_extractor_type" };
        Ok((key, self.object.text(key, &self.default_class)?))
    }

    /// The implementation that the file means; `None` where nothing tells whether transformers 4 or 5 wrote it.
    pub(super) fn implementation(&self, class: &str) -> Option<ImageProcessor> {
        let null = |key: &str| self.object.map().get(key).is_some_and(serde_json::Value::is_null);
        match self.major {
            _ if class.ends_with("Fast") => Some(ImageProcessor::Fast),
            _ if class.ends_with("Pil") => Some(ImageProcessor::Pil),
            // Neither feature extractors nor files without a class name are written any more.
            _ if self.object.get("image_processor_type").is_none() => Some(ImageProcessor::Slow),
            Some(5..) => Some(ImageProcessor::Pil),
            Some(_) => Some(ImageProcessor::Slow),
            None => NULLS_OF_FOUR.into_iter().any(null).then_some(ImageProcessor::Slow),
        }
    }
}

/// The image tower's class and the version.
fn of_config(config: Object) -> Result<(String, Option<u64>), CheckpointError> {
    let version = config.text("transformers_version", "")?;
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    let tower = if config.get("vision_config").is_some() { config.object("vision_config")? } else { config };
    Ok((Class::of_tower(&tower.text("model_type", "")?).to_owned(), major))
}
