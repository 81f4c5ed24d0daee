//! `text_config` of SigLIP.

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Defaults of `SiglipTextConfig`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    hidden_size: 768,
    intermediate_size: 3072,
    layers: 12,
    heads: 12,
    activation: "gelu_pytorch_tanh",
    layer_norm_eps: 1e-6,
    dropout: DropoutDefaults::CLIP,
};

/// SigLIP's text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipTextConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Number of rows of the token embedding table.
    pub vocab_size: usize,
    /// Number of rows of the position embedding table: the length of every sequence, including padding.
    pub max_position_embeddings: usize,
    /// Width of the head's output.
    pub projection_size: usize,
}

impl SiglipTextConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let encoder = EncoderConfig::read(object, &DEFAULTS)?;
        Ok(Self {
            vocab_size: object.count("vocab_size", 32000)?,
            max_position_embeddings: object.count("max_position_embeddings", 64)?,
            projection_size: object.count("projection_size", encoder.hidden_size)?,
            encoder,
        })
    }
}
