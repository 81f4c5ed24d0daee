//! A finished tower, as an ONNX file with its description.

use spotter_engine::bundle::{Architecture, Dim, TensorSpec};

use crate::onnx::OnnxFile;
use crate::plan::{Layer, Site};

/// Outputs of an image tower: the normalised embedding, and the features before normalisation.
pub(crate) const IMAGE_OUTPUTS: [&str; 2] = ["image_embeds", "image_features"];

/// Outputs of a text tower, in the same order.
pub(crate) const TEXT_OUTPUTS: [&str; 2] = ["text_embeds", "text_features"];

/// A finished tower.
#[derive(Debug)]
pub struct TowerFile {
    /// Its architecture.
    pub architecture: Architecture,
    /// Inputs, in the order of the graph.
    pub inputs: Vec<TensorSpec>,
    /// The normalised embedding.
    pub output: TensorSpec,
    /// The features: the embedding before the division by its L2 norm.
    pub features: TensorSpec,
    /// The layers that a [`crate::plan::Plan`] names, in the order of the graph.
    pub layers: Vec<Layer>,
    /// Where scale can be moved from activations into weights, in the order of the graph.
    pub sites: Vec<Site>,
    /// The ONNX file.
    pub onnx: OnnxFile,
}

impl TowerFile {
    /// Width of the embedding.
    pub fn projection_dim(&self) -> usize {
        match self.output.shape.last() {
            Some(Dim::Fixed(width)) => *width,
            _ => 0,
        }
    }
}
