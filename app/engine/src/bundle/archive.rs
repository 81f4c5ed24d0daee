//! The `.tar` form of a bundle. Files are read in place; nothing is unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{BlockHasher, Blocks, Content, Piece};
use super::non_bundle::{self, not_a_bundle};
use super::{BundleError, FileProperty, MANIFEST_FILE};
use crate::files;
use crate::printable::printable;

/// Size limit of a manifest, which has a few kilobytes.
pub(super) const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Entries that an archive may have. A bundle has five files; more may lie beside them, as long as their names take little
/// memory.
const ENTRIES_MAX: usize = 4096;

/// File name to offset and size within the archive.
type Index = BTreeMap<String, (u64, u64)>;

/// The `.tar` of a bundle after all its bytes were read. To verify a signature over the whole archive, do so between
/// [`Self::read`] and [`Self::open`]; nothing in the archive is trusted before.
#[derive(Debug)]
pub struct Archive(Result<Tar, BundleError>);

/// An archive with its index of files.
#[derive(Debug)]
pub(super) struct Tar {
    /// For messages.
    path: PathBuf,
    file: File,
    index: Index,
    /// The manifest and the digests of all blocks, if the whole archive was read.
    checked: Option<(Vec<u8>, Arc<Blocks>)>,
}

impl Archive {
    /// Reads all of `file` and passes every byte to `seen`, in order and once. `path` is used in messages only.
    ///
    /// The manifest is kept from this pass, and later reads are compared with its hashes, so that a file that changes
    /// meanwhile is an error.
    ///
    /// # Errors
    /// The file cannot be read. A damaged archive, or one without a bundle, is an error of [`Self::open`].
    pub fn read(path: &Path, file: File, mut seen: impl FnMut(&[u8])) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.to_owned(), source };
        let bytes = file.metadata().map_err(io)?.len();
        let mut hasher = BlockHasher::default();
        let on_read = |piece: &[u8]| {
            hasher.update(piece);
            seen(piece);
        };
        // Not beyond the initial size: a file that grows while it is read would never end.
        let mut archive = tar::Archive::new(Watched { file: &file, at: 0, on_read }.take(bytes));
        let mut manifest = Vec::new();
        let index = known(path, &file).and_then(|()| index(path, bytes, archive.entries(), Some(&mut manifest)));
        // A signature also covers what follows the end marker.
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(io)?;
        let checked = Some((manifest, Arc::new(hasher.finish())));
        Ok(Self(index.map(|index| Tar { path: path.to_owned(), file, index, checked })))
    }

    pub(super) fn into_tar(self) -> Result<Tar, BundleError> {
        self.0
    }
}

impl Tar {
    /// Opens an archive by its headers alone.
    pub(super) fn open(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.to_owned(), source };
        let file = files::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        known(path, &file)?;
        let mut archive = tar::Archive::new(&file);
        let index = index(path, bytes, archive.entries_with_seek(), None)?;
        Ok(Self { path: path.to_owned(), file, index, checked: None })
    }

    /// The path of a file in messages.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}: {name}", self.path.display())
    }

    fn place(&self, name: &str) -> Result<(u64, u64), BundleError> {
        self.index.get(name).copied().ok_or_else(|| self.io(name, io::ErrorKind::NotFound.into()))
    }

    fn io(&self, name: &str, source: io::Error) -> BundleError {
        BundleError::Io { path: self.path_of(name).into(), source }
    }

    /// Size of a file.
    pub(super) fn size(&self, name: &str) -> Result<u64, BundleError> {
        self.place(name).map(|(_, size)| size)
    }

    /// The content of a file. If the whole archive was read, the manifest is the one of that pass.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        let (start, size) = self.place(name)?;
        if let (MANIFEST_FILE, Some((manifest, _))) = (name, &self.checked) {
            return Ok(manifest.clone());
        }
        // Not larger than the archive, as the index says.
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| self.io(name, io::ErrorKind::FileTooLarge.into()))?];
        self.file.read_exact_at(&mut bytes, start).map_err(|source| self.io(name, source))?;
        Ok(bytes)
    }

    /// Opens a file for reading in chunks.
    pub(super) fn piece(&self, name: &str) -> Result<Piece, BundleError> {
        let (start, size) = self.place(name)?;
        let file = self.file.try_clone().map_err(|source| self.io(name, source))?;
        let blocks = self.checked.as_ref().map(|(_, blocks)| Arc::clone(blocks));
        Ok(Piece::File { content: Content::new(file, blocks), start, size, at: 0 })
    }
}

/// Refuses files that are recognised as something else than a tar archive.
fn known(path: &Path, file: &File) -> Result<(), BundleError> {
    let mut start = [0; non_bundle::START_BYTES as usize];
    let count = file.read_at(&mut start, 0).map_err(|source| BundleError::Io { path: path.to_owned(), source })?;
    match non_bundle::file(&start[..count], path) {
        Some(found) => Err(not_a_bundle(path, found)),
        None => Ok(()),
    }
}

/// Offset and size of each file of an archive of `bytes` bytes; folders and links are left out. The content of the manifest
/// goes to `manifest`, up to one byte more than its limit.
///
/// Extension headers, which rename or resize the entry that follows them, are ignored: no file of a bundle needs one.
fn index<'a, R: Read + 'a>(
    path: &Path,
    bytes: u64,
    entries: io::Result<tar::Entries<'a, R>>,
    mut manifest: Option<&mut Vec<u8>>,
) -> Result<Index, BundleError> {
    let no_tar = |_| not_a_bundle(path, "a file that is no tar archive".to_owned());
    let mut index = BTreeMap::new();
    for (number, entry) in entries.map_err(no_tar)?.raw(true).enumerate() {
        let mut entry = entry.map_err(no_tar)?;
        if number >= ENTRIES_MAX {
            return Err(not_a_bundle(path, format!("an archive of more than {ENTRIES_MAX} entries")));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = {
            let path = entry.path().map_err(no_tar)?;
            path.strip_prefix(".").unwrap_or(&path).to_string_lossy().into_owned()
        };
        let (start, size) = (entry.raw_file_position(), entry.size());
        if start.checked_add(size).is_none_or(|end| end > bytes) {
            return Err(BundleError::Content {
                path: format!("{}: {}", path.display(), printable(&name)),
                what: FileProperty::Size,
                expected: format!("no more than the {bytes} bytes of the archive"),
                found: format!("{size} bytes"),
            });
        }
        if name == MANIFEST_FILE
            && let Some(manifest) = &mut manifest
        {
            entry.by_ref().take(MANIFEST_BYTES_MAX + 1).read_to_end(manifest).map_err(no_tar)?;
        }
        if index.insert(name.clone(), (start, size)).is_some() {
            return Err(not_a_bundle(path, format!("an archive with two files called {}", printable(&name))));
        }
    }
    if !index.contains_key(MANIFEST_FILE) {
        let inside = "a file that is no tar archive of one (its files must lie at the top, not in a folder)";
        return Err(not_a_bundle(path, inside.to_owned()));
    }
    Ok(index)
}

/// Reads a file from its first byte on and passes what was read to a callback.
struct Watched<'a, F> {
    file: &'a File,
    at: u64,
    on_read: F,
}

impl<F: FnMut(&[u8])> Read for Watched<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(out, self.at)?;
        self.at += count as u64;
        (self.on_read)(&out[..count]);
        Ok(count)
    }
}
