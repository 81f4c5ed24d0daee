//! SigLIP's image tower.

use super::builder::Builder;
use super::clip_layer::layer;
use super::pre_norm::Kept;
use super::resample::Method;
use super::vision::PatchEmbedding;
use crate::checkpoint::{CheckpointError, SiglipVisionConfig};
use crate::onnx::Value;

/// The output of the head [batch, hidden] for `pixels` [batch, 3, height, width].
pub(super) fn pooled(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &SiglipVisionConfig,
) -> Result<Value, CheckpointError> {
    let (encoder, patching) = (&config.encoder, &config.patching);
    let hidden = encoder.hidden_size;
    let name = "vision_model.embeddings.patch_embedding";
    let patches = PatchEmbedding { name, patching, hidden, bias: true, padding: [0, 0] };
    let x = builder.patches(pixels, &patches)?;
    let name = "vision_model.embeddings.position_embedding.weight";
    let table = builder.positions(name, [0, hidden], false, patching, Method::Bicubic)?;
    let mut x = builder.add_table(name, &x, &table, hidden);
    for index in 0..encoder.layers {
        let name = format!("vision_model.encoder.layers.{index}");
        x = layer(builder, &name, &x, &[], Kept::All, encoder)?;
    }
    let x = builder.layer_norm_for_linears("vision_model.post_layernorm", &x, encoder)?;
    head(builder, &x, config)
}

/// The attention pooling head: one learned query attends to all tokens, followed by a feed-forward block.
fn head(builder: &mut Builder<'_>, x: &Value, config: &SiglipVisionConfig) -> Result<Value, CheckpointError> {
    let (encoder, hidden) = (&config.encoder, config.encoder.hidden_size);
    let named = |part: &str| format!("vision_model.head.{part}");
    let probe = builder.tensor(&named("probe"), &[1, 1, hidden])?;
    let weight = builder.tensor(&named("attention.in_proj_weight"), &[3 * hidden, hidden])?;
    let bias = builder.tensor(&named("attention.in_proj_bias"), &[3 * hidden])?;
    let part = |index: usize| {
        let rows = index * hidden..(index + 1) * hidden;
        (&weight[rows.start * hidden..rows.end * hidden], &bias[rows])
    };
    let (query_weight, query_bias) = part(0);
    let dot = |row: &[f32]| row.iter().zip(&probe).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    let query: Vec<f32> = query_weight
        .chunks_exact(hidden)
        .zip(query_bias)
        .map(|(row, bias)| (dot(row) + f64::from(*bias)) as f32)
        .collect();
    let name = named("attention.query");
    let query = builder.graph.floats(&name, &[1, 1, hidden], &query);
    let [split, merged] = builder.head_shapes(encoder);
    let query = builder.heads(&name, &query, &split, &[0, 2, 1, 3]);
    let [key, value] =
        [(1, "attention.key", [0, 2, 3, 1]), (2, "attention.value", [0, 2, 1, 3])].map(|(index, name, perm)| {
            let ((weight, bias), name) = (part(index), named(name));
            let x = builder.linear_of(&name, x, weight, Some(bias), hidden)?;
            Ok::<_, CheckpointError>(builder.heads(&name, &x, &split, &perm))
        });
    let (key, value) = (key?, value?);
    builder.same_storage(&[&named("attention.key"), &named("attention.value")]);
    let output = named("attention.out_proj");
    let context = builder.context([&name, &output], [&query, &key, &value], &[], &merged, encoder);
    builder.divided_by(&named("attention.value"), &context);
    let x = builder.linear(&output, &context, [hidden, hidden], true)?;
    let normed = builder.layer_norm_for_linears(&named("layernorm"), &x, encoder)?;
    let y = builder.feed_forward([&named("mlp.fc1"), &named("mlp.fc2")], &normed, encoder, None)?;
    let x = builder.graph.node("Add", &named("output"), &[&x, &y], &[]);
    Ok(builder.only_row("vision_model.head", &x))
}
