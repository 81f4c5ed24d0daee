//! Vision Transformer.

use super::{AttentionLayers, Builder};
use crate::checkpoint::{CheckpointError, VitConfig};
use crate::onnx::Value;

/// What the pooler makes of the pixels [batch, 3, height, width]: [batch, hidden].
pub(super) fn pooled(builder: &mut Builder<'_>, pixels: &Value, config: &VitConfig) -> Result<Value, CheckpointError> {
    let mut x = embeddings(builder, pixels, config)?;
    for index in 0..config.encoder.layers {
        x = layer(builder, &x, index, config)?;
    }
    let x = builder.layer_norm("vision_model.layernorm", &x, &config.encoder)?;
    builder.dense_pooler("vision_model.pooler", &x, config.encoder.hidden_size, config.pooler_activation)
}

/// Patches as tokens, a class token before them, position embeddings added: [batch, 1 + patches, hidden].
///
/// A zero row stands for the class token, whose embedding is added together with its position.
fn embeddings(builder: &mut Builder<'_>, pixels: &Value, config: &VitConfig) -> Result<Value, CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let x = builder.patches(name, pixels, &config.patching, hidden, true)?;
    let pads = builder.graph.list("one_row_before", &[0, 1, 0, 0, 0, 0]);
    let x = builder.graph.node("Pad", "vision_model.embeddings.tokens", &[&x, &pads], &[]);

    let class = builder.tensor("vision_model.embeddings.cls_token", &[1, 1, hidden])?;
    let shape = [1, 1 + config.patching.patches(), hidden];
    let name = "vision_model.embeddings.position_embeddings";
    let mut positions = builder.tensor(name, &shape)?;
    positions.iter_mut().zip(class).for_each(|(position, class)| *position += class);
    let positions = builder.graph.floats(&format!("{name}.with_cls_token"), &shape, &positions);
    Ok(builder.graph.node("Add", "vision_model.embeddings", &[&x, &positions], &[]))
}

/// Layer norm before each block; the last layer keeps token 0 only.
fn layer(builder: &mut Builder<'_>, x: &Value, index: usize, config: &VitConfig) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let named = |part: &str| format!("vision_model.encoder.layer.{index}.{part}");
    let layers = AttentionLayers {
        query: named("attention.attention.query"),
        key: named("attention.attention.key"),
        value: named("attention.attention.value"),
        output: named("attention.output.dense"),
        biases: [config.qkv_bias; 3],
        layer_scale: None,
    };
    let states = builder.layer_norm(&named("layernorm_before"), x, encoder)?;
    let (x, queries) = if index + 1 == encoder.layers {
        let queries = builder.first_token(&named("layernorm_before.token_0"), &states);
        (&builder.first_token(&named("token_0"), x), queries)
    } else {
        (x, states.clone())
    };
    let attended = builder.attention(&layers, [&queries, &states], &[], encoder)?;
    let x = builder.graph.node("Add", &named("attention"), &[x, &attended], &[]);
    let normed = builder.layer_norm(&named("layernorm_after"), &x, encoder)?;
    let blocks = [&*named("intermediate.dense"), &named("output.dense")];
    let y = builder.feed_forward(blocks, &normed, encoder, None)?;
    Ok(builder.graph.node("Add", &named("output"), &[&x, &y], &[]))
}
