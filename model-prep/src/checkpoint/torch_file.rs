//! What `torch.save` writes: a pickle that says what the tensors are, and their numbers. Since PyTorch 1.6 both are
//! entries of a zip archive; before, they followed each other in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::pickle::{Machine, PickleError, Storage, Tensor, Value};
use super::torch_archive::Archive;
use super::weights_file::Stored;
use super::{CheckpointError, bounded};

/// How files of before PyTorch 1.6 begin: the pickles of two numbers.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const LEGACY_VERSION: i128 = 1001;

/// A file's tensors may share storages, as tied weights do; that many times over is no model.
const SHARED_MAX: u64 = 16;

/// Reads and checks the table of tensors of the file `path`; runs nothing that the file asks for.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Stored>, CheckpointError> {
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
    table.map_err(|refused| match refused {
        Refused::Io(source) => io(source),
        Refused::Pickle(PickleError::Io(source)) => io(source),
        Refused::Pickle(PickleError::Name { at, name }) => CheckpointError::UnsafePickle {
            path: path.to_owned(),
            at,
            name: name.chars().take(NAME_CHARS_MAX).collect(),
        },
        Refused::Pickle(PickleError::Broken { at, message }) => broken(format!("its pickle, byte {at}: {message}")),
        Refused::Broken(message) => broken(message),
    })
}

/// Names in messages are cut there.
const NAME_CHARS_MAX: usize = 120;

/// Why a file was refused, before its path is known.
pub(crate) enum Refused {
    Io(std::io::Error),
    Pickle(PickleError),
    Broken(String),
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<PickleError> for Refused {
    fn from(error: PickleError) -> Self {
        Self::Pickle(error)
    }
}

/// The state dict and where its storages are.
struct Contents {
    machine: Machine,
    state: Value,
    /// Where each of [`Machine::storages`] begins in the file, in the same order.
    starts: Vec<u64>,
}

fn from_archive(file: &File) -> Result<Contents, Refused> {
    let archive = Archive::open(file.try_clone()?)?;
    if archive.is_big_endian(file)? {
        return Err(Refused::Broken("saved on a big-endian machine".into()));
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
            let key = shown(&machine.texts[storage.key]);
            return Err(Refused::Broken(format!("storage {key}: expected {expected} bytes, found {found}")));
        }
        starts.push(start);
    }
    Ok(Contents { machine, state, starts })
}

/// Pickles of a magic number, a version, facts about the writer, the state dict and the keys of its storages, then the
/// storages: number of elements, elements.
fn from_legacy(mut file: &File, file_bytes: u64) -> Result<Contents, Refused> {
    let mut at = 0;
    let mut next = || -> Result<(Machine, Value), Refused> {
        file.seek(SeekFrom::Start(at))?;
        let (machine, value, bytes) = Machine::run(BufReader::new(file))?;
        at += bytes;
        Ok((machine, value))
    };
    for (what, expected) in [("magic number", LEGACY_MAGIC), ("version", LEGACY_VERSION)] {
        let (_, found) = next()?;
        if found != Value::Int(expected) {
            let found = if let Value::Int(n) = found { n.to_string() } else { "no number".into() };
            return Err(Refused::Broken(format!("{what}: expected {expected}, found {found}")));
        }
    }
    next()?;
    let (machine, state) = next()?;
    let (keys_machine, keys) = next()?;
    let Value::List(keys) = keys else { return Err(Refused::Broken("no list of storages".into())) };
    let mut by_key = HashMap::<&str, &Storage>::new();
    for storage in &machine.storages {
        let key = machine.texts[storage.key].as_str();
        let other = by_key.entry(key).or_insert(storage);
        if (other.dtype, other.elements) != (storage.dtype, storage.elements) {
            return Err(Refused::Broken(format!("storage {}: two types or sizes", shown(key))));
        }
    }
    let mut start_of = HashMap::new();
    for key in &keys_machine.lists[keys] {
        let key = keys_machine.text(*key).unwrap_or_default();
        let Some(storage) = by_key.get(key) else {
            return Err(Refused::Broken(format!("storage {}: no tensor has it", shown(key))));
        };
        let mut elements = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut elements)?;
        let found = i64::from_le_bytes(elements);
        if usize::try_from(found).ok() != Some(storage.elements) {
            let expected = storage.elements;
            return Err(Refused::Broken(format!(
                "storage {}: expected {expected} elements, found {found}",
                shown(key)
            )));
        }
        let end = (at + 8).checked_add(storage_bytes(storage)?).filter(|end| *end <= file_bytes);
        let end = end.ok_or_else(|| Refused::Broken(format!("storage {} ends behind the file", shown(key))))?;
        if start_of.insert(key, at + 8).is_some() {
            return Err(Refused::Broken(format!("storage {} is there twice", shown(key))));
        }
        at = end;
    }
    let missing = |s: &Storage| Refused::Broken(format!("storage {}: missing", shown(&machine.texts[s.key])));
    let start = |s: &Storage| start_of.get(machine.texts[s.key].as_str()).copied().ok_or_else(|| missing(s));
    let starts = machine.storages.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    Ok(Contents { machine, state, starts })
}

impl Contents {
    /// The tensors of the state dict by name, each of which lies within its storage.
    fn table(&self, file_bytes: u64) -> Result<BTreeMap<String, Stored>, Refused> {
        let Value::Dict(state) = self.state else {
            return Err(Refused::Broken("expected a state dict, found another object".into()));
        };
        let mut table = BTreeMap::new();
        let mut bytes = 0_u64;
        for (name, value) in &self.machine.dicts[state] {
            let (Some(name), Value::Tensor(tensor)) = (self.machine.text(*name), value) else { continue };
            let stored = self.stored(name, &self.machine.tensors[*tensor])?;
            bytes = bytes.saturating_add(stored.byte_count());
            if bytes > file_bytes.saturating_mul(SHARED_MAX) {
                return Err(Refused::Broken(format!(
                    "its tensors are more than {SHARED_MAX} times as large as itself"
                )));
            }
            if table.insert(name.to_owned(), stored).is_some() {
                return Err(Refused::Broken(format!("two tensors called {}", shown(name))));
            }
        }
        if table.is_empty() {
            let keys = self.machine.dicts[state].iter().filter_map(|(key, _)| self.machine.text(*key));
            let keys = keys.take(5).map(shown).collect::<Vec<_>>().join(", ");
            return Err(Refused::Broken(format!("expected a state dict, found no tensor under its keys ({keys})")));
        }
        Ok(table)
    }

    fn stored(&self, name: &str, tensor: &Tensor) -> Result<Stored, Refused> {
        let storage = &self.machine.storages[tensor.storage];
        let wrong = |what: &str| {
            let Tensor { offset, shape, strides, .. } = tensor;
            Refused::Broken(format!(
                "{}: shape {shape:?}, strides {strides:?}, offset {offset}: {what} its storage of {} elements",
                shown(name),
                storage.elements
            ))
        };
        if tensor.shape.len() != tensor.strides.len() {
            return Err(wrong("not the same number of axes, in"));
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
        Ok(Stored {
            dtype: storage.dtype,
            shape: tensor.shape.clone(),
            strides: (!empty && !is_row_major(tensor)).then(|| tensor.strides.clone()),
            start: self.starts[tensor.storage] + offset * width,
        })
    }
}

/// Whether the elements lie one after the other; the stride of an axis of one index says nothing.
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

fn storage_bytes(storage: &Storage) -> Result<u64, Refused> {
    let bytes = (storage.elements as u64).checked_mul(storage.dtype.bitsize() as u64 / 8);
    bytes.ok_or_else(|| Refused::Broken(format!("a storage of {} elements", storage.elements)))
}

/// A text of the file as it reads in a message.
pub(crate) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(NAME_CHARS_MAX).collect::<String>())
}
