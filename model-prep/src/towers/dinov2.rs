//! DINOv2, with or without register tokens.

use super::builder::Builder;
use super::pre_norm::{Kept, Layer, LayerNames, VIT_NAMES};
use super::resample::Method;
use super::vision::PatchEmbedding;
use crate::checkpoint::{Activation, CheckpointError, Dinov2Config};
use crate::onnx::Value;

const NAMES: LayerNames = LayerNames { norms: ["norm1", "norm2"], feed_forward: ["mlp.fc1", "mlp.fc2"], ..VIT_NAMES };

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width]: the class token after the last layer norm.
pub(super) fn pooled(
    builder: &mut Builder<'_>,
    pixels: &Value,
    config: &Dinov2Config,
) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let mut x = embeddings(builder, pixels, config)?;
    for index in 0..encoder.layers {
        let layer = Layer {
            name: format!("vision_model.encoder.layer.{index}"),
            names: &NAMES,
            biases: [config.qkv_bias; 3],
            scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
            added: &[],
            kept: Kept::for_first(index, encoder),
        };
        x = if config.gated { gated(builder, &x, &layer, config)? } else { builder.pre_norm(&x, &layer, encoder)? };
    }
    let x = builder.final_layer_norm("vision_model.layernorm", &x, encoder)?;
    Ok(builder.only_row("vision_model.pooler", &x))
}

/// The class token, the registers and the patches, with position embeddings except on registers:
/// [batch, 1 + registers + patches, hidden].
fn embeddings(builder: &mut Builder<'_>, pixels: &Value, config: &Dinov2Config) -> Result<Value, CheckpointError> {
    let (hidden, patching) = (config.encoder.hidden_size, &config.patching);
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let patches = PatchEmbedding { name, patching, hidden, bias: true, padding: [0, 0] };
    let x = builder.patches(pixels, &patches)?;
    let x = builder.rows_before(&x, 1 + config.registers.unwrap_or(0));
    let class = builder.tensor("vision_model.embeddings.cls_token", &[1, 1, hidden])?;
    // The reference resamples with antialiasing if there are registers, without otherwise.
    let method = if config.registers.is_some() { Method::BicubicAntialias } else { Method::Bicubic };
    let name = "vision_model.embeddings.position_embeddings";
    let mut table = builder.positions(name, [1, hidden], true, patching, method)?;
    table.iter_mut().zip(class).for_each(|(position, class)| *position += class);
    if let Some(count) = config.registers {
        let registers = builder.tensor("vision_model.embeddings.register_tokens", &[1, count, hidden])?;
        table.splice(hidden..hidden, registers);
    }
    Ok(builder.add_table(&format!("{name}.with_cls_token"), &x, &table, hidden))
}

/// A layer with a gated feed-forward block: `down(silu(gate(x)) * up(x))`.
fn gated(
    builder: &mut Builder<'_>,
    x: &Value,
    layer: &Layer<'_>,
    config: &Dinov2Config,
) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let x = builder.attention_block(x, layer, encoder)?;
    let normed = builder.layer_norm_for_linears(&layer.named(layer.names.norms[1]), &x, encoder)?;
    let [gate, up] = [0, 1].map(|half| half_layer(builder, &normed, layer, half, config));
    let gate = builder.activation(&layer.named("mlp.gate"), &gate?, Activation::Silu);
    let gated = builder.graph.node("Mul", &layer.named("mlp.gated"), &[&gate, &up?], &[]);
    builder.divided_by(&layer.named("mlp.up_proj"), &gated);
    let down = layer.named("mlp.weights_out");
    let shape = [encoder.intermediate_size, encoder.hidden_size];
    let y = builder.scaled_linear(&down, &gated, shape, true, layer.scale(1).as_deref())?;
    Ok(builder.graph.node("Add", &layer.named("output"), &[&x, &y], &[]))
}

/// The gate (half 0) or the up projection (half 1): a half of the combined layer of transformers 4, or the separate
/// layer of transformers 5.
fn half_layer(
    builder: &mut Builder<'_>,
    x: &Value,
    layer: &Layer<'_>,
    half: usize,
    config: &Dinov2Config,
) -> Result<Value, CheckpointError> {
    let (hidden, inner) = (config.encoder.hidden_size, config.encoder.intermediate_size);
    let name = layer.named(["mlp.gate_proj", "mlp.up_proj"][half]);
    if builder.tensors.shape(&format!("{name}.weight")).is_some() {
        return builder.linear(&name, x, [hidden, inner], true);
    }
    let both = layer.named("mlp.weights_in");
    let weight = builder.tensor(&format!("{both}.weight"), &[2 * inner, hidden])?;
    let bias = builder.tensor(&format!("{both}.bias"), &[2 * inner])?;
    let rows = half * inner..(half + 1) * inner;
    let weight = &weight[rows.start * hidden..rows.end * hidden];
    builder.linear_of(&name, x, weight, Some(&bias[rows]), hidden)
}
