//! BERT: `input_ids`, `attention_mask`, `token_type_ids` [batch, sequence] to `text_embeds` [batch, projection_dim].

use spotter_engine::bundle::{Architecture, Dim, Dtype, TensorSpec};

use super::{AttentionNames, Builder, TowerFile};
use crate::checkpoint::{Activation, BertConfig, CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Value};

pub(super) fn build(mut builder: Builder<'_>, config: &BertConfig) -> Result<TowerFile, CheckpointError> {
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(|name| {
        let shape = vec![Dim::Named("batch".into()), Dim::Named("sequence".into())];
        TensorSpec { name: name.into(), dtype: Dtype::I64, shape }
    });
    let [ids, mask, types] = [0, 1, 2].map(|i| builder.graph.input(&inputs[i]));
    let mut x = embeddings(&mut builder, &ids, &types, config)?;
    let mask = additive_mask(&mut builder, &mask);
    for index in 0..config.encoder.layers {
        x = layer(&mut builder, &x, &mask, index, &config.encoder)?;
    }
    let names = ["text_model.pooler", "text_projection"];
    let hidden = config.encoder.hidden_size;
    let (graph, output) = builder.embedding_head(names, &x, hidden, Activation::Tanh, "text_embeds")?;
    Ok(TowerFile { architecture: Architecture::Bert, inputs: inputs.to_vec(), output, onnx: graph.encode() })
}

/// Words, token types and positions, summed in the reference's order and normed: [batch, sequence, hidden].
fn embeddings(
    builder: &mut Builder<'_>,
    ids: &Value,
    types: &Value,
    config: &BertConfig,
) -> Result<Value, CheckpointError> {
    let hidden = config.encoder.hidden_size;
    let named = |part: &str| format!("text_model.embeddings.{part}");
    let words = builder.embedding(&named("word_embeddings"), ids, [config.vocab_size, hidden])?;
    let name = named("token_type_embeddings");
    let types = builder.float_embedding(&name, types, [config.type_vocab_size, hidden])?;
    let name = named("position_embeddings");
    let table = builder.floats(&format!("{name}.weight"), &[config.max_position_embeddings, hidden])?;

    let graph = &mut builder.graph;
    let axis_1 = [("start", Attribute::Int(1)), ("end", Attribute::Int(2))];
    let length = graph.node("Shape", "sequence_length", &[ids], &axis_1);
    let zero = graph.list("index_0", &[0]);
    let positions = graph.node("Slice", &name, &[&table, &zero, &length, &zero], &[]);
    let x = graph.node("Add", &named("words_and_types"), &[&words, &types], &[]);
    let x = graph.node("Add", &named("sum"), &[&x, &positions], &[]);
    builder.layer_norm(&named("LayerNorm"), &x, &config.encoder)
}

/// 0 for a token and the lowest float for padding: [batch, 1, 1, sequence].
fn additive_mask(builder: &mut Builder<'_>, mask: &Value) -> Value {
    let graph = &mut builder.graph;
    // 1 is FLOAT in ONNX.
    let mask = graph.node("Cast", "attention_mask.float", &[mask], &[("to", Attribute::Int(1))]);
    let one = graph.scalar("one", 1.0);
    let padding = graph.node("Sub", "padding_mask", &[&one, &mask], &[]);
    let lowest = graph.scalar("lowest_float", f32::MIN);
    let mask = graph.node("Mul", "padding_mask.lowest", &[&padding, &lowest], &[]);
    let axes = graph.list("head_and_query_axes", &[1, 2]);
    graph.node("Unsqueeze", "additive_mask", &[&mask, &axes], &[])
}

/// Layer norm after each block; the last layer keeps token 0 only.
fn layer(
    builder: &mut Builder<'_>,
    x: &Value,
    mask: &Value,
    index: usize,
    encoder: &EncoderConfig,
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("text_model.encoder.layer.{index}.{part}");
    let names = AttentionNames {
        query: named("attention.self.query"),
        key: named("attention.self.key"),
        value: named("attention.self.value"),
        output: named("attention.output.dense"),
    };
    let last = index + 1 == encoder.layers;
    let queries = if last { builder.first_token(&named("token_0"), x) } else { x.clone() };
    let attended = builder.attention(&names, [&queries, x], Some(mask), encoder, true)?;
    let sum = builder.graph.node("Add", &named("attention.sum"), &[&attended, &queries], &[]);
    let x = builder.layer_norm(&named("attention.output.LayerNorm"), &sum, encoder)?;
    let blocks = [&*named("intermediate.dense"), &named("output.dense")];
    let y = builder.feed_forward(blocks, &x, encoder)?;
    let sum = builder.graph.node("Add", &named("output.sum"), &[&y, &x], &[]);
    builder.layer_norm(&named("output.LayerNorm"), &sum, encoder)
}
