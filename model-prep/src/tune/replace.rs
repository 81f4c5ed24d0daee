//! Files that are whole at any moment, however often they are replaced.

use std::path::{Path, PathBuf};

use super::error::TuneError;

/// Writes a file of these bytes aside and renames it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TuneError> {
    replace_by(path, |aside| {
        std::fs::write(aside, bytes).map_err(|source| TuneError::Io { path: aside.to_owned(), source })
    })
}

/// Replaces the file `path`, which is whole at any moment: `write` writes it aside, and it is renamed.
pub(super) fn replace_by(path: &Path, write: impl FnOnce(&Path) -> Result<(), TuneError>) -> Result<(), TuneError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    write(&aside)?;
    std::fs::rename(&aside, path).map_err(|source| TuneError::Io { path: path.to_owned(), source })
}
