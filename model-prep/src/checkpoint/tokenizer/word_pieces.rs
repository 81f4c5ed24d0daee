//! Builds the WordPiece tokenizers of BERT and MPNet from `vocab.txt`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::assembly::{Parts, assemble, refused, template, with_id};
use super::configuration::Configuration;
use crate::checkpoint::error::CheckpointError;

/// Builds what transformers converts `BertTokenizer` and `MPNetTokenizer` to.
pub(super) fn tokenizer(path: &Path, vocab: &[u8], config: &Configuration) -> Result<Vec<u8>, CheckpointError> {
    let vocab = std::str::from_utf8(vocab).map_err(|e| refused(path, format!("not UTF-8: {e}")))?;
    // A repeated token gets the id of its last line, as in the reference.
    let ids: Map<String, Value> = vocab.lines().enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let id = |token: &str| ids.get(token)?.as_u64();
    let (unk, _) = with_id(path, config, "unk_token", id)?;
    let cls = with_id(path, config, "cls_token", id)?;
    let sep = with_id(path, config, "sep_token", id)?;
    let normalization = config.normalization()?;
    let mut post_processor = template(Some(cls), sep);
    // Funnel's first token has its own type.
    if config.name.starts_with("FunnelTokenizer") && config.token_types()? {
        post_processor["single"][0]["SpecialToken"]["type_id"] = 2.into();
    }
    let parts = Parts {
        normalizer: json!({"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": normalization.chinese_chars, "strip_accents": normalization.strip_accents,
            "lowercase": normalization.lowercase}),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor,
        model: json!({"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": &ids}),
    };
    assemble(path, parts, id, config)
}
