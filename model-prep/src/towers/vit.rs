//! Vision Transformer: `pixel_values` [batch, 3, height, width] to `image_embeds` [batch, projection_dim].

use spotter_engine::bundle::{Architecture, Dim, Dtype, TensorSpec, Weights};

use super::{AttentionNames, Builder, TowerFile};
use crate::checkpoint::{CheckpointError, VitConfig};
use crate::onnx::{Attribute, Value};
use crate::quantize::quantize;

pub(super) fn build(mut builder: Builder<'_>, config: &VitConfig) -> Result<TowerFile, CheckpointError> {
    let [height, width] = config.image_size;
    let shape = vec![Dim::Named("batch".into()), Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)];
    let input = TensorSpec { name: "pixel_values".into(), dtype: Dtype::F32, shape };
    let pixels = builder.graph.input(&input);
    let mut x = embeddings(&mut builder, &pixels, config)?;
    for index in 0..config.encoder.layers {
        x = layer(&mut builder, &x, index, config)?;
    }
    let x = builder.layer_norm("vision_model.layernorm", &x, &config.encoder)?;
    let names = ["vision_model.pooler", "visual_projection"];
    let hidden = config.encoder.hidden_size;
    let (graph, output) = builder.embedding_head(names, &x, hidden, config.pooler_activation, "image_embeds")?;
    Ok(TowerFile { architecture: Architecture::Vit, inputs: vec![input], output, onnx: graph.encode() })
}

/// Patches as tokens, a class token before them, position embeddings added: [batch, 1 + patches, hidden].
///
/// A zero row stands for the class token, whose embedding is added together with its position.
fn embeddings(builder: &mut Builder<'_>, pixels: &Value, config: &VitConfig) -> Result<Value, CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let name = "vision_model.embeddings.patch_embeddings.projection";
    let x = patches(builder, name, pixels, config)?;
    let rows = builder.graph.list("shape.patch_rows", &[0, hidden as i64, -1]);
    let x = builder.graph.node("Reshape", &format!("{name}.rows"), &[&x, &rows], &[]);
    let perm = [("perm", Attribute::Ints(&[0, 2, 1]))];
    let x = builder.graph.node("Transpose", &format!("{name}.tokens"), &[&x], &perm);
    let pads = builder.graph.list("one_row_before", &[0, 1, 0, 0, 0, 0]);
    let x = builder.graph.node("Pad", "vision_model.embeddings.tokens", &[&x, &pads], &[]);

    let class = builder.tensor("vision_model.embeddings.cls_token", &[1, 1, hidden])?;
    let shape = [1, 1 + config.patches(), hidden];
    let name = "vision_model.embeddings.position_embeddings";
    let mut positions = builder.tensor(name, &shape)?;
    positions.iter_mut().zip(class).for_each(|(position, class)| *position += class);
    let positions = builder.graph.floats(&format!("{name}.with_cls_token"), &shape, &positions);
    Ok(builder.graph.node("Add", "vision_model.embeddings", &[&x, &positions], &[]))
}

/// The patch embedding, a convolution whose step is its size: [batch, hidden, rows, columns].
fn patches(
    builder: &mut Builder<'_>,
    name: &str,
    pixels: &Value,
    config: &VitConfig,
) -> Result<Value, CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let [patch_height, patch_width] = config.patch_size;
    let shape = [hidden, 3, patch_height, patch_width];
    let weight_name = format!("{name}.weight");
    let weight = builder.tensor(&weight_name, &shape)?;
    let weight = match builder.weights {
        Weights::F32 => builder.graph.floats(&weight_name, &shape, &weight),
        Weights::Int8 => {
            let int8 = quantize(&weight, 3 * patch_height * patch_width);
            builder.dequantized(&weight_name, &shape, &int8.values, &int8.scales, 0)
        }
    };
    let bias = builder.floats(&format!("{name}.bias"), &[hidden])?;
    let step = [patch_height as i64, patch_width as i64];
    let attributes = [("kernel_shape", Attribute::Ints(&step)), ("strides", Attribute::Ints(&step))];
    Ok(builder.graph.node("Conv", name, &[pixels, &weight, &bias], &attributes))
}

/// Layer norm before each block; the last layer keeps token 0 only.
fn layer(builder: &mut Builder<'_>, x: &Value, index: usize, config: &VitConfig) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let named = |part: &str| format!("vision_model.encoder.layer.{index}.{part}");
    let names = AttentionNames {
        query: named("attention.attention.query"),
        key: named("attention.attention.key"),
        value: named("attention.attention.value"),
        output: named("attention.output.dense"),
    };
    let states = builder.layer_norm(&named("layernorm_before"), x, encoder)?;
    let (x, queries) = if index + 1 == encoder.layers {
        let queries = builder.first_token(&named("layernorm_before.token_0"), &states);
        (&builder.first_token(&named("token_0"), x), queries)
    } else {
        (x, states.clone())
    };
    let attended = builder.attention(&names, [&queries, &states], None, encoder, config.qkv_bias)?;
    let x = builder.graph.node("Add", &named("attention"), &[x, &attended], &[]);
    let normed = builder.layer_norm(&named("layernorm_after"), &x, encoder)?;
    let blocks = [&*named("intermediate.dense"), &named("output.dense")];
    let y = builder.feed_forward(blocks, &normed, encoder)?;
    Ok(builder.graph.node("Add", &named("output"), &[&x, &y], &[]))
}
