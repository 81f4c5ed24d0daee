//! How the weights of a bundle are stored, and what that costs: a part of `bundle.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Storage of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Symmetric 8-bit integers with one scale per output channel (per row of an embedding table).
    Int8,
    /// 4-bit integers with one scale per 32 inputs of an output channel (32 values of a row of an embedding table).
    /// Patch embeddings are stored as [`Self::Int8`].
    Int4,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    F32,
}

/// Kinds of layers with weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// A matrix product with weights.
    Linear,
    /// The convolution that turns patches into tokens.
    PatchEmbedding,
    /// A table whose rows are looked up by id.
    Embedding,
}

/// How the weights are quantised, and the loss, measured when the bundle was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// The scheme in words.
    pub recipe: String,
    /// Smallest cosine between this bundle's image embeddings and those of float weights, over the probe images.
    pub image_cosine_min: f32,
    /// Smallest cosine between this bundle's text embeddings and those of float weights, over the probe prompts.
    pub text_cosine_min: f32,
    /// Results of calibration on the user's images and prompts; absent without calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The layers that are stored in another way than [`Tower::weights`](super::Tower::weights) says, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exceptions: BTreeMap<String, Weights>,
    /// The layers that calibration chose a storage for; empty without calibration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerStorage>,
}

/// Basis and result of the choice of layers that stay in float.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Number of images.
    pub pictures: usize,
    /// Number of those images that single layers were measured on.
    pub pictures_per_layer: usize,
    /// Number of prompts.
    pub prompts: usize,
    /// The largest allowed `drop`.
    pub max_drop: f32,
    /// Percentage of images whose top-1 prompt differs from the one with float weights.
    pub drop: f32,
    /// The same with no layer kept in float.
    pub drop_without_floats: f32,
}

/// Storage of one layer, and the loss if it is stored as integers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerStorage {
    /// Name in the checkpoint.
    pub name: String,
    /// Kind of layer.
    pub kind: LayerKind,
    /// Storage of its weights.
    pub stored: Weights,
    /// 1 minus the mean cosine to float embeddings if only this layer is stored as integers. Layers that run as one, such
    /// as query, key and value, are measured together.
    pub cosine_loss: f32,
    /// Percentage of images whose top-1 prompt then differs.
    pub drop: f32,
    /// Bytes saved against float weights.
    pub bytes_saved: u64,
}
