//! `text_config` of CLIP.

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Defaults of `CLIPTextConfig`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    hidden_size: 512,
    intermediate_size: 2048,
    layers: 12,
    heads: 8,
    activation: "quick_gelu",
    layer_norm_eps: 1e-5,
    dropout: DropoutDefaults::CLIP,
};

/// Wrong `eos_token_id` in old files; see [`ClipPooling::LargestId`].
const LEGACY_EOS_TOKEN_ID: u64 = 2;

/// CLIP's text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Number of rows of the token embedding table.
    pub vocab_size: usize,
    /// Number of rows of the position embedding table: the longest sequence.
    pub max_position_embeddings: usize,
    /// Which token is pooled.
    pub pooling: ClipPooling,
}

/// The token whose hidden state is the pooler output: the first match, or token 0 without a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipPooling {
    /// The token with the largest id, for files with the wrong `eos_token_id` 2: the end-of-text token was the last one
    /// of the vocabulary.
    LargestId,
    /// The end-of-text token, which has this id.
    Eos(i64),
}

impl ClipTextConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let eos = object.or("eos_token_id", 49407, "a token id", |v| v.as_u64().filter(|id| *id <= u32::MAX.into()))?;
        Ok(Self {
            encoder: EncoderConfig::read(object, &DEFAULTS)?,
            vocab_size: object.count("vocab_size", 49408)?,
            max_position_embeddings: object.count("max_position_embeddings", 77)?,
            pooling: if eos == LEGACY_EOS_TOKEN_ID { ClipPooling::LargestId } else { ClipPooling::Eos(eos as i64) },
        })
    }
}
