//! BERT and RoBERTa. Their graphs are the same, since position ids are an input.

use super::attention::{AttentionLayers, additive_mask};
use super::builder::Builder;
use super::distances::distances;
use crate::checkpoint::{Activation, BertConfig, BertPositions, CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Graph, Value};

/// The pooler output [batch, hidden] for tokens [batch, sequence].
pub(super) fn pooled(builder: &mut Builder<'_>, config: &BertConfig) -> Result<Value, CheckpointError> {
    let (mut x, mut copy) = embeddings(builder, config)?;
    let mask = additive_mask(builder);
    let distances = match config.positions {
        BertPositions::Absolute => None,
        BertPositions::RelativeKey | BertPositions::RelativeKeyQuery => {
            Some(distances(builder, config.max_position_embeddings))
        }
    };
    for index in 0..config.encoder.layers {
        (x, copy) = layer(builder, [&x, &copy], (&mask, distances.as_ref()), index, config)?;
    }
    builder.dense_pooler("text_model.pooler", &copy, config.encoder.hidden_size, Activation::Tanh)
}

/// The sum of word, token type and position embeddings, in the reference's order, with layer norm:
/// [batch, sequence, hidden].
fn embeddings(builder: &mut Builder<'_>, config: &BertConfig) -> Result<(Value, Value), CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let ids = ["input_ids", "token_type_ids"].map(|name| builder.input(name));
    let words = builder.embedding(&named("word_embeddings"), &ids[0], [config.vocab_size, hidden])?;
    let types = builder.float_embedding(&named("token_type_embeddings"), &ids[1], [config.type_vocab_size, hidden])?;
    // Tables are added to the file in this order.
    let positions = match config.positions {
        BertPositions::Absolute => {
            let ids = builder.input("position_ids");
            let name = named("position_embeddings");
            Some(builder.float_embedding(&name, &ids, [config.max_position_embeddings, hidden])?)
        }
        BertPositions::RelativeKey | BertPositions::RelativeKeyQuery => None,
    };
    let mut x = builder.graph.node("Add", &named("words_and_types"), &[&words, &types], &[]);
    if let Some(positions) = positions {
        x = builder.graph.node("Add", &named("sum"), &[&x, &positions], &[]);
    }
    normed_twice(builder, &named("LayerNorm"), &x, &config.encoder)
}

/// A layer with layer norm after each block. The last layer computes token 0 only.
fn layer(
    builder: &mut Builder<'_>,
    [x, copy]: [&Value; 2],
    (mask, distances): (&Value, Option<&Value>),
    index: usize,
    config: &BertConfig,
) -> Result<(Value, Value), CheckpointError> {
    let encoder = &config.encoder;
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
    let attended = match distances {
        None => builder.attention(&layers, [&queries, copy], &[mask], encoder)?,
        Some(distances) => {
            let name = named("attention.self.distance_embedding");
            let distances = if last { of_token_0(builder, distances) } else { distances.clone() };
            let added = |builder: &mut Builder<'_>, heads: [&Value; 2]| {
                let mut terms = distance_scores(builder, &name, heads, &distances, config)?;
                terms.push(mask.clone());
                Ok(terms)
            };
            builder.attention_with(&layers, [&queries, copy], added, encoder)?
        }
    };
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

/// The distances of token 0 from each key: [1, sequence].
fn of_token_0(builder: &mut Builder<'_>, distances: &Value) -> Value {
    let graph = &mut builder.graph;
    let (zero, one) = (graph.list("index_0", &[0]), graph.list("index_1", &[1]));
    graph.node("Slice", "distances.of_token_0", &[distances, &zero, &one, &zero], &[])
}

/// The terms that distances add to the scores [batch, heads, n, m]: the products of the table `name` with the heads of
/// queries [batch, heads, n, dim] and, if configured, of keys [batch, heads, dim, m].
fn distance_scores(
    builder: &mut Builder<'_>,
    name: &str,
    [query, key]: [&Value; 2],
    distances: &Value,
    config: &BertConfig,
) -> Result<Vec<Value>, CheckpointError> {
    let (rows, dim) = (2 * config.max_position_embeddings - 1, config.encoder.hidden_size / config.encoder.heads);
    let table = builder.tensor(&format!("{name}.weight"), &[rows, dim])?;
    // The reference counts how many tokens the query comes after the key, and divides all scores at the end.
    let scale = (dim as f32).sqrt().recip();
    let table: Vec<f32> = table.rchunks(dim).flatten().map(|value| value * scale).collect();
    let graph = &mut builder.graph;
    let named = |part: &str| format!("{name}.{part}");
    let table = graph.floats(&named("scaled"), &[rows, dim], &table);
    let found = graph.node("Gather", &named("found"), &[&table, distances], &[]);
    let mut terms = vec![products(graph, &named("of_queries"), query, &found, &[0, 2, 1])];
    if config.positions == BertPositions::RelativeKeyQuery {
        let swapped = [("perm", Attribute::Ints(&[0, 1, 3, 2]))];
        let key = graph.node("Transpose", &named("keys"), &[key], &swapped);
        let scores = products(graph, &named("of_keys"), &key, &found, &[1, 2, 0]);
        terms.push(graph.node("Transpose", &named("of_keys"), &[&scores], &swapped));
    }
    Ok(terms)
}

/// Multiplies each token's row of `heads` [batch, heads, tokens, dim] by a matrix of its own, a part of `found`
/// [n, m, dim] permuted to [tokens, dim, others]: [batch, heads, tokens, others].
fn products(graph: &mut Graph, name: &str, heads: &Value, found: &Value, perm: &[i64; 3]) -> Value {
    let axis = graph.list("index_3", &[3]);
    let perm = [("perm", Attribute::Ints(perm))];
    let matrices = graph.node("Transpose", &format!("{name}.matrices"), &[found], &perm);
    let rows = graph.node("Unsqueeze", &format!("{name}.rows"), &[heads, &axis], &[]);
    let products = graph.node("MatMul", &format!("{name}.products"), &[&rows, &matrices], &[]);
    graph.node("Squeeze", &format!("{name}.scores"), &[&products, &axis], &[])
}
