//! `text_config` of a BERT encoder.

use super::{EncoderConfig, EncoderDefaults};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// A BERT encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Rows of the position embedding table: the longest sequence.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding table.
    pub type_vocab_size: usize,
}

impl BertConfig {
    /// `vocab_size` is what the configuration class has where the file says nothing.
    pub(super) fn read(object: &Object, vocab_size: usize) -> Result<Self, CheckpointError> {
        let positions = object.text("position_embedding_type", "absolute")?;
        if positions != "absolute" {
            return Err(object.unsupported("position_embedding_type", format!("{positions:?}"), "only \"absolute\""));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if object.flag(key, false)? {
                return Err(object.unsupported(key, true, "the text tower is an encoder"));
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
