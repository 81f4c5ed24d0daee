//! Checks and copies archives, which may be malicious.
//!
//! A bundle is a handful of plain files in one folder, so everything else is refused: folders other than `./`, links, devices,
//! long names, two files with the same name. Nothing is unpacked: a slot keeps the archive as it is, since the signature is
//! over the archive.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use spotter_engine::bundle;
use spotter_engine::files::Refusal;
use spotter_engine::hash::Hasher;
use spotter_engine::printable::printable_path;
use tar::{Archive, Entry, EntryType};

use crate::store;

/// Maximum number of files in an archive. A bundle has five; a few more may lie beside them.
const FILES_MAX: usize = 32;

/// Largest extension header (times, owners), which is skipped.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Bytes per read of the copy.
const PIECE_BYTES: usize = 256 << 10;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry that no bundle has.
    #[error("{}: {entry}: {why}; expected plain files of a bundle and nothing else", printable_path(.path))]
    Entry {
        /// The archive.
        path: PathBuf,
        /// Name or number of the entry.
        entry: String,
        /// The reason.
        why: String,
    },
    /// The archive is larger than the configuration allows.
    #[error("{}: {bytes} bytes: expected at most {bytes_max}, as bundles.size_max_mib says", printable_path(.path))]
    Size {
        /// The archive.
        path: PathBuf,
        /// Size in bytes.
        bytes: u64,
        /// Limit in bytes.
        bytes_max: u64,
    },
    /// The path is something else, such as a folder or a compressed file.
    #[error("{}: expected a .tar of a bundle, found {found}", printable_path(.path))]
    NotAnArchive {
        /// The path.
        path: PathBuf,
        /// Description of what it is and what to do.
        found: String,
    },
    /// The file cannot be read as an archive.
    #[error("{}: cannot be read as a tar archive", printable_path(.path))]
    Read {
        /// The archive.
        path: PathBuf,
        /// The reader's error.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written", printable_path(.path))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The error for a path that is no regular file, if that is why it could not be opened.
pub(super) fn instead_of(path: &Path, error: &io::Error) -> Option<ArchiveError> {
    let &Refusal::NotAFile { found } = Refusal::of(error)? else { return None };
    let folder = printable_path(path);
    let found = match bundle::describe_non_bundle(path) {
        Some(found) => found,
        None if path.is_dir() => format!(
            "the folder of one: pack it (`tar -cf NAME.tar -C {folder} .`), or run it as it is (`--bundle {folder}`)"
        ),
        None => found.to_owned(),
    };
    Some(ArchiveError::NotAnArchive { path: path.to_owned(), found })
}

/// Refuses, before reading, a regular file that is no archive or larger than the limit.
pub(super) fn check_size(path: &Path, file: &File, bytes_max: u64) -> Result<(), ArchiveError> {
    let bytes = file.metadata().map_err(|source| ArchiveError::Read { path: path.to_owned(), source })?.len();
    if let Some(found) = bundle::describe_non_bundle(path) {
        return Err(ArchiveError::NotAnArchive { path: path.to_owned(), found });
    }
    if bytes > bytes_max {
        return Err(ArchiveError::Size { path: path.to_owned(), bytes, bytes_max });
    }
    Ok(())
}

/// The reader's error, without bytes of the file that it may quote.
fn without_bytes(error: io::Error) -> io::Error {
    let text = error.to_string();
    if text.chars().all(|c| (' '..='~').contains(&c)) {
        return error;
    }
    io::Error::new(error.kind(), "its headers are damaged, or it is a file of another kind")
}

/// Copies an archive to `to`, synced to disk; returns the copy and its SHA-256.
///
/// The archive is read once, through the open file. All checks read the copy, so that no change of the archive can come in
/// between.
pub(super) fn copy(path: &Path, file: &File, to: &Path, bytes_max: u64) -> Result<(File, String), ArchiveError> {
    let read = |source| ArchiveError::Read { path: path.to_owned(), source };
    let write = |source| ArchiveError::Write { path: to.to_owned(), source };
    let mut out = File::options().read(true).write(true).create_new(true).open(to).map_err(write)?;
    // Regardless of the umask, since the service must be able to read it.
    out.set_permissions(Permissions::from_mode(store::FILE_MODE)).map_err(write)?;
    // One byte more than the limit, so that a growing file is noticed and does not fill the disk.
    let mut reader = file.take(bytes_max.saturating_add(1));
    let (mut piece, mut hash, mut bytes) = (vec![0; PIECE_BYTES], Hasher::new(), 0);
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        bytes += count as u64;
        if bytes > bytes_max {
            return Err(ArchiveError::Size { path: path.to_owned(), bytes, bytes_max });
        }
        hash.update(&piece[..count]);
        out.write_all(&piece[..count]).map_err(write)?;
    }
    out.sync_all().map_err(write)?;
    Ok((out, hash.finish_hex()))
}

/// Refuses an archive with entries that no bundle has. `path` names `file` in messages.
pub(super) fn check(path: &Path, mut file: &File, bytes_max: u64) -> Result<(), ArchiveError> {
    let read = |source| ArchiveError::Read { path: path.to_owned(), source: without_bytes(source) };
    file.rewind().map_err(read)?;
    let mut archive = Archive::new(file);
    let mut checker = Checker { path, bytes_max, bytes: 0, names: BTreeSet::new() };
    for (number, entry) in archive.entries_with_seek().map_err(read)?.raw(true).enumerate() {
        checker.check(number, &entry.map_err(read)?)?;
    }
    Ok(())
}

struct Checker<'a> {
    path: &'a Path,
    bytes_max: u64,
    bytes: u64,
    names: BTreeSet<String>,
}

impl Checker<'_> {
    fn check(&mut self, number: usize, entry: &Entry<'_, impl Read>) -> Result<(), ArchiveError> {
        let bytes = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&bytes).escape_default().to_string();
        let refuse = |why: String| {
            let entry = if shown.is_empty() { format!("entry {}", number + 1) } else { shown.clone() };
            Err(ArchiveError::Entry { path: self.path.to_owned(), entry, why })
        };
        if number >= 2 * FILES_MAX {
            return refuse(format!("more than {} entries", 2 * FILES_MAX));
        }
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::Regular => {}
            EntryType::Directory if matches!(bytes.as_slice(), b"." | b"./") => return Ok(()),
            EntryType::XHeader | EntryType::XGlobalHeader if size <= EXTENSION_BYTES_MAX => return Ok(()),
            EntryType::Directory => return refuse("a folder".to_owned()),
            EntryType::Symlink | EntryType::Link => return refuse("a link".to_owned()),
            EntryType::GNULongName | EntryType::GNULongLink => return refuse("a name that is too long".to_owned()),
            other => return refuse(format!("an entry of type {other:?}")),
        }
        let Some(name) = plain_name(&bytes) else { return refuse("not a plain file name".to_owned()) };
        if !self.names.insert(name.to_owned()) {
            return refuse("a second file of that name".to_owned());
        }
        if self.names.len() > FILES_MAX {
            return refuse(format!("more than {FILES_MAX} files"));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.bytes_max {
            let (path, bytes, bytes_max) = (self.path.to_owned(), self.bytes, self.bytes_max);
            return Err(ArchiveError::Size { path, bytes, bytes_max });
        }
        Ok(())
    }
}

/// The name of an entry if it is a plain file name without a folder.
fn plain_name(bytes: &[u8]) -> Option<&str> {
    let name = str::from_utf8(bytes).ok()?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let plain =
        !name.is_empty() && !name.starts_with('.') && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control());
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_accepted() {
        for (name, expected) in [
            (&b"bundle.json"[..], Some("bundle.json")),
            (b"./bundle.json", Some("bundle.json")),
            (b"labels \xc3\xa4.toml", Some("labels ä.toml")),
            (b"../bundle.json", None),
            (b"/etc/passwd", None),
            (b"a/b", None),
            (b"a\\b", None),
            (b"./../x", None),
            (b"..", None),
            (b".", None),
            (b"./", None),
            (b"", None),
            (b".hidden", None),
            (b"a\nb", None),
            (b"a\0b", None),
            (b"\xff", None),
        ] {
            assert_eq!(plain_name(name), expected, "{}", name.escape_ascii());
        }
    }
}
