//! What turns pictures and texts into tensors, taken from both towers.

use std::path::Path;

use serde_json::{Map, Value};

use super::tower::Tower;
use super::write_json;
use crate::checkpoint::{CheckpointError, Object, read_optional};
use crate::error::Error;

/// Files of tokenizers that are copied as they are.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
];

/// How many of them, from the first, hold a vocabulary.
const VOCABULARIES: usize = 6;

/// Writes the image processor of one tower and the tokenizer of the other, as `VisionTextDualEncoderProcessor` does.
pub(super) fn write(vision: &Tower, text: &Tower, out: &Path) -> Result<(), Error> {
    write_json(&out.join("preprocessor_config.json"), &image_processor(vision)?)?;
    let mut vocabularies = 0;
    for (index, name) in TOKENIZER_FILES.into_iter().enumerate() {
        if let Some(bytes) = read_optional(&text.path.join(name))? {
            super::write(&out.join(name), &bytes)?;
            vocabularies += usize::from(index < VOCABULARIES);
        }
    }
    if vocabularies == 0 {
        let message = format!("none of {} is there", TOKENIZER_FILES[..VOCABULARIES].join(", "));
        return Err(CheckpointError::Tokenizer { path: text.path.clone(), message }.into());
    }
    let config = Object::read_or_empty(&text.path.join("tokenizer_config.json"))?;
    let config = named(config.map(), &["tokenizer_class"], text);
    write_json(&out.join("tokenizer_config.json"), &config)
}

/// `preprocessor_config.json`, or the part of `processor_config.json` that transformers 5 writes instead.
fn image_processor(vision: &Tower) -> Result<Map<String, Value>, CheckpointError> {
    let path = vision.path.join("preprocessor_config.json");
    let config = match read_optional(&path)? {
        Some(json) => Object::parse(&path, &json)?,
        None => {
            let other = vision.path.join("processor_config.json");
            match read_optional(&other)? {
                Some(json) => Object::parse(&other, &json)?.object("image_processor")?,
                // Says which file is missing.
                None => Object::read(&path)?,
            }
        }
    };
    Ok(named(config.map(), &["image_processor_type", "feature_extractor_type"], vision))
}

/// The same for a dual encoder: neither class can be found by the model's type any more, so both are named.
fn named(config: &Map<String, Value>, keys: &[&str], tower: &Tower) -> Map<String, Value> {
    let mut config = config.clone();
    config.insert("processor_class".into(), "VisionTextDualEncoderProcessor".into());
    if keys.iter().all(|key| config.get(*key).is_none_or(Value::is_null)) {
        config.insert(keys[0].into(), tower.family.processor.into());
    }
    config
}
