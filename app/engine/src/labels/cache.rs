//! The label cache and its codec: sentence embeddings by key, in the safetensors format, and the warnings about the label
//! set that was read last.
//!
//! The metadata of the file has a SHA-256 of all names and values, so that a truncated, damaged or foreign file is
//! recognised and never used.

use std::collections::{BTreeMap, HashMap, HashSet};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::journal::{self, JournalEnd, Record};
use super::key::Key;
use crate::hash::Hasher;

/// The most sentences that the cache holds, which is more than a label set may have. With embeddings of 512 values, this
/// takes about 24 MiB of flash.
pub const ENTRIES_MAX: usize = 12_288;

/// Identifies the layout below; a file with another value is of another release.
const FORMAT: &str = "spotter-label-cache-1";

/// Sentence embeddings by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cache {
    entries: BTreeMap<Key, Vec<f32>>,
    remarks: Option<Remarks>,
    /// Additions since it was read or saved, in order.
    added: Vec<Record>,
}

/// Warnings about a label set, which are expensive to compute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Remarks {
    /// The [`Key`] of their inputs, in hexadecimal.
    key: String,
    lines: Vec<String>,
}

/// Why a cache file was ignored.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Not the safetensors format.
    #[error("not a safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// Safetensors, but not a label cache of this release.
    #[error("not a label cache: expected the format {FORMAT:?}, found {found:?}")]
    Foreign {
        /// The format that the file names.
        found: String,
    },
    /// The content does not match the checksum.
    #[error("damaged: expected SHA-256 {expected}, found {found}")]
    Checksum {
        /// The checksum in the file.
        expected: String,
        /// The checksum of what the file holds.
        found: String,
    },
    /// A tensor is not an embedding.
    #[error("tensor {name}: expected a row of finite f32 values named by 64 hexadecimal digits")]
    Tensor {
        /// The tensor's name.
        name: String,
    },
}

impl Cache {
    /// Decodes the content of a cache file.
    ///
    /// # Errors
    /// The content is not a cache of this release, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CacheError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let file = SafeTensors::deserialize(bytes)?;
        let meta = |name: &str| header.metadata().as_ref().and_then(|m| m.get(name)).cloned().unwrap_or_default();
        let found = meta("format");
        if found != FORMAT {
            return Err(CacheError::Foreign { found });
        }
        let mut entries = BTreeMap::new();
        for (name, view) in file.tensors() {
            let values: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let fits = view.dtype() == Dtype::F32 && view.shape().len() == 1 && values.iter().all(|v| v.is_finite());
            let Some(key) = Key::parse(&name).filter(|_| fits) else {
                return Err(CacheError::Tensor { name });
            };
            entries.insert(key, values);
        }
        let remarks = meta("remarks");
        let (expected, found) = (meta("sha256"), checksum(&entries, &remarks));
        if expected != found {
            return Err(CacheError::Checksum { expected, found });
        }
        Ok(Self { entries, remarks: serde_json::from_str(&remarks).ok(), added: Vec::new() })
    }

    /// Encodes the content of a cache file.
    ///
    /// # Errors
    /// Those of the safetensors library.
    pub fn encode(&self) -> Result<Vec<u8>, CacheError> {
        let bytes: Vec<(String, Vec<u8>)> = self
            .entries
            .iter()
            .map(|(key, values)| (key.to_string(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, data)| Ok((name, TensorView::new(Dtype::F32, vec![data.len() / 4], data)?)))
            .collect::<Result<Vec<_>, CacheError>>()?;
        let remarks = self.remarks.as_ref().and_then(|remarks| serde_json::to_string(remarks).ok());
        let checksum = checksum(&self.entries, remarks.as_deref().unwrap_or_default());
        let mut metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("sha256".to_owned(), checksum)]);
        metadata.extend(remarks.map(|remarks| ("remarks".to_owned(), remarks)));
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// The embedding under `key`, if there is one with `width` values.
    pub fn get(&self, key: &Key, width: usize) -> Option<&[f32]> {
        self.entries.get(key).map(Vec::as_slice).filter(|values| values.len() == width)
    }

    /// Adds or replaces an embedding.
    pub fn insert(&mut self, key: Key, embedding: Vec<f32>) {
        self.added.push(Record::Embedding(key, embedding.clone()));
        self.entries.insert(key, embedding);
    }

    /// Returns the lines stored last, if that was under `key`.
    pub fn remarks(&self, key: &Key) -> Option<&[String]> {
        self.remarks.as_ref().filter(|remarks| remarks.key == key.to_string()).map(|remarks| remarks.lines.as_slice())
    }

    /// Stores lines under `key`, replacing those stored before.
    pub fn set_remarks(&mut self, key: &Key, lines: Vec<String>) {
        self.added.push(Record::Remarks(*key, lines.clone()));
        self.remarks = Some(Remarks { key: key.to_string(), lines });
    }

    /// Number of sentences.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if the cache has no sentences.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns true if there are additions since it was read, or since they were last taken or marked as saved.
    pub fn is_changed(&self) -> bool {
        !self.added.is_empty()
    }

    /// Takes the additions, encoded for appending to a journal. A journal starts with [`Self::JOURNAL_MARK`].
    pub fn take_additions(&mut self) -> Vec<u8> {
        self.added.drain(..).flat_map(|record| record.encode()).collect()
    }

    /// Marks the whole content as written.
    pub fn mark_saved(&mut self) {
        self.added.clear();
    }

    /// First bytes of a journal.
    pub const JOURNAL_MARK: &'static [u8] = journal::MARK;

    /// Adds the whole records at the start of a journal. Returns the number of bytes they take, and how the journal ends.
    pub fn replay(&mut self, journal: &[u8]) -> (usize, JournalEnd) {
        let (records, whole, ending) = journal::read(journal);
        for record in records {
            match record {
                Record::Embedding(key, values) => {
                    self.entries.insert(key, values);
                }
                Record::Remarks(key, lines) => self.remarks = Some(Remarks { key: key.to_string(), lines }),
            }
        }
        (whole, ending)
    }

    /// Drops entries beyond the limit, those not in `keep` first.
    pub(super) fn shrink(&mut self, keep: &[Key]) {
        let mut excess = self.entries.len().saturating_sub(ENTRIES_MAX);
        if excess == 0 {
            return;
        }
        let keep: HashSet<&Key> = keep.iter().collect();
        self.entries.retain(|key, _| {
            let drop = excess > 0 && !keep.contains(key);
            excess -= usize::from(drop);
            !drop
        });
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_last();
        }
    }
}

fn checksum(entries: &BTreeMap<Key, Vec<f32>>, remarks: &str) -> String {
    let mut hasher = Hasher::new();
    for (key, values) in entries {
        hasher.update(key.bytes());
        hasher.update((values.len() as u64).to_le_bytes());
        values.iter().for_each(|v| hasher.update(v.to_le_bytes()));
    }
    hasher.update(remarks);
    hasher.finish_hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::manifest;

    fn cache() -> Cache {
        let mut cache = Cache::default();
        for prompt in ["cat", "dog", "a red circle"] {
            let values = (0..8).map(|i| i as f32 / prompt.len() as f32).collect();
            cache.insert(Key::new(&manifest(8), "{}", prompt), values);
        }
        cache
    }

    #[test]
    fn encoding_and_decoding_round_trip() {
        let mut before = cache();
        let after = Cache::decode(&before.encode().expect("encodes")).expect("decodes");
        before.mark_saved();
        assert_eq!(before, after);
        let (key, other) = (Key::of(&["these labels"]), Key::of(&["these", " labels"]));
        assert_eq!(after.remarks(&key), None);
        before.set_remarks(&key, vec!["a line".into()]);
        assert!(before.is_changed());
        let after = Cache::decode(&before.encode().expect("encodes")).expect("decodes");
        assert_eq!((after.remarks(&key), after.remarks(&other)), (Some(&["a line".to_owned()][..]), None));
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let good = cache().encode().expect("encodes");
        let before = Cache::decode(&good).expect("decodes");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Cache::decode(&bad) {
                // A flip in the header's padding or spelling may change nothing; a value must never change.
                assert_eq!(read, before, "bit {bit}");
            }
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let good = cache().encode().expect("encodes");
        for length in 0..good.len() {
            assert!(Cache::decode(&good[..length]).is_err(), "{length} of {} bytes", good.len());
        }
    }

    #[test]
    fn another_safetensors_file_is_refused() {
        let data = [0_u8; 16];
        let view = TensorView::new(Dtype::F32, vec![4], &data).expect("a tensor");
        let bytes = safetensors::serialize([("weight", view)], None).expect("encodes");
        let error = Cache::decode(&bytes).expect_err("foreign");
        assert!(error.to_string().contains("not a label cache"), "{error}");
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_entries_in_use() {
        let mut cache = Cache::default();
        let key = |i: usize| Key::new(&manifest(1), "{}", &i.to_string());
        (0..ENTRIES_MAX + 10).for_each(|i| cache.insert(key(i), vec![1.0]));
        let used: Vec<Key> = (0..50).map(key).collect();
        cache.shrink(&used);
        assert_eq!(cache.len(), ENTRIES_MAX);
        assert!(used.iter().all(|k| cache.get(k, 1).is_some()));
    }
}
