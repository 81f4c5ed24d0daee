//! The layer of CLIP and SigLIP, the same in their image and text towers: layer norm before each block.

use super::{AttentionLayers, Builder};
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::Value;

/// The tokens that a layer computes: the last layer needs no more than the one that is pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of them.
    All,
    /// The last one.
    Last,
}

/// The layer whose tensors' names start with `prefix`; `masks` are added to the scores of attention.
pub(super) fn layer(
    builder: &mut Builder<'_>,
    prefix: &str,
    x: &Value,
    masks: &[&Value],
    kept: Kept,
    encoder: &EncoderConfig,
) -> Result<Value, CheckpointError> {
    let named = |part: &str| format!("{prefix}.{part}");
    let layers = AttentionLayers {
        query: named("self_attn.q_proj"),
        key: named("self_attn.k_proj"),
        value: named("self_attn.v_proj"),
        output: named("self_attn.out_proj"),
        biases: [true; 3],
        layer_scale: None,
    };
    let states = builder.layer_norm(&named("layer_norm1"), x, encoder)?;
    let (x, queries) = match kept {
        Kept::All => (x.clone(), states.clone()),
        Kept::Last => {
            let queries = builder.last_token(&named("layer_norm1.last_token"), &states);
            (builder.last_token(&named("last_token"), x), queries)
        }
    };
    let attended = builder.attention(&layers, [&queries, &states], masks, encoder)?;
    let x = builder.graph.node("Add", &named("attention"), &[&x, &attended], &[]);
    let normed = builder.layer_norm(&named("layer_norm2"), &x, encoder)?;
    let y = builder.feed_forward([&named("mlp.fc1"), &named("mlp.fc2")], &normed, encoder, None)?;
    Ok(builder.graph.node("Add", &named("output"), &[&x, &y], &[]))
}
