//! Why ONNX towers were refused.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::onnx::OPSET_INT4;

/// Why ONNX towers were refused.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file next to the towers was refused: of the image processor, the tokenizer or the model card.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file could not be read.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not ONNX.
    #[error("{}: not an ONNX file: {message}", .path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        message: String,
    },
    /// 4-bit integers need a newer operator set than exporters write.
    #[error(
        "{}: int4 needs operator set {}, and graphs of other exporters keep theirs: expected --weights int8 or f32, \
         found int4", .path.display(), OPSET_INT4
    )]
    Int4 {
        /// The file.
        path: PathBuf,
    },
    /// A part of the graph is not as required.
    #[error("{}: {what}: expected {expected}, found {found}", .path.display())]
    Graph {
        /// The file.
        path: PathBuf,
        /// An input, an output, a node or a constant.
        what: String,
        /// The accepted values.
        expected: String,
        /// A description of what was found.
        found: String,
    },
}
