//! Copies the image processor of one tower and the tokenizer of the other.

use std::path::Path;

use serde_json::{Map, Value};

use super::files::{write as write_file, write_json};
use super::tower::Tower;
use crate::checkpoint::{CheckpointError, Object, read_optional};
use crate::error::Error;

/// Tokenizer files that are copied unchanged.
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

/// The first so many of them hold a vocabulary.
const VOCABULARIES: usize = 6;

/// Writes the image processor of one tower and the tokenizer of the other, as `VisionTextDualEncoderProcessor` does.
pub(super) fn write(vision: &Tower, text: &Tower, out: &Path) -> Result<(), Error> {
    write_json(&out.join("preprocessor_config.json"), &image_processor(vision)?)?;
    let mut vocabularies = 0;
    for (index, name) in TOKENIZER_FILES.into_iter().enumerate() {
        if let Some(bytes) = read_optional(&text.path.join(name))? {
            write_file(&out.join(name), &bytes)?;
            vocabularies += usize::from(index < VOCABULARIES);
        }
    }
    if vocabularies == 0 {
        let message = format!("found none of {}", TOKENIZER_FILES[..VOCABULARIES].join(", "));
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
                // The error names the missing file.
                None => Object::read(&path)?,
            }
        }
    };
    Ok(named(config.map(), &["image_processor_type", "feature_extractor_type"], vision))
}

/// Adds the class names, which cannot be derived from the model type of a dual encoder.
fn named(config: &Map<String, Value>, keys: &[&str], tower: &Tower) -> Map<String, Value> {
    let mut config = config.clone();
    config.insert("processor_class".into(), "VisionTextDualEncoderProcessor".into());
    if keys.iter().all(|key| config.get(*key).is_none_or(Value::is_null)) {
        config.insert(keys[0].into(), tower.family.processor.into());
    }
    config
}
