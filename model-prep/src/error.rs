//! Errors of exporting, composing and verifying.

use std::path::PathBuf;

use spotter_engine::bundle::BundleError;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::tower::TowerError;

use crate::checkpoint::CheckpointError;

/// Why a model could not be exported, composed or verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An ONNX tower was refused.
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    /// The embeddings of the two towers differ in width.
    #[error(
        "image embeddings have {image} values, text embeddings {text}: expected the same number; give a projection"
    )]
    Spaces {
        /// Width of the image embeddings.
        image: usize,
        /// Width of the text embeddings.
        text: usize,
    },
    /// The bundle was refused or could not be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tower could not be loaded or run.
    #[error(transparent)]
    Tower(#[from] TowerError),
    /// The preprocessing is not possible.
    #[error("preprocessor_config.json")]
    Preprocess(#[from] PreprocessError),
    /// A file cannot be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The folder for a new checkpoint exists and is not empty.
    #[error("{}: exists already: expected no folder or an empty one; use another --out", .path.display())]
    InTheWay {
        /// The folder.
        path: PathBuf,
    },
    /// The file of goldens is not usable.
    #[error("{}: {what}: expected {expected}, found {found}", .path.display())]
    Goldens {
        /// The file.
        path: PathBuf,
        /// The tensor, or the file.
        what: String,
        /// The accepted values.
        expected: String,
        /// A description of what was found.
        found: String,
    },
    /// The folder has nothing to calibrate on.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Calibration {
        /// The folder.
        path: PathBuf,
        /// The accepted values.
        expected: &'static str,
        /// A description of what was found.
        found: String,
    },
    /// Calibration was requested, but all weights are stored as floats.
    #[error("--calibrate chooses layers to keep in float, and with f32 weights all are: leave one of the two out")]
    NothingToCalibrate,
    /// The bundle was not exported from the checkpoint.
    #[error(
        "{}: {what}: expected {expected} as in the checkpoint, found {found}; pass the checkpoint it was exported from",
        .bundle.display()
    )]
    OtherModel {
        /// The bundle.
        bundle: PathBuf,
        /// The value that differs.
        what: &'static str,
        /// The checkpoint's value.
        expected: String,
        /// The bundle's value.
        found: String,
    },
}
