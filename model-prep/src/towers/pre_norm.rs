//! Layers with layer norm before each block.

use super::attention::AttentionLayers;
use super::builder::Builder;
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::Value;

/// Names of a layer's parts, appended to the layer's own name.
pub(super) struct LayerNames {
    pub(super) norms: [&'static str; 2],
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) output: &'static str,
    pub(super) feed_forward: [&'static str; 2],
}

/// ViT, DeiT and BEiT.
pub(super) const VIT_NAMES: LayerNames = LayerNames {
    norms: ["layernorm_before", "layernorm_after"],
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    output: "attention.output.dense",
    feed_forward: ["intermediate.dense", "output.dense"],
};

/// CLIP and SigLIP, in their image and text towers.
pub(super) const CLIP_NAMES: LayerNames = LayerNames {
    norms: ["layer_norm1", "layer_norm2"],
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.out_proj",
    feed_forward: ["mlp.fc1", "mlp.fc2"],
};

/// The tokens that a layer computes. The last layer needs only the one that is pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of them.
    All,
    /// The first one.
    First,
    /// The last one.
    Last,
}

impl Kept {
    /// The tokens that layer `index` computes in a tower that pools the first token.
    pub(super) fn for_first(index: usize, encoder: &EncoderConfig) -> Self {
        if index + 1 == encoder.layers { Self::First } else { Self::All }
    }
}

/// A layer with layer norm before each block.
pub(super) struct Layer<'a> {
    /// Its own name.
    pub(super) name: String,
    pub(super) names: &'a LayerNames,
    /// True for each of query, key and value that has a bias.
    pub(super) biases: [bool; 3],
    /// The tensors that multiply the output channels of each block (layer scale), if there are any.
    pub(super) scales: Option<[&'static str; 2]>,
    /// Masks and position biases that are added to the attention scores [batch, heads, queries, tokens].
    pub(super) added: &'a [&'a Value],
    pub(super) kept: Kept,
}

impl Layer<'_> {
    pub(super) fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    pub(super) fn scale(&self, block: usize) -> Option<String> {
        self.scales.map(|scales| self.named(scales[block]))
    }
}

impl Builder<'_> {
    /// Builds the whole layer.
    pub(super) fn pre_norm(
        &mut self,
        x: &Value,
        layer: &Layer<'_>,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let x = self.attention_block(x, layer, encoder)?;
        self.feed_forward_block(&x, layer, encoder)
    }

    /// Layer norm and attention, with the residual connection.
    pub(super) fn attention_block(
        &mut self,
        x: &Value,
        layer: &Layer<'_>,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let names = layer.names;
        let layers = AttentionLayers {
            query: layer.named(names.query),
            key: layer.named(names.key),
            value: layer.named(names.value),
            output: layer.named(names.output),
            biases: layer.biases,
            layer_scale: layer.scale(0),
        };
        let norm = layer.named(names.norms[0]);
        let states = self.layer_norm_for_linears(&norm, x, encoder)?;
        let (x, queries) = match layer.kept {
            Kept::All => (x.clone(), states.clone()),
            Kept::First => {
                let queries = self.first_token(&format!("{norm}.token_0"), &states);
                (self.first_token(&layer.named("token_0"), x), queries)
            }
            Kept::Last => {
                let queries = self.last_token(&format!("{norm}.last_token"), &states);
                (self.last_token(&layer.named("last_token"), x), queries)
            }
        };
        let attended = self.attention(&layers, [&queries, &states], layer.added, encoder)?;
        Ok(self.graph.node("Add", &layer.named("attention"), &[&x, &attended], &[]))
    }

    /// Layer norm and feed-forward block, with the residual connection.
    pub(super) fn feed_forward_block(
        &mut self,
        x: &Value,
        layer: &Layer<'_>,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let normed = self.layer_norm_for_linears(&layer.named(layer.names.norms[1]), x, encoder)?;
        let [up, down] = layer.names.feed_forward.map(|part| layer.named(part));
        let y = self.feed_forward([&up, &down], &normed, encoder, layer.scale(1).as_deref())?;
        Ok(self.graph.node("Add", &layer.named("output"), &[x, &y], &[]))
    }
}
