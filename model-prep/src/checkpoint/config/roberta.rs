//! `text_config` of RoBERTa, XLM-RoBERTa and CamemBERT, which differ in the vocabulary only.

use super::bert::BertConfig;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// RoBERTa: BERT's layers, with positions that start after the padding token's id.
#[derive(Debug, Clone, PartialEq)]
pub struct RobertaConfig {
    /// Parameters of its layers and tables.
    pub bert: BertConfig,
    /// Id of the padding token; positions start at the next number.
    pub pad_token_id: usize,
    /// Tokenizer class, for a tokenizer configuration that names none.
    pub tokenizer_class: &'static str,
}

impl RobertaConfig {
    /// `vocab_size` is the configuration class's default.
    pub(super) fn read(
        object: &Object,
        vocab_size: usize,
        tokenizer_class: &'static str,
    ) -> Result<Self, CheckpointError> {
        let bert = BertConfig::read(object, vocab_size)?;
        let fits = |n: &usize| n + 3 < bert.max_position_embeddings;
        let pad_token_id = object.or("pad_token_id", 1, "an id small enough for positions after it", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(fits)
        })?;
        Ok(Self { bert, pad_token_id, tokenizer_class })
    }
}
