//! Why a command failed.

use std::path::PathBuf;

use spotter_engine::bundle::BundleError;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::tower::TowerError;

use crate::checkpoint::CheckpointError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An ONNX tower was refused.
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    /// The towers do not share one embedding space.
    #[error(
        "image embeddings have {image} values, text embeddings {text}: they must share one space; name a projection"
    )]
    Spaces {
        /// Width of the image tower's output.
        image: usize,
        /// Width of the text tower's output.
        text: usize,
    },
    /// The bundle was refused or could not be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tower could not be loaded or run.
    #[error(transparent)]
    Tower(#[from] TowerError),
    /// The recipe for pictures cannot be carried out.
    #[error("preprocessor_config.json")]
    Preprocess(#[from] PreprocessError),
    /// A file cannot be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder for a new checkpoint holds something else.
    #[error("{}: in the way: expected no folder or an empty one; name another", .path.display())]
    InTheWay {
        /// The folder.
        path: PathBuf,
    },
    /// The goldens are not what this program compares with.
    #[error("{}: {what}: expected {expected}, found {found}", .path.display())]
    Goldens {
        /// The file.
        path: PathBuf,
        /// A tensor, or the file itself.
        what: String,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// There is nothing to calibrate on.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Calibration {
        /// The folder.
        path: PathBuf,
        /// What would do.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Every weight stays a float.
    #[error("--calibrate chooses which layers stay floats, and with f32 weights all do: leave one of the two out")]
    NothingToCalibrate,
    /// Bundle and checkpoint do not belong together.
    #[error("{}: {what}: expected {expected} as in the checkpoint, found {found}; name the checkpoint it was made of",
        .bundle.display())]
    OtherModel {
        /// The bundle.
        bundle: PathBuf,
        /// What differs.
        what: &'static str,
        /// The checkpoint's value.
        expected: String,
        /// The bundle's value.
        found: String,
    },
}
