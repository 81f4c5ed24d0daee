//! Replaces the post-processor of `tokenizer.json` where a class has its own tokens before and after a prompt, or no
//! token types.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor, Token, Tokenizer};

use super::assembly::{refused, unusable};
use super::configuration::{AddedToken, Configuration};
use crate::checkpoint::error::CheckpointError;

/// Changes the post-processor as the class does; returns descriptions of the changes.
pub(super) fn adjust(
    path: &Path,
    tokenizer: &mut Tokenizer,
    config: &Configuration,
) -> Result<Vec<&'static str>, CheckpointError> {
    let mut changes = Vec::new();
    if let Some([bos, eos]) = config.bos_eos()? {
        let found = |token: &AddedToken| match tokenizer.token_to_id(&token.content) {
            Some(id) => Ok((token.content.clone(), id)),
            None => Err(refused(path, format!("the special token {:?} is not in the vocabulary", token.content))),
        };
        let (bos, eos) = (bos.as_ref().map(found).transpose()?, eos.as_ref().map(found).transpose()?);
        let wanted = read(path, template(bos.as_ref(), eos.as_ref()))?;
        if ids_and_types(path, Some(&wanted))?.0 != ids_and_types(path, tokenizer.get_post_processor())?.0 {
            tokenizer.with_post_processor(Some(wanted));
            changes.push("its tokens before and after a prompt");
        }
    }
    let types = ids_and_types(path, tokenizer.get_post_processor())?.1;
    if !config.token_types()? && types.iter().any(|kind| *kind != 0) {
        let mut value = json!(tokenizer.get_post_processor());
        without_types(&mut value);
        tokenizer.with_post_processor(Some(read(path, value)?));
        changes.push("its token types");
    }
    Ok(changes)
}

fn read(path: &Path, value: Value) -> Result<PostProcessorWrapper, CheckpointError> {
    serde_json::from_value(value).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}

/// Runs the post-processor on one token with an id that no vocabulary has; returns ids and types.
fn ids_and_types(
    path: &Path,
    processor: Option<&PostProcessorWrapper>,
) -> Result<(Vec<u32>, Vec<u32>), CheckpointError> {
    let prompt = Encoding::from_tokens(vec![Token::new(u32::MAX, "a".to_owned(), (0, 1))], 0);
    let all = match processor {
        Some(processor) => processor.process(prompt, None, true).map_err(|e| unusable(path, &e))?,
        None => prompt,
    };
    Ok((all.get_ids().to_vec(), all.get_type_ids().to_vec()))
}

/// A template with the given tokens; the second prompt of a pair has type 1.
fn template(bos: Option<&(String, u32)>, eos: Option<&(String, u32)>) -> Value {
    let part = |sequence: &str, kind: u32| {
        let mark = |token: &(String, u32)| json!({"SpecialToken": {"id": token.0, "type_id": kind}});
        let middle = json!({"Sequence": {"id": sequence, "type_id": kind}});
        bos.map(mark).into_iter().chain([middle]).chain(eos.map(mark)).collect::<Vec<_>>()
    };
    let entry = |(token, id): &(String, u32)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let specials: serde_json::Map<_, _> = bos.into_iter().chain(eos).map(entry).collect();
    let (single, pair) = (part("A", 0), [part("A", 0), part("B", 1)].concat());
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials})
}

/// Sets all types in the template of single prompts to 0.
fn without_types(value: &mut Value) {
    let steps = value.get_mut("processors").and_then(Value::as_array_mut);
    steps.into_iter().flatten().for_each(without_types);
    let pieces = value.get_mut("single").and_then(Value::as_array_mut);
    for piece in pieces.into_iter().flatten().filter_map(Value::as_object_mut).flat_map(serde_json::Map::values_mut) {
        piece["type_id"] = 0.into();
    }
}
