//! BERT and RoBERTa. Their graphs are the same, since position ids are an input.

use super::attention::{AttentionLayers, additive_mask};
use super::builder::Builder;
use crate::checkpoint::{Activation, BertConfig, CheckpointError, EncoderConfig};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for tokens [batch, sequence].
pub(super) fn pooled(builder: &mut Builder<'_>, config: &BertConfig) -> Result<Value, CheckpointError> {
    let mut x = embeddings(builder, config)?;
    let mask = additive_mask(builder);
    for index in 0..config.encoder.layers {
        x = layer(builder, &x, &mask, index, &config.encoder)?;
    }
    builder.dense_pooler("text_model.pooler", &x, config.encoder.hidden_size, Activation::Tanh)
}

/// The sum of word, token type and position embeddings, in the reference's order, with layer norm:
/// [batch, sequence, hidden].
fn embeddings(builder: &mut Builder<'_>, config: &BertConfig) -> Result<Value, CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let ids = ["input_ids", "token_type_ids", "position_ids"].map(|name| builder.input(name));
    let words = builder.embedding(&named("word_embeddings"), &ids[0], [config.vocab_size, hidden])?;
    let types = builder.float_embedding(&named("token_type_embeddings"), &ids[1], [config.type_vocab_size, hidden])?;
    let name = named("position_embeddings");
    let positions = builder.float_embedding(&name, &ids[2], [config.max_position_embeddings, hidden])?;
    let x = builder.graph.node("Add", &named("words_and_types"), &[&words, &types], &[]);
    let x = builder.graph.node("Add", &named("sum"), &[&x, &positions], &[]);
    builder.layer_norm(&named("LayerNorm"), &x, &config.encoder)
}

/// A layer with layer norm after each block. The last layer computes token 0 only.
fn layer(
    builder: &mut Builder<'_>,
    x: &Value,
    mask: &Value,
    index: usize,
    encoder: &EncoderConfig,
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("text_model.encoder.layer.{index}.{part}");
    let layers = AttentionLayers {
        query: named("attention.self.query"),
        key: named("attention.self.key"),
        value: named("attention.self.value"),
        output: named("attention.output.dense"),
        biases: [true; 3],
        layer_scale: None,
    };
    let last = index + 1 == encoder.layers;
    let queries = if last { builder.first_token(&named("token_0"), x) } else { x.clone() };
    let attended = builder.attention(&layers, [&queries, x], &[mask], encoder)?;
    let sum = builder.graph.node("Add", &named("attention.sum"), &[&attended, &queries], &[]);
    let x = builder.layer_norm(&named("attention.output.LayerNorm"), &sum, encoder)?;
    let blocks = [&*named("intermediate.dense"), &named("output.dense")];
    let y = builder.feed_forward(blocks, &x, encoder, None)?;
    let sum = builder.graph.node("Add", &named("output.sum"), &[&y, &x], &[]);
    builder.layer_norm(&named("output.LayerNorm"), &sum, encoder)
}
