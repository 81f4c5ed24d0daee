//! The named weights of a checkpoint, in one file or in shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use spotter_engine::printable::hex;

use super::json::Object;
use super::names::{canonical, unwrapped};
use super::weights_file::{Stored, Take, WeightsFile};
use super::{CheckpointError, weights_name};

/// Names, shapes and places of all tensors; values are read when asked for.
#[derive(Debug)]
pub struct Tensors {
    checkpoint: PathBuf,
    files: Vec<WeightsFile>,
    /// Name as transformers 4 writes it, to the file and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl Tensors {
    /// Opens `model.safetensors`, or `pytorch_model.bin` (which is read, never run), or the shards of either.
    pub fn open(checkpoint: &Path) -> Result<Self, CheckpointError> {
        Self::open_renamed(checkpoint, canonical)
    }

    /// The same with other names: `rename` makes them of those in the files.
    pub(crate) fn open_renamed(checkpoint: &Path, rename: fn(&str) -> String) -> Result<Self, CheckpointError> {
        let path = weights_name::find(checkpoint)?;
        let paths = if path.extension().is_some_and(|ending| ending == "json") { shards(&path)? } else { vec![path] };
        let files = paths.iter().map(|path| WeightsFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        let mut wrapped = None;
        for (file_index, file) in files.iter().enumerate() {
            for (name, _) in file.tensors() {
                let (bare, wrapper) = unwrapped(name);
                wrapped = wrapped.or(wrapper);
                if let Some((_, other)) = places.insert(rename(&bare), (file_index, name.clone())) {
                    let (path, first, second) = (file.path.clone(), other, name.clone());
                    return Err(CheckpointError::TwoTensors { path, first, second });
                }
            }
        }
        if let Some((part, origin)) = wrapped {
            let path = checkpoint.display();
            log::warn!("{path}: names of tensors hold `{part}`, which {origin} puts there; they are taken without it");
        }
        Ok(Self { checkpoint: checkpoint.to_owned(), files, places })
    }

    /// How many tensors there are.
    pub fn count(&self) -> u64 {
        self.places.len() as u64
    }

    /// Shape of the tensor that transformers 4 calls `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|stored| stored.shape.as_slice())
    }

    /// How the tensor called `name` is stored.
    pub(crate) fn get(&self, name: &str) -> Option<&Stored> {
        let (file, inner) = self.places.get(name)?;
        self.files[*file].get(inner)
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
        let found = self.shape(name).unwrap_or_default();
        if found != shape {
            return Err(CheckpointError::Shape {
                path: file.path.clone(),
                tensor: inner.clone(),
                expected: shape.to_vec(),
                found: found.to_vec(),
            });
        }
        let mut values = Vec::with_capacity(shape.iter().product());
        file.floats(inner, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    /// Every tensor by its name, floats or not.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&String, &Stored)> {
        self.places.iter().filter_map(|(name, (file, inner))| Some((name, self.files[*file].get(inner)?)))
    }

    /// Hands the tensor `name` to `take`, little-endian and in pieces: floats as 32-bit floats, all of them finite;
    /// others as they are stored.
    pub(crate) fn bytes(&self, name: &str, take: Take<'_, u8>) -> Result<(), CheckpointError> {
        let Some((file, inner)) = self.places.get(name) else { return Ok(()) };
        let file = &self.files[*file];
        if !file.get(inner).is_some_and(Stored::is_float) {
            return file.bytes(inner, take);
        }
        let mut bytes = Vec::new();
        file.floats(inner, &mut |piece| {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            take(&bytes)
        })
    }

    /// SHA-256 over names, shapes and 32-bit values of all weights, the same for every naming, sharding and way of
    /// storing them.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        let mut hash = Sha256::new();
        for (name, stored) in self.stored().filter(|(_, stored)| stored.is_float()) {
            hash.update(format!("{name} {:?}\n", stored.shape));
            self.bytes(name, &mut |bytes| {
                hash.update(bytes);
                Ok(())
            })?;
        }
        Ok(hex(&hash.finalize()))
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
    let torch = index.file_name().is_some_and(|name| name.to_string_lossy().contains(".bin.index."));
    let ending = if torch { ".bin" } else { ".safetensors" };
    let map = Object::read(index)?.object("weight_map")?;
    let mut tensors_per_shard = BTreeMap::<String, usize>::new();
    for (name, shard) in map.entries() {
        // An index that names itself, or another, is none.
        let plain = |s: &&str| !s.contains(['/', '\\', '\0']) && !s.starts_with('.') && s.ends_with(ending);
        let Some(file) = shard.as_str().filter(plain) else {
            return Err(map.wrong(name, &format!("the name of a {ending} file beside the index"), Some(shard)));
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
