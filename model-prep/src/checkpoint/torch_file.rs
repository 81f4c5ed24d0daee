//! Reads the table of tensors of a file written by `torch.save`: a pickle that describes the tensors, and their data.
//! Since PyTorch 1.6 both are entries of a zip archive; before, they followed each other in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::bounded;
use super::error::CheckpointError;
use super::pickle::{Machine, PickleError, Storage, Tensor, Value};
use super::stored::StoredTensor;
use super::torch_archive::Archive;
use super::torch_error::{NAME_CHARS_MAX, TorchError, quoted};

/// Files from before PyTorch 1.6 begin with the pickles of these two numbers.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const LEGACY_VERSION: i128 = 1001;

/// Limit on the size of all tensors, as a multiple of the file's size. Tensors may share a storage, as tied weights do,
/// but not that often.
const SHARED_MAX: u64 = 16;

/// Reads and checks the table of tensors of the file `path`. Nothing that the file names is run.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let broken = |message: String| CheckpointError::TorchFile { path: path.to_owned(), message };
    let mut file = bounded::open(path)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let mut start = [0; 2];
    let length = file.read(&mut start).map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let contents = match &start[..length] {
        b"PK" => from_archive(&file),
        [0x80, _] => from_legacy(&file, file_bytes),
        _ => return Err(broken("expected a zip archive or a pickle, found neither".into())),
    };
    let table = contents.and_then(|contents| contents.table(file_bytes));
    table.map_err(|error| match error {
        TorchError::Io(source) => io(source),
        TorchError::Pickle(PickleError::Io(source)) => io(source),
        TorchError::Pickle(PickleError::Name { at, name }) => CheckpointError::UnsafePickle {
            path: path.to_owned(),
            at,
            name: name.chars().take(NAME_CHARS_MAX).collect(),
        },
        TorchError::Pickle(PickleError::Broken { at, message }) => broken(format!("its pickle, byte {at}: {message}")),
        TorchError::Broken(message) => broken(message),
    })
}

/// The state dict and the offsets of its storages.
struct Contents {
    machine: Machine,
    state: Value,
    /// Offset in the file of each of [`Machine::storages`], in the same order.
    starts: Vec<u64>,
}

fn from_archive(file: &File) -> Result<Contents, TorchError> {
    let archive = Archive::open(file.try_clone()?)?;
    if archive.is_big_endian(file)? {
        return Err(TorchError::Broken("saved on a big-endian machine".into()));
    }
    let (start, length) = archive.pickle()?;
    let mut pickle = file;
    pickle.seek(SeekFrom::Start(start))?;
    let (machine, state, _) = Machine::run(BufReader::new(pickle.take(length)))?;
    let mut starts = Vec::with_capacity(machine.storages.len());
    for storage in &machine.storages {
        let (start, found) = archive.storage(&machine.texts[storage.key])?;
        let expected = storage_bytes(storage)?;
        if found != expected {
            let key = quoted(&machine.texts[storage.key]);
            return Err(TorchError::Broken(format!("storage {key}: expected {expected} bytes, found {found}")));
        }
        starts.push(start);
    }
    Ok(Contents { machine, state, starts })
}

/// Reads the format from before PyTorch 1.6: pickles of a magic number, a version, the writer's properties, the state
/// dict and the keys of its storages, then each storage as its number of elements and the elements.
fn from_legacy(mut file: &File, file_bytes: u64) -> Result<Contents, TorchError> {
    let mut at = 0;
    let mut next = || -> Result<(Machine, Value), TorchError> {
        file.seek(SeekFrom::Start(at))?;
        let (machine, value, bytes) = Machine::run(BufReader::new(file))?;
        at += bytes;
        Ok((machine, value))
    };
    for (what, expected) in [("magic number", LEGACY_MAGIC), ("version", LEGACY_VERSION)] {
        let (_, found) = next()?;
        if found != Value::Int(expected) {
            let found = if let Value::Int(n) = found { n.to_string() } else { "no number".into() };
            return Err(TorchError::Broken(format!("{what}: expected {expected}, found {found}")));
        }
    }
    next()?;
    let (machine, state) = next()?;
    let (keys_machine, keys) = next()?;
    let Value::List(keys) = keys else { return Err(TorchError::Broken("no list of storages".into())) };
    let mut by_key = HashMap::<&str, &Storage>::new();
    for storage in &machine.storages {
        let key = machine.texts[storage.key].as_str();
        let other = by_key.entry(key).or_insert(storage);
        if (other.dtype, other.elements) != (storage.dtype, storage.elements) {
            return Err(TorchError::Broken(format!("storage {}: two types or sizes", quoted(key))));
        }
    }
    let mut start_of = HashMap::new();
    for key in &keys_machine.lists[keys] {
        let key = keys_machine.text(*key).unwrap_or_default();
        let Some(storage) = by_key.get(key) else {
            return Err(TorchError::Broken(format!("storage {}: no tensor uses it", quoted(key))));
        };
        let mut elements = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut elements)?;
        let found = i64::from_le_bytes(elements);
        if usize::try_from(found).ok() != Some(storage.elements) {
            let expected = storage.elements;
            return Err(TorchError::Broken(format!(
                "storage {}: expected {expected} elements, found {found}",
                quoted(key)
            )));
        }
        let end = (at + 8).checked_add(storage_bytes(storage)?).filter(|end| *end <= file_bytes);
        let end = end
            .ok_or_else(|| TorchError::Broken(format!("storage {} reaches beyond the end of the file", quoted(key))))?;
        if start_of.insert(key, at + 8).is_some() {
            return Err(TorchError::Broken(format!("storage {} occurs twice", quoted(key))));
        }
        at = end;
    }
    let missing = |s: &Storage| TorchError::Broken(format!("storage {}: missing", quoted(&machine.texts[s.key])));
    let start = |s: &Storage| start_of.get(machine.texts[s.key].as_str()).copied().ok_or_else(|| missing(s));
    let starts = machine.storages.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    Ok(Contents { machine, state, starts })
}

impl Contents {
    /// The tensors of the state dict by name, each checked to lie within its storage.
    fn table(&self, file_bytes: u64) -> Result<BTreeMap<String, StoredTensor>, TorchError> {
        let Value::Dict(state) = self.state else {
            return Err(TorchError::Broken("expected a state dict, found another object".into()));
        };
        let mut table = BTreeMap::new();
        let mut bytes = 0_u64;
        for (name, value) in &self.machine.dicts[state] {
            let (Some(name), Value::Tensor(tensor)) = (self.machine.text(*name), value) else { continue };
            let stored = self.stored(name, &self.machine.tensors[*tensor])?;
            bytes = bytes.saturating_add(stored.byte_count());
            if bytes > file_bytes.saturating_mul(SHARED_MAX) {
                return Err(TorchError::Broken(format!(
                    "its tensors are more than {SHARED_MAX} times as large as the file"
                )));
            }
            if table.insert(name.to_owned(), stored).is_some() {
                return Err(TorchError::Broken(format!("two tensors are named {}", quoted(name))));
            }
        }
        if table.is_empty() {
            let keys = self.machine.dicts[state].iter().filter_map(|(key, _)| self.machine.text(*key));
            let keys = keys.take(5).map(quoted).collect::<Vec<_>>().join(", ");
            return Err(TorchError::Broken(format!("expected a state dict, found no tensor under its keys ({keys})")));
        }
        Ok(table)
    }

    fn stored(&self, name: &str, tensor: &Tensor) -> Result<StoredTensor, TorchError> {
        let storage = &self.machine.storages[tensor.storage];
        let wrong = |what: &str| {
            let Tensor { offset, shape, strides, .. } = tensor;
            TorchError::Broken(format!(
                "{}: shape {shape:?}, strides {strides:?}, offset {offset}: {what} its storage of {} elements",
                quoted(name),
                storage.elements
            ))
        };
        if tensor.shape.len() != tensor.strides.len() {
            return Err(wrong("shape and strides differ in length, in"));
        }
        let elements = tensor.shape.iter().try_fold(1, |n: usize, extent| n.checked_mul(*extent));
        let elements = elements.filter(|n| *n <= storage.elements).ok_or_else(|| wrong("larger than"))?;
        let empty = elements == 0;
        let mut end = Some(tensor.offset);
        for (extent, stride) in tensor.shape.iter().zip(&tensor.strides) {
            end = end.and_then(|end| extent.saturating_sub(1).checked_mul(*stride)?.checked_add(end));
        }
        if !empty && end.is_none_or(|last| last >= storage.elements) {
            return Err(wrong("reaches beyond"));
        }
        let width = storage.dtype.bitsize() as u64 / 8;
        let offset = if empty { 0 } else { tensor.offset as u64 };
        Ok(StoredTensor {
            dtype: storage.dtype,
            shape: tensor.shape.clone(),
            strides: (!empty && !is_row_major(tensor)).then(|| tensor.strides.clone()),
            start: self.starts[tensor.storage] + offset * width,
        })
    }
}

/// Returns whether the elements are contiguous in row-major order; strides of axes of length 1 do not matter.
fn is_row_major(tensor: &Tensor) -> bool {
    let mut expected = 1;
    for (extent, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if *extent != 1 && *stride != expected {
            return false;
        }
        expected *= extent;
    }
    true
}

fn storage_bytes(storage: &Storage) -> Result<u64, TorchError> {
    let bytes = (storage.elements as u64).checked_mul(storage.dtype.bitsize() as u64 / 8);
    bytes.ok_or_else(|| TorchError::Broken(format!("a storage of {} elements", storage.elements)))
}
