//! Unpacking an archive that may have been made to do harm.
//!
//! A bundle is a handful of plain files in one folder, so nothing else is let through: no folders but `./`, no links, no
//! devices, no long names, no two files of one name. Sizes are added up before a byte is written.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use spotter_engine::bundle;
use tar::{Archive, Entry, EntryType};

use super::slots::SLOT_FILE;
use crate::store;

/// A bundle has five files; some more may lie beside them.
const FILES_MAX: usize = 32;

/// Headers that say nothing of importance here (times, owners) are skipped up to this size.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Bytes that are written at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something in it that no bundle has.
    #[error("{}: {entry}: {why}; expected plain files of a bundle and nothing else", .path.display())]
    Entry {
        /// The archive.
        path: PathBuf,
        /// The entry's name, or its number.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is larger than bundles may be.
    #[error("{}: {bytes} bytes: expected at most {bytes_max}, as bundles.size_max_mib says", .path.display())]
    Size {
        /// The archive.
        path: PathBuf,
        /// What it would take.
        bytes: u64,
        /// What it may take.
        bytes_max: u64,
    },
    /// It is something else, such as a folder or a packed file.
    #[error("{}: expected a .tar of a bundle, found {found}", .path.display())]
    NotAnArchive {
        /// The path.
        path: PathBuf,
        /// What it is, and what to do.
        found: String,
    },
    /// It cannot be read as an archive.
    #[error("{}: cannot be read as a tar archive", .path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// What the reader said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Refuses what is no archive, and archives larger than bundles may be, before they are unpacked.
pub(super) fn check_size(path: &Path, file: &File, bytes_max: u64) -> Result<(), ArchiveError> {
    let found = file.metadata().map_err(|source| ArchiveError::Read { path: path.to_owned(), source })?;
    let instead = bundle::found_instead(path).or_else(|| {
        let folder = path.display();
        match (found.is_file(), found.is_dir()) {
            (true, _) => None,
            (_, true) => Some(format!(
                "the folder of one: pack it (`tar -cf NAME.tar -C {folder} .`), or run it as it is (`--bundle {folder}`)"
            )),
            _ => Some("neither a file nor a folder".to_owned()),
        }
    });
    if let Some(found) = instead {
        return Err(ArchiveError::NotAnArchive { path: path.to_owned(), found });
    }
    if found.len() > bytes_max {
        return Err(ArchiveError::Size { path: path.to_owned(), bytes: found.len(), bytes_max });
    }
    Ok(())
}

/// What the reader said, without the bytes of the file that it may have put into it.
fn said(error: io::Error) -> io::Error {
    let text = error.to_string();
    if text.chars().all(|c| (' '..='~').contains(&c)) {
        return error;
    }
    io::Error::new(error.kind(), "its headers are damaged, or it is a file of another kind")
}

/// Unpacks the archive into the folder `out`, where its files are on the disk then; gives the SHA-256 of the archive.
pub(super) fn unpack(path: &Path, file: &mut File, out: &Path, bytes_max: u64) -> Result<String, ArchiveError> {
    let read = |source| ArchiveError::Read { path: path.to_owned(), source: said(source) };
    // One more byte than may be, so that a file that grows meanwhile is noticed and does not fill the disk.
    let mut archive = Archive::new(Hashed { reader: file.take(bytes_max + 1), hash: Sha256::new() });
    let mut unpacker = Unpacker { path, out, bytes_max, bytes: 0, names: BTreeSet::new() };
    for (number, entry) in archive.entries().map_err(read)?.raw(true).enumerate() {
        unpacker.take(number, entry.map_err(read)?)?;
    }
    let mut hashed = archive.into_inner();
    // What follows the end mark was signed too.
    io::copy(&mut hashed, &mut io::sink()).map_err(read)?;
    Ok(hex(&hashed.hash.finalize()))
}

struct Unpacker<'a> {
    path: &'a Path,
    out: &'a Path,
    bytes_max: u64,
    bytes: u64,
    names: BTreeSet<String>,
}

impl Unpacker<'_> {
    fn take(&mut self, number: usize, mut entry: Entry<'_, impl Read>) -> Result<(), ArchiveError> {
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
        self.write(name, size, &mut entry)
    }

    fn write(&self, name: &str, size: u64, entry: &mut impl Read) -> Result<(), ArchiveError> {
        let path = self.out.join(name);
        let write = |source| ArchiveError::Write { path: path.clone(), source };
        let read = |source| ArchiveError::Read { path: self.path.to_owned(), source: said(source) };
        let mut file = File::create_new(&path).map_err(write)?;
        // Whatever the umask of the one who installs it: the service must be able to read it.
        file.set_permissions(Permissions::from_mode(store::FILE_MODE)).map_err(write)?;
        let (mut piece, mut left) = (vec![0; PIECE_BYTES], size);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let count = entry.read(&mut piece[..wanted]).map_err(read)?;
            if count == 0 {
                return Err(read(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends within {name}"))));
            }
            file.write_all(&piece[..count]).map_err(write)?;
            left -= count as u64;
        }
        file.sync_all().map_err(write)
    }
}

/// The name of a file that lies in the folder itself, and can harm nobody.
fn plain_name(bytes: &[u8]) -> Option<&str> {
    let name = str::from_utf8(bytes).ok()?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.chars().any(|c| matches!(c, '/' | '\\') || c.is_control())
        && name != SLOT_FILE;
    plain.then_some(name)
}

/// Hashes what is read through it.
struct Hashed<R> {
    reader: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        self.hash.update(&out[..count]);
        Ok(count)
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
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
            (b"slot.json", None),
        ] {
            assert_eq!(plain_name(name), expected, "{}", name.escape_ascii());
        }
    }
}
