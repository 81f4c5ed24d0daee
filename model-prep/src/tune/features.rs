//! Files of what the untrained part of a tower makes of every image or sentence.
//!
//! Layout, little-endian: [`MARK`], the key of what made it (32 bytes), the width of a row and the number of items (8 bytes
//! each), the number of rows of each item (4 bytes each; 0 for an item that could not be read), then the rows as 32-bit
//! floats. It is written aside and renamed, and read row by row.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use spotter_engine::files;

use super::error::TuneError;

/// First bytes of a file.
const MARK: &[u8; 8] = b"spotfea1";

/// Bytes before the numbers of rows.
const HEAD_BYTES: u64 = 8 + 32 + 8 + 8;

/// Features that were computed once.
#[derive(Debug)]
pub(super) struct FeatureFile {
    path: PathBuf,
    file: File,
    /// Values of a row.
    pub(super) width: usize,
    /// Number of rows of each item.
    rows: Vec<u32>,
    /// Offset of each item's first row in the file, in bytes.
    starts: Vec<u64>,
}

impl FeatureFile {
    /// Opens the file `path`, if it is whole and was made from what `key` names.
    pub(super) fn open(path: &Path, key: &[u8; 32], items: usize) -> Option<Self> {
        let file = files::open_no_link(path).ok()?;
        let mut head = [0; HEAD_BYTES as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        let number = |at: usize| usize::try_from(u64::from_le_bytes(head[at..at + 8].try_into().ok()?)).ok();
        let (width, found) = (number(40)?, number(48)?);
        if head[..8] != MARK[..] || head[8..40] != key[..] || found != items {
            return None;
        }
        let mut rows = vec![0; items * 4];
        file.read_exact_at(&mut rows, HEAD_BYTES).ok()?;
        let rows: Vec<u32> = rows.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let (starts, end) = starts(&rows, width)?;
        (file.metadata().ok()?.len() == end).then_some(Self { path: path.to_owned(), file, width, rows, starts })
    }

    /// Whether an item could be read.
    pub(super) fn has(&self, item: usize) -> bool {
        self.rows.get(item).is_some_and(|rows| *rows > 0)
    }

    /// The rows of an item, one after the other.
    pub(super) fn read(&self, item: usize) -> Result<Vec<f32>, TuneError> {
        let mut bytes = vec![0; self.rows[item] as usize * self.width * 4];
        let read = self.file.read_exact_at(&mut bytes, self.starts[item]);
        read.map_err(|source| TuneError::Io { path: self.path.clone(), source })?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// Offset of each item, and the end of the file; `None` if they do not fit in 64 bits.
fn starts(rows: &[u32], width: usize) -> Option<(Vec<u64>, u64)> {
    let mut at = HEAD_BYTES.checked_add(rows.len() as u64 * 4)?;
    let mut starts = Vec::with_capacity(rows.len());
    for rows in rows {
        starts.push(at);
        at = u64::from(*rows).checked_mul(width as u64)?.checked_mul(4)?.checked_add(at)?;
    }
    Some((starts, at))
}

/// Writes a file of features, item by item.
#[derive(Debug)]
pub(super) struct FeatureWriter {
    path: PathBuf,
    aside: PathBuf,
    out: BufWriter<File>,
    key: [u8; 32],
    width: usize,
    rows: Vec<u32>,
    items: usize,
}

impl FeatureWriter {
    /// Starts a file of `items` items with rows of `width` values.
    pub(super) fn new(path: &Path, key: [u8; 32], items: usize, width: usize) -> Result<Self, TuneError> {
        let aside = path.with_extension("new");
        let create = || -> io::Result<BufWriter<File>> {
            let mut out = BufWriter::new(File::create(&aside)?);
            // The head is written last, so that a file without an end has no mark.
            out.write_all(&vec![0; HEAD_BYTES as usize + items * 4])?;
            Ok(out)
        };
        let out = create().map_err(|source| TuneError::Io { path: aside.clone(), source })?;
        Ok(Self { path: path.to_owned(), aside, out, key, width, rows: Vec::with_capacity(items), items })
    }

    /// Appends an item's rows; none if it could not be read.
    pub(super) fn push(&mut self, values: &[f32]) -> Result<(), TuneError> {
        self.rows.push((values.len() / self.width.max(1)) as u32);
        let write = values.iter().try_for_each(|value| self.out.write_all(&value.to_le_bytes()));
        write.map_err(|source| TuneError::Io { path: self.aside.clone(), source })
    }

    /// Finishes the file and opens it.
    pub(super) fn finish(mut self) -> Result<FeatureFile, TuneError> {
        self.rows.resize(self.items, 0);
        let mut head = MARK.to_vec();
        head.extend(self.key);
        head.extend((self.width as u64).to_le_bytes());
        head.extend((self.items as u64).to_le_bytes());
        head.extend(self.rows.iter().flat_map(|rows| rows.to_le_bytes()));
        let (aside, path) = (self.aside, self.path);
        let write = self.out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
            file.write_all_at(&head, 0)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)
        });
        write.map_err(|source| TuneError::Io { path: aside, source })?;
        let lost = || io::Error::other("changed while it was written");
        FeatureFile::open(&path, &self.key, self.items).ok_or_else(|| TuneError::Io { path, source: lost() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_come_back_and_other_keys_do_not_open_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("features");
        let mut writer = FeatureWriter::new(&path, [7; 32], 3, 2).expect("a file");
        writer.push(&[1.0, 2.0, 3.0, 4.0]).expect("writes");
        writer.push(&[]).expect("writes");
        writer.push(&[5.0, 6.0]).expect("writes");
        assert!(!path.exists(), "nothing before it is whole");
        let file = writer.finish().expect("a file");
        assert_eq!((file.has(0), file.has(1), file.has(2), file.has(3)), (true, false, true, false));
        assert_eq!(file.read(0).expect("rows"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(file.read(2).expect("rows"), [5.0, 6.0]);
        assert!(FeatureFile::open(&path, &[7; 32], 3).is_some());
        assert!(FeatureFile::open(&path, &[8; 32], 3).is_none(), "another key");
        assert!(FeatureFile::open(&path, &[7; 32], 4).is_none(), "another number of items");
        let bytes = std::fs::read(&path).expect("reads");
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("cuts");
            assert!(FeatureFile::open(&path, &[7; 32], 3).is_none(), "{length} bytes");
        }
    }
}
