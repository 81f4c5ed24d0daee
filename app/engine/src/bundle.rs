//! The model bundle: its manifest, its reader and its writer.
//!
//! A bundle is a directory, or the same files in one `.tar`: `bundle.json` (the [`Manifest`]), two ONNX towers,
//! a tokenizer and a model card. Opening one checks the format version, every field and the size of every file;
//! reading a file checks its SHA-256. A failed check is an error that names the file, the expected and the found value;
//! nothing of such a file is used.

mod archive;
mod content;
mod kind;
mod manifest;
mod non_bundle;
mod quantization;
mod read;
mod tensor_spec;
mod validate;
mod write;

pub use archive::Archive;
pub use kind::TowerKind;
pub use manifest::{
    AdaptedLabel, Architecture, FORMAT_VERSION, FileEntry, Lowercase, MANIFEST_FILE, Manifest, Override, Padding,
    PaddingSide, Positions, SiglipSteps, Source, TEXT_INPUTS, TOKENS_MAX, TokenizerSpec, Tower, TruncationSide,
};
pub use non_bundle::describe_non_bundle;
pub use quantization::{Calibration, LayerKind, LayerStorage, Quantization, Weights};
pub use read::Bundle;
pub use tensor_spec::{Dim, Dtype, TensorSpec};
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
        /// The system's error.
        source: std::io::Error,
    },
    /// The path is neither a bundle directory nor a `.tar` of one.
    #[error("{path}: not a bundle: expected a directory or .tar that holds {MANIFEST_FILE}; found {found}")]
    NotABundle {
        /// The path as given.
        path: String,
        /// A description of what was found.
        found: String,
    },
    /// The manifest is not JSON, or has an unknown or missing field, or one of another type.
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
    /// A manifest field has an invalid value.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Field {
        /// The manifest's path.
        path: String,
        /// Path of the field, with dots.
        field: &'static str,
        /// The accepted values.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A file of the bundle differs from the manifest.
    #[error("{path}: {what}: expected {expected}, found {found}; the bundle is damaged, copy or export it again")]
    Content {
        /// The file.
        path: String,
        /// The property that differs.
        what: FileProperty,
        /// The manifest's value.
        expected: String,
        /// The file's value.
        found: String,
    },
}

/// A property of a file that the manifest fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileProperty {
    /// Size in bytes.
    Size,
    /// SHA-256 of the content.
    Sha256,
}

impl std::fmt::Display for FileProperty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Size => "size",
            Self::Sha256 => "SHA-256",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
