//! Which file of a checkpoint has its weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CheckpointError, folder};

/// Files that weights may be in, in the order in which the reference looks for them; an index names shards. What stands
/// before and behind the name of a variant (`fp16`), where there is one.
const WEIGHTS_FILES: [(&str, &str); 4] = [
    ("model", ".safetensors"),
    ("model.safetensors.index", ".json"),
    ("pytorch_model", ".bin"),
    ("pytorch_model.bin.index", ".json"),
];

/// Ends of the names of files that may hold weights, for the message.
const WEIGHTS_ENDINGS: [&str; 11] =
    ["safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf", "onnx", "npz", "index"];

/// Names that are shown of them.
const SHOWN_MAX: usize = 3;

/// The weights file of the checkpoint, or the index of its shards: a plain one, else the only variant.
pub(super) fn find(checkpoint: &Path) -> Result<PathBuf, CheckpointError> {
    for (start, end) in WEIGHTS_FILES {
        let path = checkpoint.join(format!("{start}{end}"));
        if path.exists() {
            return Ok(path);
        }
    }
    let names = folder::names(checkpoint);
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant(name)).collect();
    let refuse = |found: String| Err(CheckpointError::NoWeights { path: checkpoint.to_owned(), found });
    if variants.len() > 1 {
        let found: Vec<&str> = names.iter().filter(|name| variant(name).is_some()).map(String::as_str).collect();
        return refuse(format!("{}: rename the one to take", found.join(", ")));
    }
    if let Some(variant) = variants.first() {
        let of_variant = WEIGHTS_FILES.map(|(start, end)| format!("{start}.{variant}{end}"));
        if let Some(name) = of_variant.iter().find(|name| names.contains(name)) {
            log::warn!("{}: no weights under a plain name; {name} is taken", checkpoint.display());
            return Ok(checkpoint.join(name));
        }
    }
    if let Some(adapter) = folder::adapter(checkpoint) {
        return refuse(adapter);
    }
    refuse(others(&names))
}

/// The variant that a weights file is of: `fp16` of `model.fp16.safetensors`.
fn variant(name: &str) -> Option<&str> {
    WEIGHTS_FILES.iter().find_map(|(start, end)| {
        let variant = name.strip_prefix(start)?.strip_prefix('.')?.strip_suffix(end)?;
        let is_plain = !variant.is_empty() && variant.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        // `model.safetensors.index` begins as `model` does.
        (is_plain && variant != "index" && !is_shard(variant)).then_some(variant)
    })
}

/// Whether `variant` is the end of a shard's name, as in `model.fp16-00001-of-00002.safetensors`.
fn is_shard(variant: &str) -> bool {
    variant.contains("-of-")
}

/// What there is instead of weights, and what to do.
fn others(names: &[String]) -> String {
    let ending = |name: &str| name.rsplit_once('.').is_some_and(|(_, ending)| WEIGHTS_ENDINGS.contains(&ending));
    let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| ending(name)).collect();
    let save = "save the model again with `save_pretrained(..., safe_serialization=True)`";
    if others.is_empty() {
        return format!("none of them; {save}, or download all files of the checkpoint");
    }
    let more = if others.len() > SHOWN_MAX { ", ..." } else { "" };
    let shown = others[..others.len().min(SHOWN_MAX)].join(", ");
    let advice = if others.iter().any(|name| name.contains("-of-")) {
        "these are shards: download the index beside them, too (model.safetensors.index.json)".to_owned()
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
    fn the_weights_are_found_under_every_name() {
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
        check(&["model.fp16.safetensors", "model.bf16.safetensors"], Err(&["fp16", "bf16", "rename the one to take"]));
        check(&[], Err(&["found none of them", "save_pretrained"]));
        check(&["tf_model.h5"], Err(&["found tf_model.h5", "save_pretrained"]));
        check(&["clip.safetensors"], Err(&["found clip.safetensors", "rename it to model.safetensors"]));
        check(&["model-00001-of-00002.safetensors"], Err(&["shards", "model.safetensors.index.json"]));
        check(&["adapter_config.json", "adapter_model.bin"], Err(&["adapter", "merge_and_unload"]));
    }
}
