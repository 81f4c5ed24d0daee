//! BERT and RoBERTa. Their graphs are the same, since position ids are an input.

use super::attention::{AttentionLayers, additive_mask};
use super::builder::Builder;
use crate::checkpoint::{Activation, BertConfig, CheckpointError, EncoderConfig};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for tokens [batch, sequence].
pub(super) fn pooled(builder: &mut Builder<'_>, config: &BertConfig) -> Result<Value, CheckpointError> {
    let (mut x, mut copy) = embeddings(builder, config)?;
    let mask = additive_mask(builder);
    for index in 0..config.encoder.layers {
        (x, copy) = layer(builder, [&x, &copy], &mask, index, &config.encoder)?;
    }
    builder.dense_pooler("text_model.pooler", &copy, config.encoder.hidden_size, Activation::Tanh)
}

/// The sum of word, token type and position embeddings, in the reference's order, with layer norm:
/// [batch, sequence, hidden].
fn embeddings(builder: &mut Builder<'_>, config: &BertConfig) -> Result<(Value, Value), CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let ids = ["input_ids", "token_type_ids", "position_ids"].map(|name| builder.input(name));
    let words = builder.embedding(&named("word_embeddings"), &ids[0], [config.vocab_size, hidden])?;
    let types = builder.float_embedding(&named("token_type_embeddings"), &ids[1], [config.type_vocab_size, hidden])?;
    let name = named("position_embeddings");
    let positions = builder.float_embedding(&name, &ids[2], [config.max_position_embeddings, hidden])?;
    let x = builder.graph.node("Add", &named("words_and_types"), &[&words, &types], &[]);
    let x = builder.graph.node("Add", &named("sum"), &[&x, &positions], &[]);
    normed_twice(builder, &named("LayerNorm"), &x, &config.encoder)
}

/// A layer with layer norm after each block. The last layer computes token 0 only.
fn layer(
    builder: &mut Builder<'_>,
    [x, copy]: [&Value; 2],
    mask: &Value,
    index: usize,
    encoder: &EncoderConfig,
) -> Result<(Value, Value), CheckpointError> {
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
    let (residual, queries) = first_tokens(builder, &named("token_0"), [x, copy], last);
    let attended = builder.attention(&layers, [&queries, copy], &[mask], encoder)?;
    let sum = builder.graph.node("Add", &named("attention.sum"), &[&attended, &residual], &[]);
    let (x, copy) = normed_twice(builder, &named("attention.output.LayerNorm"), &sum, encoder)?;
    let blocks = [&*named("intermediate.dense"), &named("output.dense")];
    let y = builder.feed_forward(blocks, &copy, encoder, None)?;
    let sum = builder.graph.node("Add", &named("output.sum"), &[&y, &x], &[]);
    last_or_twice(builder, &named("output.LayerNorm"), &sum, last, encoder)
}

/// The layer norm `name` of `x`, for the residual connection and for linear layers.
pub(super) fn normed_twice(
    builder: &mut Builder<'_>,
    name: &str,
    x: &Value,
    encoder: &EncoderConfig,
) -> Result<(Value, Value), CheckpointError> {
    let normed = builder.layer_norm(name, x, encoder)?;
    let copy = builder.copy_for_linears(name, x, &normed, encoder)?;
    Ok((normed, copy))
}

/// As [`normed_twice`]; after the last layer, the same value twice, as only the pooler reads it.
pub(super) fn last_or_twice(
    builder: &mut Builder<'_>,
    name: &str,
    x: &Value,
    last: bool,
    encoder: &EncoderConfig,
) -> Result<(Value, Value), CheckpointError> {
    if !last {
        return normed_twice(builder, name, x, encoder);
    }
    let normed = builder.layer_norm_for_linears(name, x, encoder)?;
    Ok((normed.clone(), normed))
}

/// The rows that the residual connection and the queries read: the first token in the last layer.
pub(super) fn first_tokens(
    builder: &mut Builder<'_>,
    name: &str,
    [x, copy]: [&Value; 2],
    last: bool,
) -> (Value, Value) {
    if !last {
        return (x.clone(), copy.clone());
    }
    let first = builder.first_token(name, x);
    if x == copy { (first.clone(), first) } else { (first, builder.first_token(&format!("{name}.divided"), copy)) }
}
