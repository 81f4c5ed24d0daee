//! Builds the byte-level BPE tokenizers of RoBERTa and CLIP from `vocab.json` and `merges.txt`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::assembly::{Parts, assemble, refused, with_id};
use super::configuration::{Class, Configuration};
use crate::checkpoint::error::CheckpointError;

/// Number of merges that `CLIPTokenizer` reads; the rest of the file is ignored.
const CLIP_MERGES_MAX: usize = 49152 - 256 - 2;

/// Regular expression by which CLIP splits a prompt into words.
const CLIP_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Builds what transformers converts `RobertaTokenizer` and `CLIPTokenizer` to.
pub(super) fn tokenizer(
    [path, merges_path]: [&Path; 2],
    [vocab, merges]: [&[u8]; 2],
    config: &Configuration,
) -> Result<Vec<u8>, CheckpointError> {
    let ids: Map<String, Value> =
        serde_json::from_slice(vocab).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })?;
    let id = |token: &str| ids.get(token)?.as_u64();
    let clip = config.class == Class::Clip;
    let merges = read_merges(merges_path, merges, clip)?;
    let [first, last] = if clip { ["bos_token", "eos_token"] } else { ["cls_token", "sep_token"] };
    let (first, last) = (with_id(path, config, first, id)?, with_id(path, config, last, id)?);
    let prefix = !clip && config.add_prefix_space()?.unwrap_or(false);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let (normalizer, pre_tokenizer) = if clip {
        let space = json!({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "});
        let steps = [json!({"type": "NFC"}), space, json!({"type": "Lowercase"})];
        let words = json!({"type": "Split", "pattern": {"Regex": CLIP_WORDS}, "behavior": "Removed", "invert": true});
        (
            json!({"type": "Sequence", "normalizers": steps}),
            json!({"type": "Sequence", "pretokenizers": [words, bytes]}),
        )
    } else {
        (Value::Null, bytes)
    };
    let unk = if clip { Some(with_id(path, config, "unk_token", id)?.0) } else { None };
    let parts = Parts {
        normalizer,
        pre_tokenizer,
        post_processor: json!({"type": "RobertaProcessing", "sep": last, "cls": first, "trim_offsets": !clip,
            "add_prefix_space": prefix}),
        model: json!({"type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": "",
            "end_of_word_suffix": if clip { "</w>" } else { "" }, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": &ids, "merges": merges}),
    };
    assemble(path, parts, id, config)
}

/// Reads the pairs of pieces, most frequent first. The first line of the file is the format's version.
fn read_merges(path: &Path, merges: &[u8], clip: bool) -> Result<Vec<[String; 2]>, CheckpointError> {
    let merges = std::str::from_utf8(merges).map_err(|e| refused(path, format!("not UTF-8: {e}")))?;
    let merges = if clip { merges.trim() } else { merges };
    let count = if clip { CLIP_MERGES_MAX } else { usize::MAX };
    let mut pairs = Vec::new();
    for (index, line) in merges.lines().enumerate().skip(1).take(count) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [left, right] => pairs.push([left.to_owned(), right.to_owned()]),
            [] => {}
            _ => return Err(refused(path, format!("line {}: expected two pieces, found {line:?}", index + 1))),
        }
    }
    Ok(pairs)
}
