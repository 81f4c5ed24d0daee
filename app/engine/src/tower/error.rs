//! Why a tower could not be loaded or run.

use crate::bundle::{BundleError, TowerKind};
use crate::tokenize::TokenizeError;

/// Why a tower could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The bundle refused the file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The tokenizer is unusable, or refused a prompt.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The graph cannot be read or prepared.
    #[error("{tower} tower: the ONNX graph cannot be prepared: {message}")]
    Load {
        /// The tower.
        tower: TowerKind,
        /// What was found, outermost first.
        message: String,
    },
    /// The graph's inputs or output are not those of the manifest.
    #[error("{tower} tower: {what}: expected {expected} as the manifest says, found {found} in the ONNX graph")]
    Mismatch {
        /// The tower.
        tower: TowerKind,
        /// What was compared.
        what: String,
        /// The manifest's value.
        expected: String,
        /// The graph's value.
        found: String,
    },
    /// The input has the wrong number of values.
    #[error("{tower} tower: expected {expected} input values, found {found}")]
    Input {
        /// The tower.
        tower: TowerKind,
        /// Values wanted.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// tract failed while running the graph.
    #[error("{tower} tower: the run failed: {message}")]
    Run {
        /// The tower.
        tower: TowerKind,
        /// tract's messages, outermost first.
        message: String,
    },
    /// A token id or type is not in the table that it chooses from.
    #[error("text tower: {what} {found} is not in the table, which ends at {last}")]
    Token {
        /// Token id, token type or position id.
        what: &'static str,
        /// The value given.
        found: i64,
        /// The largest that is there.
        last: usize,
    },
    /// There is no such set of kernels, or this CPU cannot run it.
    #[error("kernels {wanted:?} cannot be used here: this CPU runs {available}")]
    Kernels {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The threads could not be started.
    #[error("cannot start {count} threads")]
    Threads {
        /// How many were asked for.
        count: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The embedding is not finite, or all zeros: the weights or the input hold NaN or infinity.
    #[error("{tower} tower: the embedding is not finite or is zero; check the bundle with `model-prep verify`")]
    NotFinite {
        /// The tower.
        tower: TowerKind,
    },
    /// Layers of two towers cannot be exchanged.
    #[error("{tower} tower: layers cannot be exchanged: {why}")]
    Exchange {
        /// The tower.
        tower: TowerKind,
        /// What stands against it.
        why: String,
    },
    /// The graph gives the embedding after its division by the L2 norm only.
    #[error("{tower} tower: this bundle has no features before normalisation; export the checkpoint again")]
    NoFeatures {
        /// The tower.
        tower: TowerKind,
    },
}
