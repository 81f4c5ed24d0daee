//! `vision_config` of SigLIP.

use super::{EncoderConfig, EncoderDefaults, Patching};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// `SiglipVisionConfig`.
const DEFAULTS: EncoderDefaults =
    EncoderDefaults { activation: "gelu_pytorch_tanh", layer_norm_eps: 1e-6, ..EncoderDefaults::BERT };

/// SigLIP's image tower.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipVisionConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Input and patches.
    pub patching: Patching,
}

impl SiglipVisionConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        if !object.flag("vision_use_head", true)? {
            let reason = "without the head there is no pooled output, and embeddings are pooled outputs: transformers \
                          cannot run this dual encoder either";
            return Err(object.unsupported("vision_use_head", false, reason));
        }
        Ok(Self { encoder: EncoderConfig::read(object, &DEFAULTS)?, patching: Patching::read(object, 224, 16)? })
    }
}
