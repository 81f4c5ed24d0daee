//! Which of a model's files are needed.

use std::path::{Component, Path};

use super::HubError;
use super::client::RemoteFile;
use super::name::Name;
use crate::checkpoint::{choose_weights, shard_names};

/// Files beside the weights that a checkpoint may have, as far as they are read.
const SMALL_FILES: [&str; 14] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "MODEL_CARD.md",
];

/// The files that are needed of a model.
#[derive(Debug)]
pub(super) struct Chosen {
    /// All but the shards that an index lists.
    pub(super) needed: Vec<RemoteFile>,
    /// The index of the shards, if the weights are in shards.
    pub(super) index: Option<RemoteFile>,
}

/// What the names of files in a subfolder start with; nothing without a subfolder.
pub(super) fn prefix(subfolder: Option<&Path>) -> Result<String, HubError> {
    let Some(folder) = subfolder else { return Ok(String::new()) };
    let parts: Option<Vec<&str>> = folder
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| if let Component::Normal(name) = part { name.to_str() } else { None })
        .collect();
    let refuse = || HubError::Subfolder { found: folder.to_owned() };
    Ok(parts.ok_or_else(refuse)?.iter().map(|part| format!("{part}/")).collect())
}

/// Chooses from a model's files those in the folder `prefix`: configurations and tokenizer, and the weights once, by the same
/// rules as in a folder on this machine.
pub(super) fn files(name: &Name, prefix: &str, all: &[RemoteFile]) -> Result<Chosen, HubError> {
    let inside = |file: &&RemoteFile| file.path.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
    let here: Vec<&RemoteFile> = all.iter().filter(inside).collect();
    let names: Vec<String> = here.iter().map(|file| file.path[prefix.len()..].to_owned()).collect();
    let refuse = |found: String| {
        let folder = prefix.trim_end_matches('/').to_owned();
        Err(HubError::NoFiles { name: name.clone(), folder, found })
    };
    let is_there = |name: &str| names.iter().any(|other| other == name);
    if !is_there("config.json") {
        let inner: Vec<&str> = all.iter().filter_map(|file| file.path.strip_suffix("/config.json")).take(3).collect();
        return refuse(match (names.is_empty(), inner.is_empty()) {
            _ if is_there("open_clip_config.json") => {
                "an OpenCLIP checkpoint, without config.json: look for a copy of it in transformers' format on the hub"
                    .to_owned()
            }
            _ if is_there("adapter_config.json") => {
                "an adapter (PEFT, LoRA) without the model itself: merge it in Python, save the model, and export that \
                 folder"
                    .to_owned()
            }
            (_, false) => format!("no config.json here; pass --subfolder {}", inner.join(", or ")),
            (true, true) => "no such folder".to_owned(),
            (false, true) => "no config.json: not a model of transformers".to_owned(),
        });
    }
    let of = |name: &str| here.iter().find(|file| &file.path[prefix.len()..] == name).map(|file| (*file).clone());
    let mut needed: Vec<RemoteFile> = SMALL_FILES.iter().filter_map(|name| of(name)).collect();
    let Some((weights, is_plain)) = choose_weights(&names) else {
        let ending = |ending: &str| names.iter().any(|name| name.ends_with(ending));
        return refuse(if ending(".gguf") || ending(".onnx") || ending(".h5") || ending(".msgpack") {
            "no weights of PyTorch (model.safetensors, pytorch_model.bin), only those for other programs: look for the model \
             that they were made of"
                .to_owned()
        } else {
            "no weights: expected model.safetensors, pytorch_model.bin, or shards with their index".to_owned()
        });
    };
    if !is_plain {
        log::warn!("{name}: no weights without a variant name; using {weights}");
    }
    let weights = of(&weights);
    let is_index = weights.as_ref().is_some_and(|file| file.path.ends_with(".json"));
    let index = if is_index { weights.clone() } else { None };
    needed.extend(weights.filter(|_| !is_index));
    Ok(Chosen { needed, index })
}

/// The shards that a downloaded index lists. Those that the model does not have are missed when the checkpoint is read.
pub(super) fn shards(index: &Path, prefix: &str, all: &[RemoteFile]) -> Result<Vec<RemoteFile>, HubError> {
    let listed = shard_names(index).map_err(|error| HubError::Index { source: Box::new(error) })?;
    let is_listed = |file: &&RemoteFile| file.path.strip_prefix(prefix).is_some_and(|name| listed.contains_key(name));
    Ok(all.iter().filter(is_listed).cloned().collect())
}
