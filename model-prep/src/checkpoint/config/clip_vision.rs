//! `vision_config` of CLIP.

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use super::patching::Patching;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Defaults of `CLIPVisionConfig`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    activation: "quick_gelu",
    layer_norm_eps: 1e-5,
    dropout: DropoutDefaults::CLIP,
    ..EncoderDefaults::BERT
};

/// CLIP's image tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Sizes of the input and the patches.
    pub patching: Patching,
}

impl ClipVisionConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        Ok(Self { encoder: EncoderConfig::read(object, &DEFAULTS)?, patching: Patching::read(object, 224, 32)? })
    }
}
