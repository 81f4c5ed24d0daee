//! MPNet: BERT with an attention bias that depends on the distance between tokens.

use super::attention::{AttentionLayers, additive_mask};
use super::bert::{first_tokens, last_or_twice, normed_twice};
use super::builder::Builder;
use super::distances::distances;
use crate::checkpoint::{Activation, CheckpointError, EncoderConfig, MpnetConfig};
use crate::onnx::{Attribute, Value};

/// Distances from here on share one bucket.
const DISTANCE_MAX: f32 = 128.0;

/// The pooler output [batch, hidden] for tokens [batch, sequence].
pub(super) fn pooled(builder: &mut Builder<'_>, config: &MpnetConfig) -> Result<Value, CheckpointError> {
    let (mut x, mut copy) = embeddings(builder, config)?;
    let mask = additive_mask(builder);
    let bias = position_bias(builder, config)?;
    for index in 0..config.encoder.layers {
        (x, copy) = layer(builder, [&x, &copy], [&bias, &mask], index, &config.encoder)?;
    }
    builder.dense_pooler("text_model.pooler", &copy, config.encoder.hidden_size, Activation::Tanh)
}

/// The sum of word and position embeddings, with layer norm: [batch, sequence, hidden].
fn embeddings(builder: &mut Builder<'_>, config: &MpnetConfig) -> Result<(Value, Value), CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let ids = ["input_ids", "position_ids"].map(|name| builder.input(name));
    let words = builder.embedding(&named("word_embeddings"), &ids[0], [config.vocab_size, hidden])?;
    let name = named("position_embeddings");
    let positions = builder.float_embedding(&name, &ids[1], [config.max_position_embeddings, hidden])?;
    let x = builder.graph.node("Add", &named("sum"), &[&words, &positions], &[]);
    normed_twice(builder, &named("LayerNorm"), &x, &config.encoder)
}

/// The bias of each pair of query and key [1, heads, sequence, sequence].
///
/// Stored as one row per distance, which is small, and looked up by the difference of indexes.
fn position_bias(builder: &mut Builder<'_>, config: &MpnetConfig) -> Result<Value, CheckpointError> {
    let (heads, positions) = (config.encoder.heads, config.max_position_embeddings);
    let name = "text_model.encoder.relative_attention_bias";
    let table = builder.tensor(&format!("{name}.weight"), &[config.buckets, heads])?;
    let farthest = positions as i64 - 1;
    let row = |distance: i64| &table[bucket(distance) * heads..][..heads];
    let rows: Vec<f32> = (-farthest..=farthest).flat_map(row).copied().collect();
    let distances = distances(builder, positions);
    let graph = &mut builder.graph;
    let rows = graph.floats(&format!("{name}.of_distance"), &[2 * positions - 1, heads], &rows);
    let zero = graph.list("index_0", &[0]);
    let bias = graph.node("Gather", &format!("{name}.found"), &[&rows, &distances], &[]);
    let perm = [("perm", Attribute::Ints(&[2, 0, 1]))];
    let bias = graph.node("Transpose", &format!("{name}.heads"), &[&bias], &perm);
    Ok(graph.node("Unsqueeze", name, &[&bias, &zero], &[]))
}

/// `MPNetEncoder.relative_position_bucket` of a key `distance` tokens after its query. Each direction has half of the
/// buckets; half of these hold one distance each, the others logarithmically growing ranges.
fn bucket(distance: i64) -> usize {
    let half = MpnetConfig::BUCKETS_USED / 2;
    let exact = half / 2;
    let side = if distance > 0 { half } else { 0 };
    let distance = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
    if distance < exact {
        return side + distance;
    }
    // In 32 bits and in this order, as in the reference.
    let share = (distance as f32 / exact as f32).ln() / f64::from(DISTANCE_MAX / exact as f32).ln() as f32;
    let bucket = exact + (share * (half - exact) as f32) as usize;
    side + bucket.min(half - 1)
}

/// A layer with layer norm after each block. The last layer computes token 0 only.
fn layer(
    builder: &mut Builder<'_>,
    [x, copy]: [&Value; 2],
    [bias, mask]: [&Value; 2],
    index: usize,
    encoder: &EncoderConfig,
) -> Result<(Value, Value), CheckpointError> {
    let named = |part: &str| format!("text_model.encoder.layer.{index}.{part}");
    let layers = AttentionLayers {
        query: named("attention.attn.q"),
        key: named("attention.attn.k"),
        value: named("attention.attn.v"),
        output: named("attention.attn.o"),
        biases: [true; 3],
        layer_scale: None,
    };
    let last = index + 1 == encoder.layers;
    let (residual, queries) = first_tokens(builder, &named("token_0"), [x, copy], last);
    let bias = if last {
        let graph = &mut builder.graph;
        let (zero, one, axis) = (graph.list("index_0", &[0]), graph.list("index_1", &[1]), graph.list("index_2", &[2]));
        graph.node("Slice", &named("token_0.bias"), &[bias, &zero, &one, &axis], &[])
    } else {
        bias.clone()
    };
    let attended = builder.attention(&layers, [&queries, copy], &[&bias, mask], encoder)?;
    let sum = builder.graph.node("Add", &named("attention.sum"), &[&attended, &residual], &[]);
    let (x, copy) = normed_twice(builder, &named("attention.LayerNorm"), &sum, encoder)?;
    let y = builder.feed_forward([&named("intermediate.dense"), &named("output.dense")], &copy, encoder, None)?;
    let sum = builder.graph.node("Add", &named("output.sum"), &[&y, &x], &[]);
    last_or_twice(builder, &named("output.LayerNorm"), &sum, last, encoder)
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// Values of `MPNetEncoder.relative_position_bucket` of transformers 4.56.2.
    #[test]
    fn buckets_of_distances() {
        let check = |distance: i64, expected: usize| assert_eq!(bucket(distance), expected, "{distance}");
        // The last distance of each bucket in one direction, the first in the other.
        for (distance, expected) in [
            (-600, 15),
            (-90, 14),
            (-63, 13),
            (-45, 12),
            (-31, 11),
            (-22, 10),
            (-15, 9),
            (-11, 8),
            (-7, 7),
            (-1, 1),
            (0, 0),
            (1, 17),
            (2, 18),
            (7, 23),
            (8, 24),
            (12, 25),
            (16, 26),
            (23, 27),
            (32, 28),
            (46, 29),
            (64, 30),
            (91, 31),
            (600, 31),
        ] {
            check(distance, expected);
        }
    }
}
