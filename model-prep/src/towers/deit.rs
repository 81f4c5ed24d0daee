//! DeiT: a Vision Transformer with a distillation token after the class token, which is pooled alone.

use super::{Builder, vit};
use crate::checkpoint::{CheckpointError, VitConfig};
use crate::onnx::Value;

/// What the pooler makes of the pixels [batch, 3, height, width]: [batch, hidden].
pub(super) fn pooled(builder: &mut Builder<'_>, pixels: &Value, config: &VitConfig) -> Result<Value, CheckpointError> {
    vit::pooled(builder, pixels, config, &["cls_token", "distillation_token"])
}
