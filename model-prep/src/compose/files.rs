//! Writes small files of the new checkpoint.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Error;

/// Writes an object as indented JSON.
pub(super) fn write_json(path: &Path, object: &Map<String, Value>) -> Result<(), Error> {
    write(path, format!("{:#}\n", Value::from(object.clone())).as_bytes())
}

/// Writes a whole file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
}
