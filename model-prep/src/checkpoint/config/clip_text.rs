//! `text_config` of CLIP.

use super::{EncoderConfig, EncoderDefaults};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// `CLIPTextConfig`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    hidden_size: 512,
    intermediate_size: 2048,
    layers: 12,
    heads: 8,
    activation: "quick_gelu",
    layer_norm_eps: 1e-5,
};

/// `eos_token_id` in files written before it was looked at; see [`ClipPooling::LargestId`].
const LEGACY_EOS_TOKEN_ID: u64 = 2;

/// CLIP's text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Rows of the table of token embeddings.
    pub vocab_size: usize,
    /// Rows of the table of position embeddings: the longest sequence.
    pub max_position_embeddings: usize,
    /// Which token is pooled.
    pub pooling: ClipPooling,
}

/// The token whose hidden state is the pooler's output; the first one where several qualify, token 0 where none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipPooling {
    /// The token with the largest id. Files with `eos_token_id` 2 mean this: the id is wrong in them, and the end of the
    /// text was the last word of the vocabulary.
    LargestId,
    /// The token with this id, the end of the text.
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
