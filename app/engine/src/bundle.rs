//! The model bundle: its manifest, its reader and its writer.
//!
//! A bundle is a directory, or the same files in one `.tar`: `bundle.json` (the [`Manifest`]), two ONNX towers,
//! a tokenizer and a model card. Opening one checks the format version, every field and the size of every file;
//! reading a file checks its SHA-256. Whatever fails a check is refused with the file, what was expected and what
//! was found, and no byte of it is used.

mod archive;
mod content;
mod kind;
mod manifest;
mod non_bundle;
mod read;
mod write;

pub use archive::Archive;
pub use kind::TowerKind;
pub use manifest::{
    Architecture, Calibration, Dim, Dtype, FORMAT_VERSION, FileEntry, LayerKind, LayerStorage, Lowercase,
    MANIFEST_FILE, Manifest, Override, Padding, PaddingSide, Positions, Quantization, SiglipSteps, Source, TEXT_INPUTS,
    TOKENS_MAX, TensorSpec, TokenizerSpec, Tower, Weights,
};
pub use non_bundle::describe_non_bundle;
pub use read::Bundle;
pub use write::{Contents, NewFile, Part, Writer, write};

use std::path::PathBuf;

/// Why a bundle was refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file could not be opened, read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path is neither a bundle directory nor a `.tar` of one.
    #[error("{path}: not a bundle: expected a directory or .tar that holds {MANIFEST_FILE}; found {found}")]
    NotABundle {
        /// The path as given.
        path: String,
        /// What is there.
        found: String,
    },
    /// The manifest is not JSON of the expected form.
    #[error("{path}: not a valid manifest")]
    Json {
        /// The manifest's path.
        path: String,
        /// The parser's message, with line and column.
        source: serde_json::Error,
    },
    /// The manifest has another format version.
    #[error(
        "{path}: bundle format version {found} is not one that this program reads (it reads {FORMAT_VERSION}): \
         export the checkpoint again with the model-prep of this release"
    )]
    Version {
        /// The manifest's path.
        path: String,
        /// The version found.
        found: u64,
    },
    /// A manifest field has a value that cannot be right.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Field {
        /// The manifest's path.
        path: String,
        /// The field, with dots.
        field: &'static str,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file of the bundle is not what the manifest says.
    #[error("{path}: {what}: expected {expected}, found {found}; the bundle is damaged, copy or export it again")]
    Content {
        /// The file.
        path: String,
        /// What was compared: size or SHA-256.
        what: &'static str,
        /// The manifest's value.
        expected: String,
        /// The file's value.
        found: String,
    },
}

#[cfg(test)]
pub(crate) mod tests;
