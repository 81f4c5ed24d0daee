//! The named weights of a checkpoint, in one file or in shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::CheckpointError;
use super::json::Object;
use super::names::canonical;
use super::safetensors_file::SafetensorsFile;

/// Names, shapes and places of all tensors; values are read when asked for.
#[derive(Debug)]
pub struct Tensors {
    checkpoint: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Name as transformers 4 writes it, to the file and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl Tensors {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let whole = checkpoint.join("model.safetensors");
        let index = checkpoint.join("model.safetensors.index.json");
        let paths = match (whole.exists(), index.exists()) {
            (true, _) => vec![whole],
            (false, true) => shards(&index)?,
            (false, false) => {
                let pickled = checkpoint.join("pytorch_model.bin").exists();
                let found = if pickled { "pytorch_model.bin" } else { "neither" };
                return Err(CheckpointError::NoWeights { path: checkpoint.to_owned(), found });
            }
        };
        let files = paths.iter().map(|path| SafetensorsFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (file_index, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some((_, other)) = places.insert(canonical(&name), (file_index, name.clone())) {
                    let message = format!("two tensors for one weight: {other} and {name}");
                    return Err(CheckpointError::Safetensors { path: file.path.clone(), message });
                }
            }
        }
        Ok(Self { checkpoint: checkpoint.to_owned(), files, places })
    }

    /// How many tensors there are.
    pub fn count(&self) -> u64 {
        self.places.len() as u64
    }

    /// Shape of the tensor that transformers 4 calls `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let (file, inner) = self.places.get(name)?;
        self.files[*file].shape(inner)
    }

    /// Values of the tensor that transformers 4 calls `name`, which must have this shape and be finite.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let Some((file, inner)) = self.places.get(name) else {
            let path = if let [only] = &self.files[..] { &only.path } else { &self.checkpoint };
            return Err(CheckpointError::MissingTensor {
                path: path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                hint: hint(name),
            });
        };
        let file = &self.files[*file];
        let found = file.shape(inner).unwrap_or_default();
        if found != shape {
            return Err(CheckpointError::Shape {
                path: file.path.clone(),
                tensor: inner.clone(),
                expected: shape.to_vec(),
                found: found.to_vec(),
            });
        }
        file.read(inner)
    }

    /// SHA-256 over names, shapes and 32-bit values of all weights, the same for every naming, sharding and way of
    /// storing them.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        let mut hash = Sha256::new();
        for (name, (file, inner)) in &self.places {
            let file = &self.files[*file];
            if !file.is_float(inner) {
                continue;
            }
            hash.update(format!("{name} {:?}\n", file.shape(inner).unwrap_or_default()));
            for value in file.read(inner)? {
                hash.update(value.to_le_bytes());
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Why a tensor may be missing, where there is a usual reason.
fn hint(name: &str) -> &'static str {
    if name.contains(".pooler.") {
        "; the tower was saved without its pooler (add_pooling_layer=False), and embeddings are pooler outputs: train \
         and save the dual encoder with its poolers"
    } else {
        ""
    }
}

/// Paths of the shards, each named once; all of them exist.
fn shards(index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let map = Object::read(index)?.object("weight_map")?;
    let mut tensors_per_shard = BTreeMap::<String, usize>::new();
    for (name, shard) in map.entries() {
        let plain = |s: &&str| !s.contains(['/', '\\']) && !s.starts_with('.');
        let Some(file) = shard.as_str().filter(plain) else {
            return Err(map.wrong(name, "the name of a file beside the index", Some(shard)));
        };
        *tensors_per_shard.entry(file.to_owned()).or_default() += 1;
    }
    if tensors_per_shard.is_empty() {
        return Err(map.wrong("*", "a file for each tensor", Some(&Value::Object(serde_json::Map::new()))));
    }
    let check = |(file, tensors): (String, usize)| {
        let shard = index.with_file_name(file);
        let missing = || CheckpointError::MissingShard { shard: shard.clone(), index: index.to_owned(), tensors };
        if shard.exists() { Ok(shard) } else { Err(missing()) }
    };
    tensors_per_shard.into_iter().map(check).collect()
}
