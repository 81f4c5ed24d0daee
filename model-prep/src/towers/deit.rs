//! DeiT: a Vision Transformer with a distillation token after the class token. Only the class token is pooled.

use super::builder::Builder;
use super::vit;
use crate::checkpoint::{CheckpointError, VitConfig};
use crate::onnx::Value;

/// The pooler output [batch, hidden] for `pixels` [batch, 3, height, width].
pub(super) fn pooled(builder: &mut Builder<'_>, pixels: &Value, config: &VitConfig) -> Result<Value, CheckpointError> {
    vit::pooled(builder, pixels, config, &["cls_token", "distillation_token"])
}
