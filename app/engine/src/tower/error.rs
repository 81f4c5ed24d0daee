//! Why a tower could not be loaded or run.

use crate::bundle::{BundleError, TowerKind};
use crate::tokenize::TokenizeError;

/// Why a tower could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// A file of the bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The tokenizer cannot be used, or refused a prompt.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The graph cannot be read or prepared.
    #[error("{tower} tower: the ONNX graph cannot be prepared: {message}")]
    Load {
        /// The tower.
        tower: TowerKind,
        /// The problem, outermost cause first.
        message: String,
    },
    /// The graph's inputs, outputs or tables differ from the manifest.
    #[error("{tower} tower: {what}: expected {expected} as the manifest says, found {found} in the ONNX graph")]
    Mismatch {
        /// The tower.
        tower: TowerKind,
        /// The property that differs.
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
        /// Values expected.
        expected: usize,
        /// Values passed.
        found: usize,
    },
    /// tract failed while running the graph.
    #[error("{tower} tower: the run failed: {message}")]
    Run {
        /// The tower.
        tower: TowerKind,
        /// tract's messages, outermost cause first.
        message: String,
    },
    /// A token id, token type or position id has no row in its embedding table.
    #[error("text tower: {what} {found} is not in the table, which ends at {last}")]
    Token {
        /// Token id, token type or position id.
        what: &'static str,
        /// The value passed.
        found: i64,
        /// The largest valid value.
        last: usize,
    },
    /// There are no kernels of this name, or this CPU cannot run them.
    #[error("kernels {wanted:?} cannot be used here: this CPU runs {available}")]
    Kernels {
        /// The requested kernels.
        wanted: String,
        /// The kernels that this CPU runs.
        available: String,
    },
    /// The threads could not be started.
    #[error("cannot start {count} threads")]
    Threads {
        /// The requested number.
        count: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// The embedding is not finite, or all zeros: the weights or the input hold NaN or infinity.
    #[error("{tower} tower: the embedding is not finite or is zero; check the bundle with `model-prep verify`")]
    NotFinite {
        /// The tower.
        tower: TowerKind,
    },
    /// A tower cannot take layers from another one.
    #[error("{tower} tower: layers cannot be exchanged: {why}")]
    Exchange {
        /// The tower.
        tower: TowerKind,
        /// The reason.
        why: String,
    },
    /// The graph has no output before the division by the L2 norm.
    #[error("{tower} tower: this bundle has no features before normalisation; export the checkpoint again")]
    NoFeatures {
        /// The tower.
        tower: TowerKind,
    },
}
