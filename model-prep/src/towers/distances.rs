//! Distances between the tokens of a sequence.

use super::builder::Builder;
use super::clip_text::{places, sequence_length};
use crate::onnx::Value;

/// For each pair of a query and a key, how many tokens the key comes after the query, plus `positions` - 1:
/// [sequence, sequence], from 0 to `2 * positions - 2`.
pub(super) fn distances(builder: &mut Builder<'_>, positions: usize) -> Value {
    let length = sequence_length(builder);
    let places = places(builder, &length, positions);
    let graph = &mut builder.graph;
    let (zero, one) = (graph.list("index_0", &[0]), graph.list("index_1", &[1]));
    let keys = graph.node("Unsqueeze", "places.of_keys", &[&places, &zero], &[]);
    let queries = graph.node("Unsqueeze", "places.of_queries", &[&places, &one], &[]);
    let distances = graph.node("Sub", "distances", &[&keys, &queries], &[]);
    let farthest = graph.list("farthest", &[positions as i64 - 1]);
    graph.node("Add", "distances.from_0", &[&distances, &farthest], &[])
}
