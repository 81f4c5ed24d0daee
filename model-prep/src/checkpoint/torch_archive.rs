//! Reads the zip archive that `torch.save` writes since PyTorch 1.6: `NAME/data.pkl`, `NAME/data/KEY` for each storage,
//! and small files of properties. All entries must be stored uncompressed, so nothing is ever inflated.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};

use super::pickle::BYTES_MAX;
use super::torch_error::{TorchError, quoted};

/// Largest number of entries of an archive: one per tensor and a few more.
const ENTRIES_MAX: u64 = 1 << 17;
/// Longest name of an entry, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The entries of an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The folder that holds all entries, with a trailing slash.
    prefix: String,
    /// Offset and length of each entry, by name.
    entries: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Reads the table of entries; refuses entries that `torch.save` would not write.
    pub(crate) fn open(file: File) -> Result<Self, TorchError> {
        let no_zip = |e: rawzip::Error| TorchError::Broken(format!("not a whole zip archive: {e}"));
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipArchive::from_file(file, &mut buffer).map_err(no_zip)?;
        if archive.entries_hint() > ENTRIES_MAX {
            return Err(TorchError::Broken(format!(
                "expected at most {ENTRIES_MAX} entries, found {}",
                archive.entries_hint()
            )));
        }
        let mut found = Vec::new();
        let mut entries = archive.entries(&mut buffer);
        while let Some(entry) = entries.next_entry().map_err(no_zip)? {
            let name = entry_name(entry.file_path().as_bytes())?;
            let refuse = |what: &str| TorchError::Broken(format!("entry {}: {what}", quoted(&name)));
            if entry.compression_method() != CompressionMethod::STORE || entry.flags().is_encrypted() {
                return Err(refuse("compressed or encrypted, which torch.save never does"));
            }
            if entry.compressed_size_hint() != entry.uncompressed_size_hint() {
                return Err(refuse("stored, but its two sizes differ"));
            }
            found.push((name, entry.wayfinder()));
            if found.len() as u64 > ENTRIES_MAX {
                return Err(TorchError::Broken(format!("more than {ENTRIES_MAX} entries")));
            }
        }
        let mut ranges = Vec::with_capacity(found.len());
        for (name, place) in found {
            let (start, end) = archive.get_entry(place).map_err(no_zip)?.compressed_data_range();
            if end > archive.directory_offset() {
                return Err(TorchError::Broken(format!(
                    "entry {} reaches beyond the archive's contents",
                    quoted(&name)
                )));
            }
            ranges.push((start, end, name));
        }
        Self::from_ranges(ranges)
    }

    fn from_ranges(mut ranges: Vec<(u64, u64, String)>) -> Result<Self, TorchError> {
        ranges.sort_unstable();
        if let Some([(.., first), (.., second)]) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            let message = format!("entries {} and {} overlap", quoted(first), quoted(second));
            return Err(TorchError::Broken(message));
        }
        let mut entries = HashMap::with_capacity(ranges.len());
        for (start, end, name) in ranges {
            if entries.contains_key(&name) {
                return Err(TorchError::Broken(format!("entry {} occurs twice", quoted(&name))));
            }
            entries.insert(name, (start, end - start));
        }
        let mut prefixes = entries.keys().filter_map(|n| n.strip_suffix("data.pkl"));
        let plain = |p: &&str| p.ends_with('/') && p.matches('/').count() == 1;
        let (Some(prefix), None) = (prefixes.next().filter(plain), prefixes.next()) else {
            return Err(TorchError::Broken("expected one entry NAME/data.pkl, as torch.save writes it".into()));
        };
        let prefix = prefix.to_owned();
        Ok(Self { prefix, entries })
    }

    /// Offset and length of the pickle.
    pub(crate) fn pickle(&self) -> Result<(u64, u64), TorchError> {
        if self.entries.contains_key(&format!("{}constants.pkl", self.prefix)) {
            return Err(TorchError::Broken("a TorchScript program, not a state dict".into()));
        }
        match self.entry("data.pkl")? {
            (_, length) if length > BYTES_MAX => {
                Err(TorchError::Broken(format!("expected a pickle of at most {BYTES_MAX} bytes, found {length}")))
            }
            place => Ok(place),
        }
    }

    /// Returns whether numbers are stored big-endian. Files from before 2023 do not say and are little-endian.
    pub(crate) fn is_big_endian(&self, mut file: &File) -> Result<bool, TorchError> {
        let Ok((start, length)) = self.entry("byteorder") else { return Ok(false) };
        let mut order = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        file.take(length.min(NAME_BYTES_MAX as u64)).read_to_end(&mut order)?;
        Ok(order != b"little")
    }

    /// Offset and length of the storage called `key`.
    pub(crate) fn storage(&self, key: &str) -> Result<(u64, u64), TorchError> {
        self.entry(&format!("data/{key}"))
    }

    fn entry(&self, name: &str) -> Result<(u64, u64), TorchError> {
        let missing = || TorchError::Broken(format!("entry {}{} is missing", self.prefix, quoted(name)));
        self.entries.get(&format!("{}{name}", self.prefix)).copied().ok_or_else(missing)
    }
}

/// Checks the name of an entry: a relative path without `.`, `..` or empty parts.
fn entry_name(bytes: &[u8]) -> Result<String, TorchError> {
    let name = String::from_utf8_lossy(&bytes[..bytes.len().min(NAME_BYTES_MAX)]);
    let plain = bytes.len() <= NAME_BYTES_MAX
        && !name.contains(['\\', '\0'])
        && !name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if plain {
        Ok(name.into_owned())
    } else {
        Err(TorchError::Broken(format!("entry {}: not a plain name", quoted(&name))))
    }
}
