//! The named weights of a checkpoint, from one file or several shards.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spotter_engine::hash::Hasher;

use super::error::CheckpointError;
use super::json::Object;
use super::names::{canonical, unwrapped, without_old_suffixes};
use super::stored::StoredTensor;
use super::weights_file::{Take, WeightsFile};
use super::weights_name;

/// Names, shapes and locations of all tensors. Values are read on request.
#[derive(Debug)]
pub struct Tensors {
    checkpoint: PathBuf,
    files: Vec<WeightsFile>,
    /// File index and name in that file, by the name that transformers 4 writes.
    places: BTreeMap<String, (usize, String)>,
}

impl Tensors {
    /// Opens `model.safetensors` or `pytorch_model.bin` (parsed, never run), or the shards of either.
    pub fn open(checkpoint: &Path) -> Result<Self, CheckpointError> {
        Self::open_renamed(checkpoint, canonical)
    }

    /// Opens the weights as [`Self::open`] does, under the names that `rename` makes of those in the files.
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
            log::warn!("{path}: tensor names contain `{part}`, added by {origin}; it is removed");
        }
        Ok(Self { checkpoint: checkpoint.to_owned(), files, places })
    }

    /// Number of tensors.
    pub fn count(&self) -> u64 {
        self.places.len() as u64
    }

    /// Shape of the tensor that transformers 4 calls `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|stored| stored.shape.as_slice())
    }

    /// Storage of the tensor that transformers 4 calls `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&StoredTensor> {
        let (file, inner) = self.places.get(name)?;
        self.files[*file].get(inner)
    }

    /// Values of the tensor that transformers 4 calls `name`.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, is not of floats, or has a value that is NaN or infinite.
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

    /// All tensors with their names, floats or not.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&String, &StoredTensor)> {
        self.places.iter().filter_map(|(name, (file, inner))| Some((name, self.files[*file].get(inner)?)))
    }

    /// Passes the tensor `name` to `take`, little-endian and in pieces: floats as finite 32-bit floats, others as they
    /// are stored.
    pub(crate) fn bytes(&self, name: &str, take: Take<'_, u8>) -> Result<(), CheckpointError> {
        let Some((file, inner)) = self.places.get(name) else { return Ok(()) };
        let file = &self.files[*file];
        if !file.get(inner).is_some_and(StoredTensor::is_float) {
            return file.bytes(inner, take);
        }
        let mut bytes = Vec::new();
        file.floats(inner, &mut |piece| {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            take(&bytes)
        })
    }

    /// Writes what [`Self::bytes`] passes on to `out`, which is the file `path`.
    pub(crate) fn write_to(&self, name: &str, out: &mut dyn Write, path: &Path) -> Result<(), crate::Error> {
        let mut failed = None;
        self.bytes(name, &mut |bytes| {
            failed = failed.take().or(out.write_all(bytes).err());
            Ok(())
        })?;
        failed.map_or(Ok(()), |source| Err(crate::Error::Io { path: path.to_owned(), source }))
    }

    /// The name under which a tensor stands in its file, without what wrappers and old conversions add: the one that the
    /// checkpoint's own version of transformers expects.
    pub(crate) fn saved_name(&self, name: &str) -> Option<String> {
        let (_, inner) = self.places.get(name)?;
        Some(without_old_suffixes(&unwrapped(inner).0))
    }

    /// SHA-256 over names, shapes and 32-bit values of all weights. It does not depend on the naming scheme, the
    /// sharding or the file format.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        let mut hash = Hasher::new();
        for (name, stored) in self.stored().filter(|(_, stored)| stored.is_float()) {
            hash.update(format!("{name} {:?}\n", stored.shape));
            self.bytes(name, &mut |bytes| {
                hash.update(bytes);
                Ok(())
            })?;
        }
        Ok(hash.finish_hex())
    }
}

/// The usual reason why a tensor is missing, if there is one.
fn hint(name: &str) -> &'static str {
    if name.contains(".pooler.") {
        "; the tower was saved without its pooler (add_pooling_layer=False), and embeddings are pooler outputs: train \
         and save the dual encoder with its poolers"
    } else {
        ""
    }
}

/// Names of the shards that an index lists, each once, and the number of their tensors.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeMap<String, usize>, CheckpointError> {
    let torch = index.file_name().is_some_and(|name| name.to_string_lossy().contains(".bin.index."));
    let ending = if torch { ".bin" } else { ".safetensors" };
    let map = Object::read(index)?.object("weight_map")?;
    let mut tensors_per_shard = BTreeMap::<String, usize>::new();
    for (name, shard) in map.entries() {
        // Shards lie next to the index and are not indexes themselves.
        let plain = |s: &&str| !s.contains(['/', '\\', '\0']) && !s.starts_with('.') && s.ends_with(ending);
        let Some(file) = shard.as_str().filter(plain) else {
            return Err(map.wrong(name, &format!("the name of a {ending} file next to the index"), Some(shard)));
        };
        *tensors_per_shard.entry(file.to_owned()).or_default() += 1;
    }
    if tensors_per_shard.is_empty() {
        return Err(map.wrong("*", "a file for each tensor", Some(&Value::Object(serde_json::Map::new()))));
    }
    Ok(tensors_per_shard)
}

/// Paths of the shards, each once; all of them exist.
fn shards(index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let check = |(file, tensors): (String, usize)| {
        let shard = index.with_file_name(file);
        let missing = || CheckpointError::MissingShard { shard: shard.clone(), index: index.to_owned(), tensors };
        if shard.exists() { Ok(shard) } else { Err(missing()) }
    };
    shard_names(index)?.into_iter().map(check).collect()
}
