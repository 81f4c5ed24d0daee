//! `vision_config` of SigLIP.

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use super::patching::Patching;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Defaults of `SiglipVisionConfig`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    activation: "gelu_pytorch_tanh",
    layer_norm_eps: 1e-6,
    dropout: DropoutDefaults::CLIP,
    ..EncoderDefaults::BERT
};

/// SigLIP's image tower.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipVisionConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Sizes of the input and the patches.
    pub patching: Patching,
}

impl SiglipVisionConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        if !object.flag("vision_use_head", true)? {
            let reason = "without the head there is no pooler output, and embeddings are pooler outputs; transformers \
                          cannot run this dual encoder either";
            return Err(object.unsupported("vision_use_head", false, reason));
        }
        Ok(Self { encoder: EncoderConfig::read(object, &DEFAULTS)?, patching: Patching::read(object, 224, 16)? })
    }
}
