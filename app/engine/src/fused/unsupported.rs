//! What ends the lowering of a graph.

use std::io;

use tract_onnx::pb;

/// Why a graph cannot be lowered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnsupportedGraph {
    /// Name of the node that is not supported.
    pub(crate) node: String,
    /// Operator of the node.
    pub(crate) op: String,
    /// The reason.
    pub(crate) why: String,
}

impl UnsupportedGraph {
    /// The caller asked for tract.
    pub(crate) fn on_request() -> Self {
        Self { node: String::new(), op: "the request".into(), why: "tract was asked for".into() }
    }

    /// The node `node` cannot be lowered.
    pub(super) fn at(node: &pb::NodeProto, why: String) -> Self {
        let name =
            if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() };
        Self { node: name, op: node.op_type.clone(), why }
    }
}

/// The result of lowering a part of a graph.
pub(super) type Lowered<T> = Result<T, Stop>;

/// Why lowering stopped.
pub(super) enum Stop {
    /// The file could not be read.
    Io(io::Error),
    /// A node is not supported.
    Unsupported(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) fn unsupported<T>(why: impl Into<String>) -> Lowered<T> {
    Err(Stop::Unsupported(why.into()))
}
