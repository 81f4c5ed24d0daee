//! Opening a bundle and reading its files, nothing unchecked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{BundleError, FileEntry, MANIFEST_FILE, Manifest, foreign};
use crate::marks;

/// A manifest is a few kilobytes; what is larger is not one.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

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
        let bytes = place.size(MANIFEST_FILE)?;
        if bytes > MANIFEST_BYTES_MAX {
            return Err(BundleError::Content {
                path: place.path_of(MANIFEST_FILE),
                what: "size",
                expected: format!("at most {MANIFEST_BYTES_MAX} bytes"),
                found: format!("{bytes} bytes"),
            });
        }
        let manifest = Manifest::parse(&place.path_of(MANIFEST_FILE), &place.read(MANIFEST_FILE)?)?;
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
        let bytes = self.place.read(&file.name)?;
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
            Self::Directory(path) => {
                let path = path.join(name);
                std::fs::metadata(&path).map(|m| m.len()).map_err(|source| BundleError::Io { path, source })
            }
            Self::Tar(_, index) => index.get(name).map(|(_, size)| *size).ok_or_else(|| self.missing(name)),
            Self::Memory(_, files) => files.get(name).map(|f| f.len() as u64).ok_or_else(|| self.missing(name)),
        }
    }

    fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, BundleError> {
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                std::fs::read(&path).map(Cow::Owned).map_err(|source| BundleError::Io { path, source })
            }
            Self::Tar(path, index) => {
                let (offset, size) = *index.get(name).ok_or_else(|| self.missing(name))?;
                let read = || {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(offset))?;
                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                    file.take(size).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                read().map(Cow::Owned).map_err(|source| BundleError::Io { path: path.clone(), source })
            }
            Self::Memory(_, files) => files.get(name).map(|f| Cow::Borrowed(*f)).ok_or_else(|| self.missing(name)),
        }
    }

    fn open(&self, name: &str) -> Result<Piece, BundleError> {
        let io = |source| BundleError::Io { path: self.path_of(name).into(), source };
        match self {
            Self::Directory(path) => {
                let size = self.size(name)?;
                Ok(Piece::File { file: File::open(path.join(name)).map_err(io)?, start: 0, size, at: 0 })
            }
            Self::Tar(path, index) => {
                let (start, size) = *index.get(name).ok_or_else(|| self.missing(name))?;
                let mut file = File::open(path).map_err(io)?;
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
        let is_pointer = bytes < marks::LFS_BYTES_MAX && self.read(name).is_ok_and(|b| b.starts_with(marks::LFS));
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

/// Where each file of an archive starts and how long it is; folders, links and nested names are left out.
fn tar_index(path: &Path) -> Result<BTreeMap<String, (u64, u64)>, BundleError> {
    let io = |source| BundleError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    (&mut file).take(foreign::START_BYTES).read_to_end(&mut start).map_err(io)?;
    if let Some(found) = foreign::file(&start, path) {
        return Err(not_a_bundle(path, found));
    }
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut archive = tar::Archive::new(file);
    let foreign = |_| not_a_bundle(path, "a file that is no tar archive".to_owned());
    let mut index = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(foreign)? {
        let entry = entry.map_err(foreign)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(foreign)?;
        let name = name.strip_prefix(".").unwrap_or(&name).to_string_lossy().into_owned();
        index.insert(name, (entry.raw_file_position(), entry.size()));
    }
    if !index.contains_key(MANIFEST_FILE) {
        let inside = "a file that is no tar archive of one (its files must lie at the top, not in a folder)";
        return Err(not_a_bundle(path, inside.to_owned()));
    }
    Ok(index)
}
