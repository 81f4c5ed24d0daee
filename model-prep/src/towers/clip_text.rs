//! CLIP's text tower.

use super::attention::additive_mask;
use super::builder::Builder;
use super::clip_layer::layer;
use super::pre_norm::Kept;
use crate::checkpoint::{CheckpointError, ClipPooling, ClipTextConfig};
use crate::onnx::{Attribute, Value};

/// ONNX element types.
const FLOAT: i64 = 1;
const INT32: i64 = 6;

/// The pooler output [batch, hidden]: the hidden state of the end-of-text token.
pub(super) fn pooled(builder: &mut Builder<'_>, config: &ClipTextConfig) -> Result<Value, CheckpointError> {
    let positions = config.max_position_embeddings;
    let mut x = embeddings(builder, [config.vocab_size, positions, config.encoder.hidden_size])?;
    let length = sequence_length(builder);
    let masks = [additive_mask(builder), causal_mask(builder, &length, positions)];
    for index in 0..config.encoder.layers {
        let prefix = format!("text_model.encoder.layers.{index}");
        x = layer(builder, &prefix, &x, &masks.each_ref(), Kept::All, &config.encoder)?;
    }
    let x = builder.final_layer_norm("text_model.final_layer_norm", &x, &config.encoder)?;
    let chosen = place(builder, config.pooling);
    let places = places(builder, &length, positions);
    let graph = &mut builder.graph;
    // A product with a one-hot row: selects one token per row of the batch with operators that every runtime has.
    let chosen = graph.node("Equal", "pooled_token", &[&places, &chosen], &[]);
    let chosen = graph.node("Cast", "pooled_token.float", &[&chosen], &[("to", Attribute::Int(FLOAT))]);
    let axis = graph.list("index_1", &[1]);
    let chosen = graph.node("Unsqueeze", "pooled_token.row", &[&chosen, &axis], &[]);
    let pooled = graph.node("MatMul", "pooled", &[&chosen, &x], &[]);
    let pooled = builder.same_channels(&x, pooled);
    Ok(builder.only_row("pooled", &pooled))
}

/// The sum of token and position embeddings: [batch, sequence, hidden].
pub(super) fn embeddings(
    builder: &mut Builder<'_>,
    [vocabulary, positions, hidden]: [usize; 3],
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let ids = ["input_ids", "position_ids"].map(|name| builder.input(name));
    let tokens = builder.embedding(&named("token_embedding"), &ids[0], [vocabulary, hidden])?;
    let positions = builder.float_embedding(&named("position_embedding"), &ids[1], [positions, hidden])?;
    Ok(builder.graph.node("Add", &named("sum"), &[&tokens, &positions], &[]))
}

/// The number of tokens [1].
pub(super) fn sequence_length(builder: &mut Builder<'_>) -> Value {
    let ids = &builder.input("input_ids");
    let axis = [("start", Attribute::Int(1)), ("end", Attribute::Int(2))];
    builder.graph.node("Shape", "sequence_length", &[ids], &axis)
}

/// The indexes 0, 1, 2, ... [sequence].
pub(super) fn places(builder: &mut Builder<'_>, length: &Value, positions: usize) -> Value {
    let graph = &mut builder.graph;
    let all: Vec<i64> = (0..).take(positions).collect();
    let all = graph.list("all_places", &all);
    let zero = graph.list("index_0", &[0]);
    graph.node("Slice", "places", &[&all, &zero, length, &zero], &[])
}

/// The causal mask [1, 1, sequence, sequence]: the lowest float if a key comes after its query, else 0.
fn causal_mask(builder: &mut Builder<'_>, length: &Value, positions: usize) -> Value {
    let row = |query: usize| (0..positions).map(move |key| if key > query { f32::MIN } else { 0.0 });
    let mask: Vec<f32> = (0..positions).flat_map(row).collect();
    let graph = &mut builder.graph;
    let mask = graph.floats("causal_mask.all", &[1, 1, positions, positions], &mask);
    let (zero, queries, keys) = (graph.list("index_0", &[0]), graph.list("index_2", &[2]), graph.list("index_3", &[3]));
    let mask = graph.node("Slice", "causal_mask.queries", &[&mask, &zero, length, &queries], &[]);
    graph.node("Slice", "causal_mask", &[&mask, &zero, length, &keys], &[])
}

/// Index of the pooled token [batch, 1].
fn place(builder: &mut Builder<'_>, pooling: ClipPooling) -> Value {
    let ids = builder.input("input_ids");
    let graph = &mut builder.graph;
    let values = match pooling {
        ClipPooling::LargestId => ids,
        ClipPooling::Eos(id) => {
            let id = graph.list("eos_token_id", &[id]);
            let found = graph.node("Equal", "is_eos", &[&ids, &id], &[]);
            graph.node("Cast", "is_eos.number", &[&found], &[("to", Attribute::Int(INT32))])
        }
    };
    graph.node("ArgMax", "pooled_place", &[&values], &[("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(1))])
}
