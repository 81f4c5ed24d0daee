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
    /// The image tower failed on a picture that could be read.
    #[error("{}", .file.display())]
    Picture {
        /// The picture.
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
    /// The bundle's recipe for pictures cannot be carried out.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A file or folder could not be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder does not hold what can be evaluated.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A line of a file cannot be understood.
    #[error("{}:{line}: expected {expected}, found {found}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Not a single picture could be read.
    #[error("{}: none of {count} pictures can be read; the first is {}: {why}", .folder.display(), .first.display())]
    Unreadable {
        /// The set's folder.
        folder: PathBuf,
        /// How many there are.
        count: usize,
        /// The first of them.
        first: PathBuf,
        /// Why it cannot be read.
        why: String,
    },
    /// An option does not go with the set.
    #[error("{option} cannot be used here: {why}")]
    Misplaced {
        /// The option.
        option: &'static str,
        /// What it is for.
        why: &'static str,
    },
}
