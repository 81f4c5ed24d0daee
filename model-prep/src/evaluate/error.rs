//! Why an evaluation failed.

use std::path::PathBuf;

use spotter_engine::bundle::BundleError;
use spotter_engine::labels::LabelError;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::tower::TowerError;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A bundle was refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tower could not be loaded or run.
    #[error(transparent)]
    Tower(#[from] TowerError),
    /// The image tower failed on an image that could be read.
    #[error("{}", .file.display())]
    Image {
        /// The image's file.
        file: PathBuf,
        /// The tower's error.
        source: TowerError,
    },
    /// The text tower failed on a sentence.
    #[error("sentence {sentence:?}")]
    Sentence {
        /// The sentence.
        sentence: String,
        /// The tower's error.
        source: TowerError,
    },
    /// A class has no embedding.
    #[error(transparent)]
    Label(Box<LabelError<TowerError>>),
    /// The bundle's preprocessing is not possible.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A file or folder could not be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A folder does not hold a set that can be evaluated.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The accepted values.
        expected: String,
        /// A description of what was found.
        found: String,
    },
    /// A line of a file cannot be parsed.
    #[error("{}:{line}: expected {expected}, found {found}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The accepted values.
        expected: String,
        /// A description of what was found.
        found: String,
    },
    /// None of the images could be read.
    #[error("{}: none of {count} images can be read; the first is {}: {why}", .folder.display(), .first.display())]
    Unreadable {
        /// The set's folder.
        folder: PathBuf,
        /// Number of images.
        count: usize,
        /// The first of them.
        first: PathBuf,
        /// Why it cannot be read.
        why: String,
    },
    /// An option does not apply to the set.
    #[error("{option} cannot be used here: {why}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// Why it does not apply.
        why: &'static str,
    },
}
