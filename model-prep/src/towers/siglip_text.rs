//! SigLIP's text tower.

use super::attention::additive_mask;
use super::builder::Builder;
use super::clip_layer::layer;
use super::clip_text;
use super::pre_norm::Kept;
use crate::checkpoint::{CheckpointError, SiglipTextConfig};
use crate::onnx::Value;

/// The output of the head [batch, projection_size] on the last token, even if it is padding.
///
/// `masked` says whether attention masks padding; in published models it does not.
pub(super) fn pooled(
    builder: &mut Builder<'_>,
    config: &SiglipTextConfig,
    masked: bool,
) -> Result<Value, CheckpointError> {
    let encoder = &config.encoder;
    let sizes = [config.vocab_size, config.max_position_embeddings, encoder.hidden_size];
    let mut x = clip_text::embeddings(builder, sizes)?;
    let mask = masked.then(|| additive_mask(builder));
    for index in 0..encoder.layers {
        let prefix = format!("text_model.encoder.layers.{index}");
        let kept = if index + 1 == encoder.layers { Kept::Last } else { Kept::All };
        x = layer(builder, &prefix, &x, &mask.iter().collect::<Vec<_>>(), kept, encoder)?;
    }
    let x = builder.layer_norm_for_linears("text_model.final_layer_norm", &x, encoder)?;
    let x = builder.only_row("text_model.final_layer_norm", &x);
    builder.linear("text_model.head", &x, [encoder.hidden_size, config.projection_size], true)
}
