//! `text_config` of a RoBERTa encoder, and of XLM-RoBERTa and CamemBERT, which are the same but for the vocabulary.

use super::BertConfig;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// A RoBERTa encoder: BERT's layers, with positions that are counted from behind the padding token's id.
#[derive(Debug, Clone, PartialEq)]
pub struct RobertaConfig {
    /// Its layers and tables.
    pub bert: BertConfig,
    /// Id of the padding token: positions start behind it.
    pub pad_token_id: usize,
    /// Class of the tokenizer where its configuration names none.
    pub tokenizer_class: &'static str,
}

impl RobertaConfig {
    /// `vocab_size` is what the configuration class has where the file says nothing.
    pub(super) fn read(
        object: &Object,
        vocab_size: usize,
        tokenizer_class: &'static str,
    ) -> Result<Self, CheckpointError> {
        let bert = BertConfig::read(object, vocab_size)?;
        let fits = |n: &usize| n + 3 < bert.max_position_embeddings;
        let pad_token_id = object.or("pad_token_id", 1, "an id that leaves positions behind it", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(fits)
        })?;
        Ok(Self { bert, pad_token_id, tokenizer_class })
    }
}
