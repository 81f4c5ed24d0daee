//! `vision_config` of CLIP.

use super::{EncoderConfig, EncoderDefaults, Patching};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// `CLIPVisionConfig`.
const DEFAULTS: EncoderDefaults =
    EncoderDefaults { activation: "quick_gelu", layer_norm_eps: 1e-5, ..EncoderDefaults::BERT };

/// CLIP's image tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Input and patches.
    pub patching: Patching,
}

impl ClipVisionConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        Ok(Self { encoder: EncoderConfig::read(object, &DEFAULTS)?, patching: Patching::read(object, 224, 32)? })
    }
}
