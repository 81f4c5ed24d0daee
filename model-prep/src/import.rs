//! Imports towers that other programs exported to ONNX: checks them, ends them as bundles require, and quantises them.
//!
//! Any architecture is accepted; graphs that the engine does not fuse are run by tract. The graph must be the float
//! one, take one image or one sequence of tokens, and return one row for each: the pooler output, or the projected
//! embedding.

mod error;
mod external;
mod file;
mod graph;
mod model;
mod quantized;
mod tower;

pub use self::error::ImportError;
pub use self::model::{OnnxFiles, OnnxModel, TowerSource};
pub use self::tower::{Options, Projection, TowerInput, tower};
