//! Multi-head attention.

use super::builder::Builder;
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Value};

/// The four linear layers of an attention block.
pub(super) struct AttentionLayers {
    pub(super) query: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) output: String,
    /// True for each of query, key and value that has a bias.
    pub(super) biases: [bool; 3],
    /// The tensor that multiplies each channel of the output (layer scale), if there is one.
    pub(super) layer_scale: Option<String>,
}

impl Builder<'_> {
    /// Multi-head attention of `queries` [batch, n, hidden] over `states` [batch, m, hidden], including the output
    /// layer. The values `added`, such as masks and position biases, are added to the scores [batch, heads, n, m].
    pub(super) fn attention(
        &mut self,
        layers: &AttentionLayers,
        [queries, states]: [&Value; 2],
        added: &[&Value],
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let added: Vec<Value> = added.iter().map(|term| (*term).clone()).collect();
        self.attention_with(layers, [queries, states], |_, _| Ok(added), encoder)
    }

    /// Attention as [`Self::attention`] computes it, whose terms are made of the heads of queries [batch, heads, n, dim] and
    /// of keys [batch, heads, dim, m].
    pub(super) fn attention_with(
        &mut self,
        layers: &AttentionLayers,
        [queries, states]: [&Value; 2],
        added: impl FnOnce(&mut Self, [&Value; 2]) -> Result<Vec<Value>, CheckpointError>,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let square = [encoder.hidden_size; 2];
        let [split, merged] = self.head_shapes(encoder);
        let mut heads = |name: &str, x: &Value, bias: bool, perm: &[i64; 4]| {
            let x = self.linear(name, x, square, bias)?;
            Ok::<_, CheckpointError>(self.heads(name, &x, &split, perm))
        };
        let query = heads(&layers.query, queries, layers.biases[0], &[0, 2, 1, 3])?;
        let key = heads(&layers.key, states, layers.biases[1], &[0, 2, 3, 1])?;
        let value = heads(&layers.value, states, layers.biases[2], &[0, 2, 1, 3])?;
        self.same_storage(&[&layers.query, &layers.key, &layers.value]);
        let added = added(self, [&query, &key])?;
        let added: Vec<&Value> = added.iter().collect();
        let context = self.context([&layers.query, &layers.output], [&query, &key, &value], &added, &merged, encoder);
        self.divided_by(&layers.value, &context);
        self.scaled_linear(&layers.output, &context, square, true, layers.layer_scale.as_deref())
    }

    /// Puts the layers that compute queries, keys and values into one unit, so that they are stored alike: the engine
    /// computes attention in int8 only where all of them are integers ([`spotter_engine::onnx`]).
    pub(super) fn same_storage(&mut self, names: &[&str]) {
        let Some(first) = names.first() else { return };
        for layer in self.layers.iter_mut().filter(|layer| names.contains(&layer.name.as_str())) {
            (*first).clone_into(&mut layer.unit);
        }
    }

    /// The shapes [batch, n, heads, dim] and [batch, n, hidden].
    pub(super) fn head_shapes(&mut self, encoder: &EncoderConfig) -> [Value; 2] {
        let (hidden, heads) = (encoder.hidden_size as i64, encoder.heads as i64);
        // In Reshape, 0 keeps the extent of an axis.
        let split = self.graph.list("shape.split_heads", &[0, 0, heads, hidden / heads]);
        [split, self.graph.list("shape.merged_heads", &[0, 0, hidden])]
    }

    /// Splits `x` [batch, n, hidden] into heads [batch, n, heads, dim], then permutes the axes by `perm`.
    pub(super) fn heads(&mut self, name: &str, x: &Value, split: &Value, perm: &[i64; 4]) -> Value {
        let x = self.graph.node("Reshape", &format!("{name}.split"), &[x, split], &[]);
        self.graph.node("Transpose", &format!("{name}.heads"), &[&x], &[("perm", Attribute::Ints(perm))])
    }

    /// Scaled dot-product attention of queries [batch, heads, n, dim] over keys [batch, heads, dim, m] and values
    /// [batch, heads, m, dim], with merged heads: [batch, n, hidden]. Nodes are named after the first and last layer.
    pub(super) fn context(
        &mut self,
        [first, last]: [&str; 2],
        [query, key, value]: [&Value; 3],
        added: &[&Value],
        merged: &Value,
        encoder: &EncoderConfig,
    ) -> Value {
        let graph = &mut self.graph;
        let head_dim = encoder.hidden_size / encoder.heads;
        let named = |what: &str| format!("{last}.{what}");
        let scale = graph.scalar("attention_scale", (head_dim as f32).sqrt().recip());
        let query = graph.node("Mul", &format!("{first}.scaled"), &[query, &scale], &[]);
        let mut scores = graph.node("MatMul", &named("scores"), &[&query, key], &[]);
        for (index, term) in added.iter().enumerate() {
            scores = graph.node("Add", &named(&format!("scores_with_{index}")), &[&scores, term], &[]);
        }
        let shares = graph.node("Softmax", &named("probabilities"), &[&scores], &[("axis", Attribute::Int(-1))]);
        let context = graph.node("MatMul", &named("context"), &[&shares, value], &[]);
        let perm = [("perm", Attribute::Ints(&[0, 2, 1, 3]))];
        let context = graph.node("Transpose", &named("context_rows"), &[&context], &perm);
        graph.node("Reshape", &named("context_merged"), &[&context, merged], &[])
    }
}

/// The padding mask [batch, 1, 1, sequence]: 0 for a token, the lowest float for padding.
pub(super) fn additive_mask(builder: &mut Builder<'_>) -> Value {
    let mask = &builder.input("attention_mask");
    let graph = &mut builder.graph;
    // 1 is FLOAT in ONNX.
    let mask = graph.node("Cast", "attention_mask.float", &[mask], &[("to", Attribute::Int(1))]);
    let one = graph.scalar("one", 1.0);
    let padding = graph.node("Sub", "padding_mask", &[&one, &mask], &[]);
    let lowest = graph.scalar("lowest_float", f32::MIN);
    let mask = graph.node("Mul", "padding_mask.lowest", &[&padding, &lowest], &[]);
    let axes = graph.list("head_and_query_axes", &[1, 2]);
    graph.node("Unsqueeze", "additive_mask", &[&mask, &axes], &[])
}
