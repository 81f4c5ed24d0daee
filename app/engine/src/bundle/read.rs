//! Opening a bundle and reading its files, all of them checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use super::archive::{Archive, MANIFEST_BYTES_MAX, Tar};
use super::content::{Content, Piece};
use super::non_bundle::{self, not_a_bundle};
use super::{BundleError, FileEntry, FileProperty, MANIFEST_FILE, Manifest};
use crate::hash::{Hasher, hex, sha256};
use crate::{files, magic};

/// An opened bundle: a checked manifest, and files that are checked as they are read.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(PathBuf),
    Tar(Tar),
    Memory(String, BTreeMap<&'static str, &'static [u8]>),
}

impl Bundle {
    /// Opens a bundle directory or `.tar`; checks the manifest and the size of every file.
    ///
    /// # Errors
    /// There is no bundle; a file is missing, not a regular file, a link out of the directory, or extends beyond the
    /// archive; a field or a size is invalid.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(io)?;
        let place = if kind.is_dir() {
            if !path.join(MANIFEST_FILE).exists() {
                return Err(not_a_bundle(path, non_bundle::folder(path)));
            }
            Place::Directory(path.to_owned())
        } else if kind.is_file() {
            Place::Tar(Tar::open(path)?)
        } else {
            return Err(not_a_bundle(path, "neither a file nor a folder".to_owned()));
        };
        Self::from_place(place)
    }

    /// Opens a bundle whose files are embedded in the program; `name` is its path in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
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
                    what: FileProperty::Size,
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

    /// The path of a file in messages.
    pub(crate) fn path_of(&self, file: &FileEntry) -> String {
        self.place.path_of(&file.name)
    }

    /// Reads a file that the manifest names and checks its SHA-256.
    ///
    /// # Errors
    /// The file cannot be read, or has another SHA-256.
    pub fn read(&self, file: &FileEntry) -> Result<Cow<'static, [u8]>, BundleError> {
        let bytes = self.place.read(&file.name, file.bytes)?;
        self.compare_hash(file, hex(&sha256(&bytes)))?;
        Ok(bytes)
    }

    /// Opens a file that the manifest names for reading in chunks. Does not check its SHA-256; [`Self::check_hash`] does.
    pub(crate) fn open_file(&self, file: &FileEntry) -> Result<Piece, BundleError> {
        self.place.open(&file.name)
    }

    /// Checks the SHA-256 of a file that the manifest names, without holding the whole file in memory.
    pub(crate) fn check_hash(&self, file: &FileEntry) -> Result<(), BundleError> {
        let io = |source| BundleError::Io { path: self.path_of(file).into(), source };
        let (mut content, mut hasher) = (self.open_file(file)?, Hasher::new());
        hasher.update_from(&mut content).map_err(io)?;
        self.compare_hash(file, hasher.finish_hex())
    }

    fn compare_hash(&self, file: &FileEntry, found: String) -> Result<(), BundleError> {
        if found.eq_ignore_ascii_case(&file.sha256) {
            return Ok(());
        }
        let path = self.path_of(file);
        Err(BundleError::Content { path, what: FileProperty::Sha256, expected: file.sha256.clone(), found })
    }

    /// Checks the SHA-256 of every file, so that damage shows now and not on first use.
    ///
    /// # Errors
    /// A file cannot be read, or has another SHA-256.
    pub fn verify(&self) -> Result<(), BundleError> {
        self.manifest.files().into_iter().try_for_each(|file| self.check_hash(file))
    }
}

impl Archive {
    /// Opens the bundle; checks the manifest and the size of every file.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open(self) -> Result<Bundle, BundleError> {
        Bundle::from_place(Place::Tar(self.into_tar()?))
    }
}

impl Place {
    fn path_of(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Tar(tar) => tar.path_of(name),
            Self::Memory(path, _) => format!("{path}: {name}"),
        }
    }

    fn size(&self, name: &str) -> Result<u64, BundleError> {
        match self {
            Self::Tar(tar) => tar.size(name),
            Self::Directory(_) | Self::Memory(..) => self.open(name).map(|piece| piece.size()),
        }
    }

    /// Reads a file of at most `bytes_max` bytes.
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
                what: FileProperty::Size,
                expected: format!("at most {bytes_max} bytes"),
                found: format!("{size} bytes"),
            });
        }
        if let Self::Tar(tar) = self {
            return tar.read(name).map(Cow::Owned);
        }
        let mut bytes = Vec::new();
        files::reserve(&mut bytes, size).map_err(io)?;
        piece.read_to_end(&mut bytes).map_err(io)?;
        Ok(Cow::Owned(bytes))
    }

    fn open(&self, name: &str) -> Result<Piece, BundleError> {
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                let opened = files::open_contained(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (size, file) = opened.map_err(|source| BundleError::Io { path, source })?;
                Ok(Piece::File { content: Content::new(file, None), start: 0, size, at: 0 })
            }
            Self::Tar(tar) => tar.piece(name),
            Self::Memory(_, files) => {
                let bytes = files.get(name).ok_or_else(|| self.missing(name))?;
                Ok(Piece::Memory(Cursor::new(bytes)))
            }
        }
    }

    /// The size of a file whose size is wrong, in words.
    fn shown_size(&self, name: &str, bytes: u64) -> String {
        let is_pointer =
            bytes < magic::LFS_BYTES_MAX && self.read(name, bytes).is_ok_and(|b| b.starts_with(magic::LFS));
        if is_pointer {
            return format!("{bytes} bytes, a Git LFS pointer ({})", magic::LFS_ADVICE);
        }
        format!("{bytes} bytes")
    }

    fn missing(&self, name: &str) -> BundleError {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        BundleError::Io { path: self.path_of(name).into(), source }
    }
}
