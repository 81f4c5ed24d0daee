//! Layers of Swin Transformer v2.

use super::windows::Windows;
use super::{Added, MASKED, context, heads, with_padding};
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Value};
use crate::towers::builder::Builder;

/// Width of the network that computes position biases.
const BIAS_WIDTH: usize = 512;

/// Largest position bias: the network ends in a sigmoid times this.
const BIAS_MAX: f32 = 16.0;

/// Distances are 8 at most before the logarithm is taken.
const DISTANCE_MAX: f32 = 8.0;

/// Cosines are multiplied by 100 at most.
const COSINE_FACTOR_MAX: f32 = 100.0;

/// Rows are divided by their norm, or by this if it is larger: the default of `torch.nn.functional.normalize`.
const NORM_MIN: f32 = 1e-12;

/// A layer with layer norm after each block and attention by cosines within windows. `farthest` is the distance that position
/// biases count as 1.
pub(super) fn layer(
    builder: &mut Builder<'_>,
    x: &Value,
    name: &str,
    (windows, farthest): (&Windows, usize),
    (encoder, qkv_bias): (&EncoderConfig, bool),
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("{name}.{part}");
    // Padding takes part in attention, with the keys and values of zeros.
    let states = with_padding(builder, &named("attention"), x, windows.is_padded());
    let parts = heads(builder, &states, name, windows, (encoder, [qkv_bias, false, qkv_bias]))?;
    let [query, key, value] = parts;
    let query = normalized(builder, &named("attention.self.query"), &query, 4);
    let key = normalized(builder, &named("attention.self.key"), &key, 3);
    let factors = cosine_factors(builder, &named("attention.self.logit_scale"), encoder.heads)?;
    let query = builder.graph.node("Mul", &named("attention.self.query.scaled"), &[&query, &factors], &[]);
    let biases =
        biases(builder, &named("attention.self.continuous_position_bias_mlp"), windows, farthest, encoder.heads)?;
    // The reference adds the mask twice.
    let added = Added { biases, masked: 2.0 * MASKED };
    let context = context(builder, name, [&query, &key, &value], (windows, encoder), &added);
    let hidden = encoder.hidden_size;
    let attended = builder.linear(&named("attention.output.dense"), &context, [hidden, hidden], true)?;
    let attended = builder.layer_norm(&named("layernorm_before"), &attended, encoder)?;
    let x = builder.graph.node("Add", &named("attention"), &[x, &attended], &[]);
    let y = builder.feed_forward([&named("intermediate.dense"), &named("output.dense")], &x, encoder, None)?;
    let y = builder.layer_norm(&named("layernorm_after"), &y, encoder)?;
    Ok(builder.graph.node("Add", &named("output"), &[&x, &y], &[]))
}

/// Divides `x` by its L2 norms along `axis`.
fn normalized(builder: &mut Builder<'_>, name: &str, x: &Value, axis: i64) -> Value {
    let graph = &mut builder.graph;
    let axes = graph.list(&format!("index_{axis}"), &[axis]);
    let least = graph.scalar("least_norm", NORM_MIN);
    let norms = graph.node("ReduceL2", &format!("{name}.norms"), &[x, &axes], &[("keepdims", Attribute::Int(1))]);
    let norms = graph.node("Max", &format!("{name}.divisors"), &[&norms, &least], &[]);
    graph.node("Div", &format!("{name}.normalized"), &[x, &norms], &[])
}

/// The factor of each head's cosines [1, 1, heads, 1, 1].
fn cosine_factors(builder: &mut Builder<'_>, name: &str, heads: usize) -> Result<Value, CheckpointError> {
    let scales = builder.tensor(name, &[heads, 1, 1])?;
    let factors: Vec<f32> = scales.iter().map(|scale| scale.min(COSINE_FACTOR_MAX.ln()).exp()).collect();
    Ok(builder.graph.floats(&format!("{name}.factors"), &[1, 1, heads, 1, 1], &factors))
}

/// The biases of all pairs of tokens [heads, tokens, tokens]: the network `name` of their logarithmic distances.
fn biases(
    builder: &Builder<'_>,
    name: &str,
    windows: &Windows,
    farthest: usize,
    heads: usize,
) -> Result<Vec<f32>, CheckpointError> {
    let inner = builder.tensor(&format!("{name}.0.weight"), &[BIAS_WIDTH, 2])?;
    let inner_bias = builder.tensor(&format!("{name}.0.bias"), &[BIAS_WIDTH])?;
    let outer = builder.tensor(&format!("{name}.2.weight"), &[heads, BIAS_WIDTH])?;
    let coordinates: Vec<f32> =
        (0..2 * windows.side - 1).map(|at| logarithmic(at as f32 - (windows.side - 1) as f32, farthest)).collect();
    let mut table = Vec::with_capacity(windows.distances() * heads);
    for down in &coordinates {
        for across in &coordinates {
            let row = inner.as_chunks::<2>().0.iter().zip(&inner_bias);
            let units: Vec<f32> = row.map(|([a, b], bias)| (a * down + b * across + bias).max(0.0)).collect();
            table.extend(outer.chunks_exact(BIAS_WIDTH).map(|weights| {
                let sum: f64 = weights.iter().zip(&units).map(|(w, x)| f64::from(w * x)).sum();
                BIAS_MAX / (1.0 + (-sum as f32).exp())
            }));
        }
    }
    Ok(windows.biases(&table))
}

/// A distance along an axis, in the network's units.
fn logarithmic(distance: f32, farthest: usize) -> f32 {
    let share = if farthest > 0 { distance / farthest as f32 } else { distance };
    let distance = share * DISTANCE_MAX;
    // With a distance of 0, the sign does not matter.
    distance.signum() * (distance.abs() + 1.0).log2() / DISTANCE_MAX.log2()
}
