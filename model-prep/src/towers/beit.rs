//! BEiT.

use super::builder::Builder;
use super::pre_norm::{Kept, Layer, VIT_NAMES};
use super::resample::{Method, resampled};
use super::vision::PatchEmbedding;
use crate::checkpoint::{BeitConfig, CheckpointError};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width].
pub(super) fn pooled(builder: &mut Builder<'_>, pixels: &Value, config: &BeitConfig) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let mut x = embeddings(builder, pixels, config)?;
    let shared = if config.shared_biases { Some(biases(builder, "vision_model.encoder", config)?) } else { None };
    for index in 0..encoder.layers {
        let name = format!("vision_model.encoder.layer.{index}");
        let kept = if config.mean_pooling { Kept::All } else { Kept::for_first(index, encoder) };
        let added = added(builder, &name, config, shared.as_deref(), kept)?;
        let layer = Layer {
            name,
            names: &VIT_NAMES,
            biases: [true, false, true],
            scales: config.layer_scale.then_some(["lambda_1", "lambda_2"]),
            added: &added.iter().collect::<Vec<_>>(),
            kept,
        };
        x = builder.pre_norm(&x, &layer, encoder)?;
    }
    let pooler = "vision_model.pooler";
    let x = if config.mean_pooling {
        let x = builder.mean_from(pooler, &x, 1);
        builder.final_layer_norm(&format!("{pooler}.layernorm"), &x, encoder)?
    } else {
        builder.final_layer_norm("vision_model.layernorm", &x, encoder)?
    };
    Ok(builder.only_row(pooler, &x))
}

/// The class token and the patches, with position embeddings if there are any: [batch, 1 + patches, hidden].
fn embeddings(builder: &mut Builder<'_>, pixels: &Value, config: &BeitConfig) -> Result<Value, CheckpointError> {
    let (hidden, patching) = (config.encoder.hidden_size, &config.patching);
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let patches = PatchEmbedding { name, patching, hidden, bias: true, padding: [0, 0] };
    let x = builder.patches(pixels, &patches)?;
    let x = builder.rows_before(&x, 1);
    let name = "vision_model.embeddings.cls_token";
    let class = builder.tensor(name, &[1, 1, hidden])?;
    let mut table = if config.absolute_positions {
        let name = "vision_model.embeddings.position_embeddings";
        builder.positions(name, [1, hidden], true, patching, Method::Bicubic)?
    } else {
        vec![0.0; (1 + patching.patches()) * hidden]
    };
    table.iter_mut().zip(class).for_each(|(position, class)| *position += class);
    Ok(builder.add_table(&format!("{name}.with_positions"), &x, &table, hidden))
}

/// The position biases of a layer, its own plus the shared ones, as one constant [1, heads, queries, tokens].
fn added(
    builder: &mut Builder<'_>,
    layer: &str,
    config: &BeitConfig,
    shared: Option<&[f32]>,
    kept: Kept,
) -> Result<Option<Value>, CheckpointError> {
    let own = if config.layer_biases {
        Some(biases(builder, &format!("{layer}.attention.attention"), config)?)
    } else {
        None
    };
    let (values, name) = match (own, shared) {
        (None, None) => return Ok(None),
        (None, Some(shared)) => (shared.to_vec(), "vision_model.encoder".to_owned()),
        (Some(own), None) => (own, layer.to_owned()),
        (Some(own), Some(shared)) => (own.iter().zip(shared).map(|(a, b)| a + b).collect(), layer.to_owned()),
    };
    let (heads, tokens) = (config.encoder.heads, 1 + config.patching.patches());
    let name = format!("{name}.position_biases");
    if kept == Kept::All {
        return Ok(Some(builder.graph.floats(&name, &[1, heads, tokens, tokens], &values)));
    }
    let rows: Vec<f32> = values.chunks_exact(tokens * tokens).flat_map(|head| &head[..tokens]).copied().collect();
    Ok(Some(builder.graph.floats(&format!("{name}.token_0"), &[1, heads, 1, tokens], &rows)))
}

/// Relative position biases of all pairs of tokens [heads, tokens, tokens], from the table of `owner`. The table has
/// one row per distance of two patches, and three rows for pairs with the class token.
fn biases(builder: &mut Builder<'_>, owner: &str, config: &BeitConfig) -> Result<Vec<f32>, CheckpointError> {
    let heads = config.encoder.heads;
    let [old_rows, old_columns] = config.patching.trained_grid().map(|side| 2 * side - 1);
    let old = old_rows * old_columns;
    let name = format!("{owner}.relative_position_bias.relative_position_bias_table");
    let table = builder.tensor(&name, &[old + 3, heads])?;
    let (distances, class) = table.split_at(old * heads);
    // The reference swaps rows and columns here, which matters if the grid is not square.
    let grid = config.patching.grid();
    let [rows, columns] = grid.map(|side| 2 * side - 1);
    let distances = resampled(distances, [old_columns, old_rows], [rows, columns], Method::Bilinear);
    let place = |token: usize| [(token - 1) / grid[1], (token - 1) % grid[1]];
    let tokens = 1 + grid[0] * grid[1];
    let mut values = Vec::with_capacity(heads * tokens * tokens);
    for head in 0..heads {
        for query in 0..tokens {
            for key in 0..tokens {
                let [to, from, both] = [0, 1, 2].map(|row| class[row * heads + head]);
                values.push(match (query, key) {
                    (0, 0) => both,
                    (0, _) => to,
                    (_, 0) => from,
                    _ => {
                        let (a, b) = (place(query), place(key));
                        let [down, across] = [0, 1].map(|axis| a[axis] + grid[axis] - 1 - b[axis]);
                        distances[(down * columns + across) * heads + head]
                    }
                });
            }
        }
    }
    Ok(values)
}
