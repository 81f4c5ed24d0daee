//! Finds the weights file of a checkpoint.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::folder;

/// Names of weights files and shard indexes, in the reference's search order, split where a variant such as `fp16` is
/// inserted.
const WEIGHTS_FILES: [(&str, &str); 4] = [
    ("model", ".safetensors"),
    ("model.safetensors.index", ".json"),
    ("pytorch_model", ".bin"),
    ("pytorch_model.bin.index", ".json"),
];

/// Extensions of files that may hold weights, for the error message.
const WEIGHTS_EXTENSIONS: [&str; 11] =
    ["safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf", "onnx", "npz", "index"];

/// Number of such files that the message lists.
const SHOWN_MAX: usize = 3;

/// Returns the weights file of the checkpoint, or the index of its shards: without a variant, else the only variant.
pub(super) fn find(checkpoint: &Path) -> Result<PathBuf, CheckpointError> {
    let names = folder::names(checkpoint);
    match choose(&names) {
        Some((name, true)) => return Ok(checkpoint.join(name)),
        Some((name, false)) => {
            log::warn!("{}: no weights without a variant name; using {name}", checkpoint.display());
            return Ok(checkpoint.join(name));
        }
        None => {}
    }
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant(name)).collect();
    let refuse = |found: String| Err(CheckpointError::NoWeights { path: checkpoint.to_owned(), found });
    if variants.len() > 1 {
        let found: Vec<&str> = names.iter().filter(|name| variant(name).is_some()).map(String::as_str).collect();
        return refuse(format!("{}: rename the one to use", found.join(", ")));
    }
    if let Some(adapter) = folder::adapter(checkpoint) {
        return refuse(adapter);
    }
    refuse(others(&names))
}

/// Chooses from the names of a folder's files the weights file, or the index of its shards, and returns whether it is one
/// without a variant; else it is of the only variant.
pub(crate) fn choose(names: &[String]) -> Option<(String, bool)> {
    let is_there = |name: &String| names.contains(name);
    if let Some(name) = WEIGHTS_FILES.map(|(start, end)| format!("{start}{end}")).into_iter().find(is_there) {
        return Some((name, true));
    }
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant(name)).collect();
    let variant = variants.first().filter(|_| variants.len() == 1)?;
    let of_variant = WEIGHTS_FILES.map(|(start, end)| format!("{start}.{variant}{end}"));
    Some((of_variant.into_iter().find(is_there)?, false))
}

/// The variant in the name of a weights file: `fp16` in `model.fp16.safetensors`.
fn variant(name: &str) -> Option<&str> {
    WEIGHTS_FILES.iter().find_map(|(start, end)| {
        let variant = name.strip_prefix(start)?.strip_prefix('.')?.strip_suffix(end)?;
        let is_plain = !variant.is_empty() && variant.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        // `model.safetensors.index` starts like `model`.
        (is_plain && variant != "index" && !is_shard(variant)).then_some(variant)
    })
}

/// Returns whether `variant` ends like a shard's name, as in `model.fp16-00001-of-00002.safetensors`.
fn is_shard(variant: &str) -> bool {
    variant.contains("-of-")
}

/// Describes what is there instead of weights, and what to do.
fn others(names: &[String]) -> String {
    let has_weights_extension =
        |name: &str| name.rsplit_once('.').is_some_and(|(_, extension)| WEIGHTS_EXTENSIONS.contains(&extension));
    let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| has_weights_extension(name)).collect();
    let save = "save the model again with `save_pretrained(..., safe_serialization=True)`";
    if others.is_empty() {
        return format!("none of them; {save}, or download all files of the checkpoint");
    }
    let more = if others.len() > SHOWN_MAX { ", ..." } else { "" };
    let shown = others[..others.len().min(SHOWN_MAX)].join(", ");
    let advice = if others.iter().any(|name| name.contains("-of-")) {
        "these are shards: also download their index (model.safetensors.index.json)".to_owned()
    } else if others.iter().all(|name| name.ends_with(".safetensors")) {
        format!("rename it to model.safetensors if it is this model, or {save}")
    } else {
        save.to_owned()
    };
    format!("{shown}{more}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_found_under_every_name() {
        let check = |files: &[&str], expected: Result<&str, &[&str]>| {
            let folder = tempfile::tempdir().expect("a folder");
            for file in files {
                std::fs::write(folder.path().join(file), "{}").expect("a file");
            }
            match (find(folder.path()), expected) {
                (Ok(path), Ok(name)) => assert_eq!(path, folder.path().join(name), "{files:?}"),
                (Err(error), Err(parts)) => {
                    let message = error.to_string();
                    assert!(
                        parts.iter().all(|part| message.contains(part)),
                        "{files:?}: {parts:?} are not in {message}"
                    );
                }
                (found, _) => panic!("{files:?}: {found:?}"),
            }
        };
        check(&["pytorch_model.bin", "model.safetensors"], Ok("model.safetensors"));
        check(&["model.safetensors", "model.fp16.safetensors"], Ok("model.safetensors"));
        check(&["model.fp16.safetensors"], Ok("model.fp16.safetensors"));
        check(&["pytorch_model.bf16.bin"], Ok("pytorch_model.bf16.bin"));
        check(&["pytorch_model.fp16.bin", "model.fp16.safetensors"], Ok("model.fp16.safetensors"));
        let index = "model.safetensors.index.fp16.json";
        check(&[index, "model.fp16-00001-of-00001.safetensors"], Ok(index));
        check(&["pytorch_model.bin.index.fp16.json"], Ok("pytorch_model.bin.index.fp16.json"));
        check(&["model.fp16.safetensors", "model.bf16.safetensors"], Err(&["fp16", "bf16", "rename the one to use"]));
        check(&[], Err(&["found none of them", "save_pretrained"]));
        check(&["tf_model.h5"], Err(&["found tf_model.h5", "save_pretrained"]));
        check(&["clip.safetensors"], Err(&["found clip.safetensors", "rename it to model.safetensors"]));
        check(&["model-00001-of-00002.safetensors"], Err(&["shards", "model.safetensors.index.json"]));
        check(&["adapter_config.json", "adapter_model.bin"], Err(&["adapter", "merge_and_unload"]));
    }
}
