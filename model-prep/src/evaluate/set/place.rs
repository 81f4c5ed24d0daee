//! The files of a set, in a folder or in a zip archive of one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};
use spotter_engine::files::{self, Refusal};

use crate::evaluate::error::EvaluateError;

/// Deepest nesting of folders; deeper means that symbolic links form a cycle.
const DEPTH_MAX: usize = 16;

/// Folder of metadata that the archiver of macOS adds.
const MACOSX: &str = "__MACOSX";

/// The folder or archive of a set.
#[derive(Debug)]
pub(super) enum Place {
    Folder(PathBuf),
    Zip(Box<Zip>),
}

/// A zip archive whose entries are read on request, from any thread.
#[derive(Debug)]
pub(super) struct Zip {
    path: PathBuf,
    archive: ZipArchive<FileReader>,
    entries: HashMap<PathBuf, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    is_encrypted: bool,
}

/// The files and folders of a set, without hidden ones.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The top-level folders, sorted.
    pub(super) folders: Vec<PathBuf>,
    /// All files, sorted; relative to the place, like the folders.
    pub(super) files: Vec<PathBuf>,
}

impl Place {
    /// Opens a folder or a zip archive.
    pub(super) fn open(path: &Path) -> Result<(Self, Listing), EvaluateError> {
        let io = |source| EvaluateError::Io { path: path.to_owned(), source };
        let mut listing = Listing::default();
        let place = if std::fs::metadata(path).map_err(io)?.is_dir() {
            listing.walk(path, Path::new(""), 0)?;
            Self::Folder(path.to_owned())
        } else {
            let foreign = |error: rawzip::Error| EvaluateError::Folder {
                path: path.to_owned(),
                expected: "a folder of images or a zip archive of one".to_owned(),
                found: format!("a file that is neither ({error})"),
            };
            Self::Zip(Box::new(Zip::open(path, files::open(path).map_err(io)?, &mut listing).map_err(foreign)?))
        };
        listing.folders.sort();
        listing.folders.dedup();
        listing.files.sort();
        listing.files.dedup();
        Ok((place, listing))
    }

    /// The folder or archive.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Zip(zip) => &zip.path,
        }
    }

    /// Reads the file called `name`, of at most `bytes_max` bytes.
    pub(super) fn read(&self, name: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Folder(path) => files::read(&path.join(name), bytes_max),
            Self::Zip(zip) => zip.read(name, bytes_max),
        }
    }
}

fn read(file: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found > bytes_max { Err(Refusal::TooLarge { bytes_max, found }.into()) } else { Ok(bytes) }
}

impl Listing {
    fn walk(&mut self, root: &Path, folder: &Path, depth: usize) -> Result<(), EvaluateError> {
        let path = root.join(folder);
        if depth > DEPTH_MAX {
            let expected = format!("folders nested at most {DEPTH_MAX} deep");
            let found = "deeper ones; remove symbolic links that form a cycle".to_owned();
            return Err(EvaluateError::Folder { path, expected, found });
        }
        let error = |source| EvaluateError::Io { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(error)? {
            let name = folder.join(entry.map_err(error)?.file_name());
            if is_hidden(&name) {
                continue;
            }
            // Links are followed; a broken one counts as a file that cannot be read.
            if root.join(&name).is_dir() {
                self.walk(root, &name, depth + 1)?;
                if depth == 0 {
                    self.folders.push(name);
                }
            } else {
                self.files.push(name);
            }
        }
        Ok(())
    }
}

/// Returns whether a part of the path starts with a dot, or is macOS metadata.
fn is_hidden(name: &Path) -> bool {
    let hidden = |part: Component<'_>| {
        let part = part.as_os_str();
        part.as_encoded_bytes().starts_with(b".") || part == MACOSX
    };
    name.components().any(hidden)
}

impl Zip {
    fn open(path: &Path, file: File, listing: &mut Listing) -> Result<Self, rawzip::Error> {
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let archive = ZipArchive::from_file(file, &mut buffer)?;
        let mut found = HashMap::new();
        let mut entries = archive.entries(&mut buffer);
        while let Some(entry) = entries.next_entry()? {
            let name = PathBuf::from(entry.file_path().try_normalize()?.as_str());
            if is_hidden(&name) {
                continue;
            }
            let mut parts = name.components();
            if let (Some(first), inner) = (parts.next(), parts.next().is_some())
                && (inner || entry.is_dir())
            {
                listing.folders.push(PathBuf::from(first.as_os_str()));
            }
            if !entry.is_dir() {
                listing.files.push(name.clone());
                let method = entry.compression_method();
                let is_encrypted = entry.flags().is_encrypted();
                found.insert(name, Entry { place: entry.wayfinder(), method, is_encrypted });
            }
        }
        Ok(Self { path: path.to_owned(), archive, entries: found })
    }

    /// Reads an entry and checks its length and CRC. Inflates at most `bytes_max` bytes.
    fn read(&self, name: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let entry = self.entries.get(name).ok_or(ErrorKind::NotFound)?;
        let refuse = |what: String| Err(io::Error::new(ErrorKind::Unsupported, what));
        if entry.is_encrypted {
            return refuse("encrypted; create the archive again without a password".to_owned());
        }
        let content = self.archive.get_entry(entry.place).map_err(io::Error::other)?;
        match entry.method {
            CompressionMethod::STORE => read(content.verifying_reader(content.reader()), bytes_max),
            CompressionMethod::DEFLATE => {
                read(content.verifying_reader(DeflateDecoder::new(content.reader())), bytes_max)
            }
            other => refuse(format!("compressed as {other:?}: expected stored or deflated; unpack the archive")),
        }
    }
}
