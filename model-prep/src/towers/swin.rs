//! Swin Transformer: attention within windows of a grid of tokens; every other layer shifts the windows by half.
//!
//! The second version has its layer norms after the blocks, attention by cosines, and position biases that a small network
//! computes from distances. The network's results are constant, so the graph has only these.

mod second;
mod windows;

use self::windows::Windows;
use super::builder::Builder;
use super::resample::Method;
use super::vision::PatchEmbedding;
use crate::checkpoint::{CheckpointError, EncoderConfig, SecondStage, SwinConfig};
use crate::onnx::{Attribute, Value};

/// Default epsilon of `torch.nn.LayerNorm`, used by the norms outside of layers.
const OUTER_EPS: f32 = 1e-5;

/// Added to the scores of tokens from opposite edges that a shifted window combines, as in the reference.
const MASKED: f32 = -100.0;

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width]: the mean of all tokens after the last
/// layer norm.
pub(super) fn pooled(builder: &mut Builder<'_>, pixels: &Value, config: &SwinConfig) -> Result<Value, CheckpointError> {
    let mut x = pixels.clone();
    let mut width = 0;
    let mut finer = [0; 2];
    let second = |index: usize| config.second.as_ref().and_then(|stages| stages.get(index));
    for (index, (encoder, grid)) in config.stages.iter().zip(config.grids()).enumerate() {
        x = if index == 0 {
            embeddings(builder, pixels, config, encoder)?
        } else {
            let name = format!("vision_model.encoder.layers.{}.downsample", index - 1);
            merged(builder, &x, &name, finer, (width, config.second.is_some()))?
        };
        (width, finer) = (encoder.hidden_size, grid);
        for block in 0..encoder.layers {
            let name = format!("vision_model.encoder.layers.{index}.blocks.{block}");
            let shifted = block % 2 == 1;
            x = match second(index) {
                None => {
                    // Not shifted if a side of the grid is not larger than a window.
                    let small = grid[0].min(grid[1]) <= config.window;
                    let shift = if shifted && !small { config.window / 2 } else { 0 };
                    let windows = Windows::new(grid, config.window, shift);
                    layer(builder, &x, &name, &windows, (encoder, config.qkv_bias))?
                }
                Some(SecondStage { window, shift, farthest }) => {
                    let windows = Windows::new(grid, *window, if shifted { *shift } else { 0 });
                    second::layer(builder, &x, &name, (&windows, *farthest), (encoder, config.qkv_bias))?
                }
            };
        }
    }
    let Some(encoder) = config.stages.last() else { return Ok(x) };
    let x = builder.final_layer_norm("vision_model.layernorm", &x, encoder)?;
    let x = builder.mean_from("vision_model.pooler", &x, 0);
    Ok(builder.only_row("vision_model.pooler", &x))
}

/// The patches with layer norm, and position embeddings if there are any: [batch, patches, width].
fn embeddings(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &SwinConfig,
    encoder: &EncoderConfig,
) -> Result<Value, CheckpointError> {
    let (hidden, patching) = (encoder.hidden_size, &config.patching);
    let padding = [0, 1].map(|axis| {
        let (side, patch) = (patching.image_size[axis], patching.patch_size[axis]);
        side.next_multiple_of(patch) - side
    });
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let x = builder.patches(pixels, &PatchEmbedding { name, patching, hidden, bias: true, padding })?;
    let outer = EncoderConfig { layer_norm_eps: OUTER_EPS, ..encoder.clone() };
    let x = builder.layer_norm("vision_model.embeddings.norm", &x, &outer)?;
    if !config.absolute_positions {
        return Ok(x);
    }
    let name = "vision_model.embeddings.position_embeddings";
    let table = builder.positions(name, [0, hidden], true, patching, Method::Bicubic)?;
    Ok(builder.add_table(name, &x, &table, hidden))
}

/// Merges 2 x 2 neighbouring tokens into one of twice the width. Neighbours beyond the grid are zero. The layer norm comes
/// before the linear layer, in the second version after it.
fn merged(
    builder: &mut Builder<'_>,
    x: &Value,
    name: &str,
    [rows, columns]: [usize; 2],
    (width, second): (usize, bool),
) -> Result<Value, CheckpointError> {
    let mut places = Vec::new();
    for row in (0..rows).step_by(2) {
        for column in (0..columns).step_by(2) {
            for [down, across] in [[0, 0], [1, 0], [0, 1], [1, 1]] {
                let (row, column) = (row + down, column + across);
                places.push((row < rows && column < columns).then_some(row * columns + column));
            }
        }
    }
    let x = with_padding(builder, name, x, places.contains(&None));
    let x = gathered(builder, name, &x, &places, rows * columns);
    let shape = builder.graph.list(&format!("{name}.shape"), &[0, -1, 4 * width as i64]);
    let x = builder.graph.node("Reshape", &format!("{name}.merged"), &[&x, &shape], &[]);
    let (norm, reduction) = (format!("{name}.norm"), format!("{name}.reduction"));
    if second {
        let x = builder.linear(&reduction, &x, [4 * width, 2 * width], false)?;
        let norm_of = (2 * width, OUTER_EPS);
        return builder.layer_norm_divided(&norm, &norm, &x, norm_of, None);
    }
    let x = builder.layer_norm_for_linears_of(&norm, &x, (4 * width, OUTER_EPS))?;
    builder.linear(&reduction, &x, [4 * width, 2 * width], false)
}

/// A layer with layer norm before each block and attention within `windows`.
fn layer(
    builder: &mut Builder<'_>,
    x: &Value,
    name: &str,
    windows: &Windows,
    (encoder, qkv_bias): (&EncoderConfig, bool),
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("{name}.{part}");
    let states = builder.layer_norm_for_linears(&named("layernorm_before"), x, encoder)?;
    // Padding takes part in attention, with the keys and values of zeros.
    let states = with_padding(builder, &named("attention"), &states, windows.is_padded());
    let context = attention(builder, &states, name, windows, (encoder, qkv_bias))?;
    let hidden = encoder.hidden_size;
    let attended = builder.linear(&named("attention.output.dense"), &context, [hidden, hidden], true)?;
    let x = builder.graph.node("Add", &named("attention"), &[x, &attended], &[]);
    let normed = builder.layer_norm_for_linears(&named("layernorm_after"), &x, encoder)?;
    let y = builder.feed_forward([&named("intermediate.dense"), &named("output.dense")], &normed, encoder, None)?;
    Ok(builder.graph.node("Add", &named("output"), &[&x, &y], &[]))
}

/// Attention within each window, without the output layer: [batch, tokens, hidden]. If the grid is padded, the input
/// `states` has a row of zeros after the tokens.
fn attention(
    builder: &mut Builder<'_>,
    states: &Value,
    layer: &str,
    windows: &Windows,
    (encoder, qkv_bias): (&EncoderConfig, bool),
) -> Result<Value, CheckpointError> {
    let head_dim = encoder.hidden_size / encoder.heads;
    let named = |part: &str| format!("{layer}.attention.self.{part}");
    let [query, key, value] = heads(builder, states, layer, windows, (encoder, [qkv_bias; 3]))?;
    let biases =
        windows.biases(&builder.tensor(&named("relative_position_bias_table"), &[windows.distances(), encoder.heads])?);
    let graph = &mut builder.graph;
    let scale = graph.scalar(&format!("attention_scale.{head_dim}"), (head_dim as f32).sqrt().recip());
    let query = graph.node("Mul", &named("query.scaled"), &[&query, &scale], &[]);
    Ok(context(builder, layer, [&query, &key, &value], (windows, encoder), &Added { biases, masked: MASKED }))
}

/// Queries and values of each window [batch, windows, heads, tokens, dim], and keys [batch, windows, heads, dim, tokens].
fn heads(
    builder: &mut Builder<'_>,
    states: &Value,
    layer: &str,
    windows: &Windows,
    (encoder, biases): (&EncoderConfig, [bool; 3]),
) -> Result<[Value; 3], CheckpointError> {
    let (hidden, count, area) = (encoder.hidden_size, windows.count(), windows.side * windows.side);
    let named = |part: &str| format!("{layer}.attention.self.{part}");
    let extents = [0, count as i64, area as i64, encoder.heads as i64, (hidden / encoder.heads) as i64];
    let split = builder.graph.list(&named("shape.split_heads"), &extents);
    let mut heads = |part: &str, bias: bool, perm: &[i64; 5]| {
        let name = named(part);
        let x = builder.linear(&name, states, [hidden, hidden], bias)?;
        let x = gathered(builder, &name, &x, &windows.places, windows.grid[0] * windows.grid[1]);
        let x = builder.graph.node("Reshape", &format!("{name}.split"), &[&x, &split], &[]);
        let perm = [("perm", Attribute::Ints(perm))];
        Ok::<_, CheckpointError>(builder.graph.node("Transpose", &format!("{name}.heads"), &[&x], &perm))
    };
    let query = heads("query", biases[0], &[0, 1, 3, 2, 4])?;
    let key = heads("key", biases[1], &[0, 1, 3, 4, 2])?;
    let value = heads("value", biases[2], &[0, 1, 3, 2, 4])?;
    builder.same_storage(&[&named("query"), &named("key"), &named("value")]);
    Ok([query, key, value])
}

/// What is added to the scores of attention.
struct Added {
    /// A bias for each head and pair of tokens [heads, tokens, tokens].
    biases: Vec<f32>,
    /// Added between tokens from opposite edges that a shifted window combines.
    masked: f32,
}

/// The attention of each window's scaled queries over its keys and values, as tokens of the grid [batch, tokens, hidden].
fn context(
    builder: &mut Builder<'_>,
    layer: &str,
    [query, key, value]: [&Value; 3],
    (windows, encoder): (&Windows, &EncoderConfig),
    added: &Added,
) -> Value {
    let (hidden, count, area) = (encoder.hidden_size, windows.count(), windows.side * windows.side);
    let named = |part: &str| format!("{layer}.attention.self.{part}");
    let graph = &mut builder.graph;
    let scores = graph.node("MatMul", &named("scores"), &[query, key], &[]);
    let biases = graph.floats(&named("position_biases"), &[1, 1, encoder.heads, area, area], &added.biases);
    let mut scores = graph.node("Add", &named("scores_with_biases"), &[&scores, &biases], &[]);
    if windows.shift > 0 {
        let mask = graph.floats(&named("mask"), &[1, count, 1, area, area], &windows.mask(added.masked));
        scores = graph.node("Add", &named("scores_with_mask"), &[&scores, &mask], &[]);
    }
    let shares = graph.node("Softmax", &named("probabilities"), &[&scores], &[("axis", Attribute::Int(-1))]);
    let context = graph.node("MatMul", &named("context"), &[&shares, value], &[]);
    let perm = [("perm", Attribute::Ints(&[0, 1, 3, 2, 4]))];
    let context = graph.node("Transpose", &named("context_rows"), &[&context], &perm);
    let merged = graph.list(&named("shape.merged_heads"), &[0, (count * area) as i64, hidden as i64]);
    let context = graph.node("Reshape", &named("context_merged"), &[&context, &merged], &[]);
    builder.divided_by(&named("value"), &context);
    gathered(builder, &named("context_tokens"), &context, &windows.inverse(), count * area)
}

/// Appends a row of zeros to `x` [batch, n, width], if `needed`.
fn with_padding(builder: &mut Builder<'_>, name: &str, x: &Value, needed: bool) -> Value {
    if !needed {
        return x.clone();
    }
    let pads = builder.graph.list("one_row_after", &[0, 0, 0, 0, 1, 0]);
    let padded = builder.graph.node("Pad", &format!("{name}.padded"), &[x, &pads], &[]);
    builder.same_channels(x, padded)
}

/// Gathers the tokens at `places` of `x` [batch, count, width]. `None` takes the row after the last token.
fn gathered(builder: &mut Builder<'_>, name: &str, x: &Value, places: &[Option<usize>], count: usize) -> Value {
    let places: Vec<i64> = places.iter().map(|place| place.unwrap_or(count) as i64).collect();
    if places.len() == count && places.iter().zip(0..).all(|(place, index)| *place == index) {
        return x.clone();
    }
    let places = builder.graph.list(&format!("{name}.places"), &places);
    let axis = [("axis", Attribute::Int(1))];
    let gathered = builder.graph.node("Gather", &format!("{name}.gathered"), &[x, &places], &axis);
    builder.same_channels(x, gathered)
}
