//! The layer of CLIP and SigLIP, which is the same in image and text towers.

use super::builder::Builder;
use super::pre_norm::{CLIP_NAMES, Kept, Layer};
use crate::checkpoint::{CheckpointError, EncoderConfig};
use crate::onnx::Value;

/// The layer whose tensor names start with `prefix`. The `masks` are added to the attention scores.
pub(super) fn layer(
    builder: &mut Builder<'_>,
    prefix: &str,
    x: &Value,
    masks: &[&Value],
    kept: Kept,
    encoder: &EncoderConfig,
) -> Result<Value, CheckpointError> {
    let name = prefix.to_owned();
    let layer = Layer { name, names: &CLIP_NAMES, biases: [true; 3], scales: None, added: masks, kept };
    builder.pre_norm(x, &layer, encoder)
}
