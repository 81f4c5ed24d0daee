//! Why tuning failed.

use std::path::PathBuf;

use spotter_engine::picture::DecodeError;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::tokenize::TokenizeError;

use crate::checkpoint::CheckpointError;
use crate::evaluate::EvaluateError;

/// Why tuning failed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The checkpoint was refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A step of the computation failed.
    #[error("the computation failed")]
    Compute(#[from] candle_core::Error),
    /// The set of images was refused.
    #[error(transparent)]
    Set(#[from] EvaluateError),
    /// The towers that do not change could not be run.
    #[error(transparent)]
    Frozen(#[from] crate::Error),
    /// An image cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An image cannot be preprocessed.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A sentence cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A file cannot be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A tower's architecture cannot be trained.
    #[error("{architecture} cannot be trained: it can only be locked; add --lock {lock}, or take another tower")]
    NotTrainable {
        /// The architecture.
        architecture: String,
        /// The value of `--lock` that leaves it alone.
        lock: &'static str,
    },
    /// An option has a value that does not fit.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The set has too little to learn from.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Data {
        /// The set.
        path: PathBuf,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The loss or a gradient is not a number.
    #[error(
        "step {step} (epoch {epoch}, batch {batch}): {what} is {value}: stopped; {} has the last good checkpoint. Use a \
         lower --lr or a longer --warmup, and look at the batch's first samples: {samples}",
        .kept.display()
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// The batch in the epoch, from 1.
        batch: u64,
        /// The loss, or the gradients.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Folder of the last good checkpoint.
        kept: PathBuf,
        /// Some samples of the batch.
        samples: String,
    },
    /// The state to resume from does not fit.
    #[error("{}: {what}: expected {expected}, found {found}; {advice}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// What this run has.
        expected: String,
        /// What the state has.
        found: String,
        /// What to do.
        advice: &'static str,
    },
}
