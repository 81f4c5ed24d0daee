//! Opens the files of a checkpoint, which is untrusted: only regular files within its folder or its model's hub cache,
//! and with a limit on their size.

use std::fs::File;
use std::path::Path;

use spotter_engine::files::{self, Refusal};
use spotter_engine::magic;

use super::error::CheckpointError;

/// Size limit in bytes of files that are read whole. The largest tokenizers, of a million tokens, have half of it.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Opens a regular file, or a link to one within the folder or to a blob of the hub cache.
pub(crate) fn open(path: &Path) -> Result<File, CheckpointError> {
    files::open_contained(path).map_err(|source| refused(path, source))
}

/// Reads a whole file of at most `bytes_max` bytes.
pub(crate) fn read_at_most(path: &Path, bytes_max: u64) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = Vec::new();
    files::read_into(&open(path)?, bytes_max, &mut bytes).map_err(|source| refused(path, source))?;
    if bytes.starts_with(magic::LFS) {
        return Err(CheckpointError::LfsPointer { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Reads the file `path`; `None` if it does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match read_at_most(path, FILE_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn refused(path: &Path, source: std::io::Error) -> CheckpointError {
    let path = path.to_owned();
    match Refusal::of(&source) {
        Some(&Refusal::NotAFile { found }) => CheckpointError::NotAFile { path, found },
        Some(&Refusal::TooLarge { bytes_max, found }) => CheckpointError::TooLarge { path, bytes_max, found },
        Some(Refusal::Outside { .. }) | None => CheckpointError::Io { path, source },
    }
}
