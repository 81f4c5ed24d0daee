//! Opening and reading untrusted files: images, bundles, checkpoints, label files and state.
//!
//! Only regular files are opened: a pipe or a device could block or never end. In a folder that came from elsewhere, a
//! link may lead to a file of the same folder only; files that are written to must not be links. Sizes are compared with
//! the caller's limit before memory is allocated, and no more than the limit is read, whatever the file system reports.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::printable::printable_path;

/// Why a file was refused; the inner error of the [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a regular file. The kind of the `io::Error` is `IsADirectory` or `InvalidInput`.
    #[error("expected a file, found {found}")]
    NotAFile {
        /// The file type with its article, such as `a named pipe`.
        found: &'static str,
    },
    /// A link that leads out of its folder. The kind of the `io::Error` is `InvalidInput`.
    #[error(
        "a link to {}, which is outside of its folder: name that file, or put it into the folder", printable_path(.target)
    )]
    Outside {
        /// Target of the link.
        target: PathBuf,
    },
    /// Larger than the reader's limit. The kind of the `io::Error` is `FileTooLarge`.
    #[error("larger than {bytes_max} bytes: {found} found")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
        /// Size of the file, or the number of bytes that were read.
        found: u64,
    },
}

impl Refusal {
    /// The refusal in an error of this module; `None` for an error of the system.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match &refusal {
            Refusal::NotAFile { found } if *found == DIRECTORY => ErrorKind::IsADirectory,
            Refusal::NotAFile { .. } | Refusal::Outside { .. } => ErrorKind::InvalidInput,
            Refusal::TooLarge { .. } => ErrorKind::FileTooLarge,
        };
        Self::new(kind, refusal)
    }
}

const DIRECTORY: &str = "a directory";

/// Opens a file that the user named: a regular file, or a link to any regular file.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before opening, since opening a device can have side effects.
    check_kind(&std::fs::metadata(path)?)?;
    open_file(OpenOptions::new().read(true), path, OFlags::empty())
}

/// Opens a file of an untrusted folder: a regular file, or a link within that folder. In a snapshot of the Hugging Face
/// cache, links may lead to the blobs of the same model.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_contained(path: &Path) -> io::Result<File> {
    check_kind(&std::fs::metadata(path)?)?;
    let folder = folder_of(path).canonicalize()?;
    let target = path.canonicalize()?;
    if !target.starts_with(model_of_cache(&folder).unwrap_or(&folder)) {
        return Err(Refusal::Outside { target }.into());
    }
    // A link that takes its place meanwhile is not followed.
    open_no_link(&target)
}

/// Opens a regular file that is not a link.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_no_link(path: &Path) -> io::Result<File> {
    check_kind(&path.symlink_metadata()?)?;
    open_file(OpenOptions::new().read(true), path, OFlags::NOFOLLOW)
}

/// Opens a regular file that is not a link, for reading and appending; creates it with `mode`, less the umask, if it does
/// not exist.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => check_kind(&found?)?,
    }
    open_file(OpenOptions::new().read(true).append(true).create(true).mode(mode), path, OFlags::NOFOLLOW)
}

/// Opens a file or folder of any type that is not a link, in order to lock it.
pub(crate) fn open_any(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((unwaiting() | OFlags::NOFOLLOW).bits() as i32).open(path)
}

fn open_file(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    let file = options.custom_flags((unwaiting() | flags).bits() as i32).open(path)?;
    check_kind(&file.metadata()?)?;
    Ok(file)
}

/// Flags for the case that something else takes the file's place meanwhile: opening does not wait for the other end of a
/// pipe, and a terminal does not become the controlling one.
fn unwaiting() -> OFlags {
    OFlags::NONBLOCK | OFlags::NOCTTY
}

/// Reads a file that the user named, of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(&open(path)?, bytes_max, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file of an untrusted folder ([`open_contained`]), of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the system, or a [`Refusal`].
pub fn read_contained(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(&open_contained(path)?, bytes_max, &mut bytes)?;
    Ok(bytes)
}

/// Replaces `bytes` by the rest of an open file of at most `bytes_max` bytes; the buffer is reused.
///
/// # Errors
/// Those of the system, or [`Refusal::TooLarge`].
pub fn read_into(file: &File, bytes_max: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let size = file.metadata()?.len();
    if size > bytes_max {
        return Err(Refusal::TooLarge { bytes_max, found: size }.into());
    }
    reserve(bytes, size)?;
    // The file may grow, or report no size.
    file.take(bytes_max.saturating_add(1)).read_to_end(bytes)?;
    let found = bytes.len() as u64;
    if found > bytes_max { Err(Refusal::TooLarge { bytes_max, found }.into()) } else { Ok(()) }
}

/// The parent folder of a path; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Reserves exactly `size` bytes; an error if there is not enough memory.
pub(crate) fn reserve(bytes: &mut Vec<u8>, size: u64) -> io::Result<()> {
    let size = usize::try_from(size).map_err(|_| ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(size).map_err(|_| ErrorKind::OutOfMemory.into())
}

fn check_kind(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        DIRECTORY
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Refusal::NotAFile { found }.into())
}

/// The folder `models--OWNER--NAME` of the Hugging Face cache, if `folder` is one of its snapshots or within one.
fn model_of_cache(folder: &Path) -> Option<&Path> {
    let snapshots = folder.ancestors().find(|folder| folder.ends_with("snapshots"))?;
    let model = snapshots.parent()?;
    model.file_name()?.to_str()?.starts_with("models--").then_some(model)
}

#[cfg(test)]
mod tests;
