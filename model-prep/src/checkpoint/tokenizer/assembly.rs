//! Assembles a `tokenizer.json` from its parts.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::configuration::Configuration;
use crate::checkpoint::error::CheckpointError;

/// Parses a `tokenizer.json`.
pub(super) fn parse(path: &Path, json: &[u8]) -> Result<Tokenizer, CheckpointError> {
    Tokenizer::from_bytes(json).map_err(|e| unusable(path, &e))
}

/// The error for a tokenizer that the library rejects.
pub(super) fn unusable(path: &Path, error: &tokenizers::Error) -> CheckpointError {
    refused(path, error.to_string())
}

/// The error for an unusable tokenizer file.
pub(super) fn refused(path: &Path, message: String) -> CheckpointError {
    CheckpointError::Tokenizer { path: path.to_owned(), message }
}

/// The parts of a `tokenizer.json` that depend on the kind of tokenizer.
pub(super) struct Parts {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) model: Value,
}

/// Assembles a `tokenizer.json`. `vocabulary` looks up the ids of the tokens that the configuration adds.
pub(super) fn assemble(
    path: &Path,
    parts: Parts,
    vocabulary: impl Fn(&str) -> Option<u64>,
    config: &Configuration,
) -> Result<Vec<u8>, CheckpointError> {
    let (mut added, declared) = (Vec::new(), config.declared()?);
    for token in config.added_tokens()? {
        let declared_id = || declared.iter().find(|(_, t)| t.content == token.content).map(|(id, _)| *id);
        match vocabulary(&token.content).or_else(declared_id) {
            Some(id) => added.push((id, token)),
            None => log::warn!("{}: {:?} is not in the vocabulary; skipped", path.display(), token.content),
        }
    }
    added.sort_by_key(|(id, _)| *id);
    let Parts { normalizer, pre_tokenizer, post_processor, model } = parts;
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.iter().map(|(id, token)| token.to_json(*id)).collect::<Vec<_>>(),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null,
        "model": model,
    });
    let tokenizer = parse(path, file.to_string().as_bytes())?;
    // The library numbers tokens beyond the vocabulary consecutively.
    for (id, token) in &added {
        let found = tokenizer.token_to_id(&token.content).map(u64::from);
        if found != Some(*id) {
            let message =
                format!("the added token {:?} should have the id {id} but would get {found:?}", token.content);
            return Err(refused(path, message));
        }
    }
    tokenizer.to_string(false).map(String::into_bytes).map_err(|e| unusable(path, &e))
}

/// Returns a special token with its id; an error if the vocabulary does not have it.
pub(super) fn with_id(
    path: &Path,
    config: &Configuration,
    key: &str,
    vocabulary: impl Fn(&str) -> Option<u64>,
) -> Result<(String, u64), CheckpointError> {
    let token = config.required(key)?.content;
    match vocabulary(&token) {
        Some(id) => Ok((token, id)),
        None => Err(refused(path, format!("the special token {token:?} is not in the vocabulary"))),
    }
}

/// A post-processor that puts `first` before and `last` after a prompt.
pub(super) fn template(first: Option<(String, u64)>, last: (String, u64)) -> Value {
    let mark = |token: &(String, u64)| json!({"SpecialToken": {"id": token.0, "type_id": 0}});
    let mut single: Vec<Value> = first.iter().map(mark).collect();
    single.extend([json!({"Sequence": {"id": "A", "type_id": 0}}), mark(&last)]);
    let pair = [&single[..], &[json!({"Sequence": {"id": "B", "type_id": 0}}), mark(&last)]].concat();
    let specials: Map<String, Value> = first
        .into_iter()
        .chain([last])
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials})
}
