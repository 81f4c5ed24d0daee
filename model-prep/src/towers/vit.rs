//! Vision Transformer, and DeiT, which has an additional token.

use super::builder::Builder;
use super::pre_norm::{Kept, Layer, VIT_NAMES};
use super::resample::Method;
use super::vision::PatchEmbedding;
use crate::checkpoint::{CheckpointError, VitConfig};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width]. `tokens` are the leading tokens, the class
/// token first.
pub(super) fn pooled(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &VitConfig,
    tokens: &[&str],
) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let mut x = embeddings(builder, pixels, config, tokens)?;
    for index in 0..encoder.layers {
        let layer = Layer {
            name: format!("vision_model.encoder.layer.{index}"),
            names: &VIT_NAMES,
            biases: [config.qkv_bias; 3],
            scales: None,
            added: &[],
            kept: Kept::for_first(index, encoder),
        };
        x = builder.pre_norm(&x, &layer, encoder)?;
    }
    let x = builder.layer_norm_for_linears("vision_model.layernorm", &x, encoder)?;
    builder.dense_pooler("vision_model.pooler", &x, encoder.hidden_size, config.pooler_activation)
}

/// The leading tokens and the patches, with position embeddings: [batch, tokens + patches, hidden].
fn embeddings(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &VitConfig,
    tokens: &[&str],
) -> Result<Value, CheckpointError> {
    let (hidden, patching) = (config.encoder.hidden_size, &config.patching);
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let patches = PatchEmbedding { name, patching, hidden, bias: true, padding: [0, 0] };
    let x = builder.patches(pixels, &patches)?;
    let x = builder.rows_before(&x, tokens.len());
    let mut lead = Vec::new();
    for token in tokens {
        lead.extend(builder.tensor(&format!("vision_model.embeddings.{token}"), &[1, 1, hidden])?);
    }
    let name = "vision_model.embeddings.position_embeddings";
    let mut table = builder.positions(name, [tokens.len(), hidden], true, patching, Method::Bicubic)?;
    table.iter_mut().zip(lead).for_each(|(position, token)| *position += token);
    Ok(builder.add_table(&format!("{name}.with_cls_token"), &x, &table, hidden))
}
