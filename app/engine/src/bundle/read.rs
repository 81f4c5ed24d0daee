//! Opening a bundle and reading its files, nothing unchecked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{BundleError, FileEntry, MANIFEST_FILE, Manifest, foreign};
use crate::printable::printable;
use crate::{files, marks};

/// A manifest is a few kilobytes; what is larger is not one.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Files of an archive that are looked at: a bundle has five, and labels and notes may lie beside them.
const ENTRIES_MAX: usize = 4096;

/// Bytes that are hashed at a time: few enough for a cache, many enough for system calls not to matter.
const HASH_BYTES: usize = 256 << 10;

/// An opened bundle: a checked manifest, and files that are checked as they are read.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(PathBuf),
    /// File name to offset and size within the archive.
    Tar(PathBuf, BTreeMap<String, (u64, u64)>),
    Memory(String, BTreeMap<&'static str, &'static [u8]>),
}

impl Bundle {
    /// Opens a bundle directory or the `.tar` of one; checks the manifest and the size of every file.
    ///
    /// # Errors
    /// There is no bundle; a file is missing, is no regular file, is a link out of the directory, or reaches beyond the
    /// archive; a field or a size is not what it must be.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(io)?;
        let place = if kind.is_dir() {
            if !path.join(MANIFEST_FILE).exists() {
                return Err(not_a_bundle(path, foreign::folder(path)));
            }
            Place::Directory(path.to_owned())
        } else {
            Place::Tar(path.to_owned(), tar_index(path)?)
        };
        Self::from_place(place)
    }

    /// Opens a bundle whose files are part of the program; `name` stands for its path in messages.
    pub fn from_memory(
        name: &str,
        files: impl IntoIterator<Item = (&'static str, &'static [u8])>,
    ) -> Result<Self, BundleError> {
        Self::from_place(Place::Memory(name.to_owned(), files.into_iter().collect()))
    }

    fn from_place(place: Place) -> Result<Self, BundleError> {
        let json = place.read(MANIFEST_FILE, MANIFEST_BYTES_MAX)?;
        let manifest = Manifest::parse(&place.path_of(MANIFEST_FILE), &json)?;
        for file in manifest.files() {
            let found = place.size(&file.name)?;
            if found != file.bytes {
                return Err(BundleError::Content {
                    path: place.path_of(&file.name),
                    what: "size",
                    expected: format!("{} bytes", file.bytes),
                    found: place.shown_size(&file.name, found),
                });
            }
        }
        Ok(Self { manifest, place })
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a file of the bundle lies, for messages.
    pub fn path_of(&self, file: &FileEntry) -> String {
        self.place.path_of(&file.name)
    }

    /// The content of a file that the manifest names, once its SHA-256 has been checked.
    pub fn read(&self, file: &FileEntry) -> Result<Cow<'static, [u8]>, BundleError> {
        let bytes = self.place.read(&file.name, file.bytes)?;
        self.compare_hash(file, sha256_hex(&bytes))?;
        Ok(bytes)
    }

    /// A file that the manifest names, for reading piece by piece. [`Self::check_hash`] checks its SHA-256.
    pub(crate) fn open_file(&self, file: &FileEntry) -> Result<Piece, BundleError> {
        self.place.open(&file.name)
    }

    /// Checks the SHA-256 of a file that the manifest names without ever holding the whole file.
    pub(crate) fn check_hash(&self, file: &FileEntry) -> Result<(), BundleError> {
        let io = |source| BundleError::Io { path: self.path_of(file).into(), source };
        let (mut content, mut hash) = (self.open_file(file)?, Sha256::new());
        let mut bytes = vec![0; HASH_BYTES];
        loop {
            let count = content.read(&mut bytes).map_err(io)?;
            if count == 0 {
                break;
            }
            hash.update(&bytes[..count]);
        }
        self.compare_hash(file, hex(&hash.finalize()))
    }

    fn compare_hash(&self, file: &FileEntry, found: String) -> Result<(), BundleError> {
        if found.eq_ignore_ascii_case(&file.sha256) {
            return Ok(());
        }
        let path = self.path_of(file);
        Err(BundleError::Content { path, what: "SHA-256", expected: file.sha256.clone(), found })
    }

    /// Reads every file once, so that damage shows now and not when the file is first needed.
    pub fn verify(&self) -> Result<(), BundleError> {
        self.manifest.files().into_iter().try_for_each(|file| self.check_hash(file))
    }
}

/// One file of a bundle, opened.
#[derive(Debug)]
pub(crate) enum Piece {
    /// `size` bytes of a file on disk, from `start`; the next byte read is number `at`.
    File {
        file: File,
        start: u64,
        size: u64,
        at: u64,
    },
    Memory(Cursor<&'static [u8]>),
}

impl Piece {
    fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Memory(cursor) => cursor.get_ref().len() as u64,
        }
    }
}

impl Read for Piece {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, size, at, .. } => {
                let count = file.take(size.saturating_sub(*at)).read(out)?;
                *at += count as u64;
                Ok(count)
            }
            Self::Memory(cursor) => cursor.read(out),
        }
    }
}

impl Seek for Piece {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File { file, start, size, at } => {
                let target = match to {
                    SeekFrom::Start(offset) => Some(offset),
                    SeekFrom::End(offset) => size.checked_add_signed(offset),
                    SeekFrom::Current(offset) => at.checked_add_signed(offset),
                };
                let target = target.ok_or(io::ErrorKind::InvalidInput)?;
                file.seek(SeekFrom::Start(*start + target))?;
                *at = target;
                Ok(target)
            }
            Self::Memory(cursor) => cursor.seek(to),
        }
    }
}

impl Place {
    fn path_of(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Tar(path, _) => format!("{}: {name}", path.display()),
            Self::Memory(path, _) => format!("{path}: {name}"),
        }
    }

    fn size(&self, name: &str) -> Result<u64, BundleError> {
        match self {
            Self::Tar(_, index) => index.get(name).map(|(_, size)| *size).ok_or_else(|| self.missing(name)),
            Self::Directory(_) | Self::Memory(..) => self.open(name).map(|piece| piece.size()),
        }
    }

    /// The whole of a file of at most `bytes_max` bytes.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Cow<'static, [u8]>, BundleError> {
        if let Self::Memory(_, files) = self {
            return files.get(name).map(|bytes| Cow::Borrowed(*bytes)).ok_or_else(|| self.missing(name));
        }
        let io = |source| BundleError::Io { path: self.path_of(name).into(), source };
        let mut piece = self.open(name)?;
        let size = piece.size();
        if size > bytes_max {
            return Err(BundleError::Content {
                path: self.path_of(name),
                what: "size",
                expected: format!("at most {bytes_max} bytes"),
                found: format!("{size} bytes"),
            });
        }
        let mut bytes = Vec::new();
        files::reserve(&mut bytes, size).map_err(io)?;
        piece.read_to_end(&mut bytes).map_err(io)?;
        Ok(Cow::Owned(bytes))
    }

    fn open(&self, name: &str) -> Result<Piece, BundleError> {
        let io = |source| BundleError::Io { path: self.path_of(name).into(), source };
        match self {
            Self::Directory(path) => {
                let file = files::open_contained(&path.join(name)).map_err(io)?;
                let size = file.metadata().map_err(io)?.len();
                Ok(Piece::File { file, start: 0, size, at: 0 })
            }
            Self::Tar(path, index) => {
                let (start, size) = *index.get(name).ok_or_else(|| self.missing(name))?;
                let mut file = files::open(path).map_err(io)?;
                file.seek(SeekFrom::Start(start)).map_err(io)?;
                Ok(Piece::File { file, start, size, at: 0 })
            }
            Self::Memory(_, files) => {
                let bytes = files.get(name).ok_or_else(|| self.missing(name))?;
                Ok(Piece::Memory(Cursor::new(bytes)))
            }
        }
    }

    /// The size of a file that has another one than it should, in words.
    fn shown_size(&self, name: &str, bytes: u64) -> String {
        let is_pointer =
            bytes < marks::LFS_BYTES_MAX && self.read(name, bytes).is_ok_and(|b| b.starts_with(marks::LFS));
        if is_pointer {
            return format!("{bytes} bytes, a Git LFS pointer (run `git lfs pull` in the repository it came from)");
        }
        format!("{bytes} bytes")
    }

    fn missing(&self, name: &str) -> BundleError {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        BundleError::Io { path: self.path_of(name).into(), source }
    }
}

/// Lower-case hexadecimal SHA-256 of `bytes`.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn not_a_bundle(path: &Path, found: String) -> BundleError {
    BundleError::NotABundle { path: path.display().to_string(), found }
}

/// Where each file of an archive starts and how long it is; folders, links and nested names are left out. No entry reaches
/// beyond the archive.
fn tar_index(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, BundleError> {
    let io = |source| BundleError::Io { path: path.to_owned(), source };
    let mut file = files::open(path).map_err(io)?;
    let archive_bytes = file.metadata().map_err(io)?.len();
    let mut start = Vec::new();
    (&mut file).take(foreign::START_BYTES).read_to_end(&mut start).map_err(io)?;
    if let Some(found) = foreign::file(&start, path) {
        return Err(not_a_bundle(path, found));
    }
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut archive = tar::Archive::new(file);
    let foreign = |_| not_a_bundle(path, "a file that is no tar archive".to_owned());
    let mut index = BTreeMap::new();
    // Raw: long names, which no file of a bundle has, would be read into memory whatever their length.
    for (number, entry) in archive.entries_with_seek().map_err(foreign)?.raw(true).enumerate() {
        let entry = entry.map_err(foreign)?;
        let (at, size) = (entry.raw_file_position(), entry.size());
        let name = entry.path().map_err(foreign)?;
        let name = name.strip_prefix(".").unwrap_or(&name).to_string_lossy().into_owned();
        let room = archive_bytes.saturating_sub(at);
        if size > room {
            return Err(BundleError::Content {
                path: format!("{}: {}", path.display(), printable(&name)),
                what: "size",
                expected: format!("at most {room} bytes, where the archive ends"),
                found: format!("{size} bytes"),
            });
        }
        if number >= ENTRIES_MAX {
            return Err(not_a_bundle(path, format!("an archive of more than {ENTRIES_MAX} files")));
        }
        if entry.header().entry_type().is_file() {
            index.insert(name, (at, size));
        }
    }
    if !index.contains_key(MANIFEST_FILE) {
        let inside = "a file that is no tar archive of one (its files must lie at the top, not in a folder)";
        return Err(not_a_bundle(path, inside.to_owned()));
    }
    Ok(index)
}
