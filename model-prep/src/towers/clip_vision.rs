//! CLIP's image tower.

use super::builder::Builder;
use super::clip_layer::layer;
use super::pre_norm::Kept;
use super::resample::Method;
use super::vision::PatchEmbedding;
use crate::checkpoint::{CheckpointError, ClipVisionConfig};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width]: the class token after the last layer norm.
pub(super) fn pooled(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &ClipVisionConfig,
) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let x = embeddings(builder, pixels, config)?;
    // The spelling is the reference's.
    let mut x = builder.layer_norm("vision_model.pre_layrnorm", &x, encoder)?;
    for index in 0..encoder.layers {
        let name = format!("vision_model.encoder.layers.{index}");
        x = layer(builder, &name, &x, &[], Kept::for_first(index, encoder), encoder)?;
    }
    let x = builder.final_layer_norm("vision_model.post_layernorm", &x, encoder)?;
    Ok(builder.only_row("vision_model.pooler", &x))
}

/// The class token and the patches, with position embeddings: [batch, 1 + patches, hidden].
fn embeddings(builder: &mut Builder<'_>, pixels: &Value, config: &ClipVisionConfig) -> Result<Value, CheckpointError> {
    let (hidden, patching) = (config.encoder.hidden_size, &config.patching);
    let name = "vision_model.embeddings.patch_embedding";
    let patches = PatchEmbedding { name, patching, hidden, bias: false, padding: [0, 0] };
    let x = builder.patches(pixels, &patches)?;
    let x = builder.rows_before(&x, 1);
    let class = builder.tensor("vision_model.embeddings.class_embedding", &[hidden])?;
    let name = "vision_model.embeddings.position_embedding.weight";
    let mut table = builder.positions(name, [1, hidden], false, patching, Method::Bicubic)?;
    table.iter_mut().zip(class).for_each(|(position, class)| *position += class);
    Ok(builder.add_table(&format!("{name}.with_class_embedding"), &x, &table, hidden))
}
