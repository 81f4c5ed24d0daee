//! Files of a checkpoint, which comes from anywhere: only regular files are opened, and no more is read than any real
//! checkpoint has.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use spotter_engine::marks;

use super::CheckpointError;

/// For whole files that are held in memory. The largest tokenizers, of a million tokens, take half of it.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Opens a regular file, or a link to one as the Hugging Face cache has them; pipes and devices would never end.
pub(crate) fn open(path: &Path) -> Result<File, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let kind = std::fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let found = if kind.is_dir() { "a directory" } else { "neither a file nor a directory" };
        return Err(CheckpointError::NotAFile { path: path.to_owned(), found });
    }
    File::open(path).map_err(io)
}

/// The whole content of a file of at most `bytes_max` bytes.
pub(crate) fn read_at_most(path: &Path, bytes_max: u64) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let file = open(path)?;
    let size = file.metadata().map_err(io)?.len();
    if size > bytes_max {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes_max, found: size });
    }
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).map_err(io)?;
    if bytes.starts_with(marks::LFS) {
        return Err(CheckpointError::LfsPointer { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The content of `path`, or nothing where there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    match read_at_most(path, FILE_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
