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
    /// How the tower knows where a token is.
    pub positions: BertPositions,
    /// Number of rows of the token type embedding table.
    pub type_vocab_size: usize,
}

/// How BERT's layers know where a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BertPositions {
    /// An embedding of the position is added to that of the token.
    Absolute,
    /// In every layer, an embedding of the distance between two tokens is compared with the query, like a key.
    RelativeKey,
    /// As [`Self::RelativeKey`]; it is also compared with the key, like a query.
    RelativeKeyQuery,
}

impl BertPositions {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        let name = object.text("position_embedding_type", "absolute")?;
        match name.as_str() {
            "absolute" => Ok(Self::Absolute),
            "relative_key" => Ok(Self::RelativeKey),
            "relative_key_query" => Ok(Self::RelativeKeyQuery),
            _ => {
                let reason = "position embeddings: \"absolute\", \"relative_key\", \"relative_key_query\"";
                Err(object.unsupported("position_embedding_type", format!("{name:?}"), reason))
            }
        }
    }
}

impl BertConfig {
    /// `vocab_size` is the configuration class's default.
    pub(super) fn read(object: &Object, vocab_size: usize) -> Result<Self, CheckpointError> {
        for key in ["is_decoder", "add_cross_attention"] {
            if object.flag(key, false)? {
                return Err(object.unsupported(key, true, "text towers are encoders"));
            }
        }
        Ok(Self {
            encoder: EncoderConfig::read(object, &EncoderDefaults::BERT)?,
            vocab_size: object.count("vocab_size", vocab_size)?,
            max_position_embeddings: object.count("max_position_embeddings", 512)?,
            positions: BertPositions::read(object)?,
            type_vocab_size: object.count("type_vocab_size", 2)?,
        })
    }
}
