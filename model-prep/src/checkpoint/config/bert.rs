//! `text_config` of BERT.

use super::encoder::{EncoderConfig, EncoderDefaults};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// BERT.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Number of rows of the word embedding table.
    pub vocab_size: usize,
    /// Number of rows of the position embedding table: the longest sequence.
    pub max_position_embeddings: usize,
    /// Number of rows of the token type embedding table.
    pub type_vocab_size: usize,
}

impl BertConfig {
    /// `vocab_size` is the configuration class's default.
    pub(super) fn read(object: &Object, vocab_size: usize) -> Result<Self, CheckpointError> {
        let positions = object.text("position_embedding_type", "absolute")?;
        if positions != "absolute" {
            return Err(object.unsupported("position_embedding_type", format!("{positions:?}"), "only \"absolute\""));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if object.flag(key, false)? {
                return Err(object.unsupported(key, true, "text towers are encoders"));
            }
        }
        Ok(Self {
            encoder: EncoderConfig::read(object, &EncoderDefaults::BERT)?,
            vocab_size: object.count("vocab_size", vocab_size)?,
            max_position_embeddings: object.count("max_position_embeddings", 512)?,
            type_vocab_size: object.count("type_vocab_size", 2)?,
        })
    }
}
