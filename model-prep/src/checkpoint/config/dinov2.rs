//! `vision_config` of DINOv2, with or without registers.

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use super::patching::Patching;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Defaults of `Dinov2Config` and `Dinov2WithRegistersConfig`. The intermediate size follows from `mlp_ratio`.
const DEFAULTS: EncoderDefaults = EncoderDefaults {
    layer_norm_eps: 1e-6,
    dropout: DropoutDefaults { path: Some(0.0), ..DropoutDefaults::VIT },
    ..EncoderDefaults::VIT
};

/// DINOv2.
#[derive(Debug, Clone, PartialEq)]
pub struct Dinov2Config {
    /// Parameters of its layers. With gated feed-forward blocks, `intermediate_size` is the width of the gates.
    pub encoder: EncoderConfig,
    /// Sizes of the input and the patches.
    pub patching: Patching,
    /// True if query, key and value have biases.
    pub qkv_bias: bool,
    /// True if feed-forward blocks are gated (SwiGLU).
    pub gated: bool,
    /// Number of register tokens, possibly 0; `None` for the architecture without them.
    pub registers: Option<usize>,
}

impl Dinov2Config {
    pub(super) fn read(object: &Object, with_registers: bool) -> Result<Self, CheckpointError> {
        let encoder = EncoderConfig::read(object, &DEFAULTS)?;
        let gated = object.flag("use_swiglu_ffn", false)?;
        let inner = scaled(object, "mlp_ratio", 4.0, encoder.hidden_size)?;
        // Two thirds, rounded up to a multiple of 8.
        let intermediate_size = if gated { (inner * 2 / 3).div_ceil(8) * 8 } else { inner };
        let registers = object.or("num_register_tokens", 4, "a whole number up to 1024", |v| {
            v.as_u64().filter(|n| *n <= 1024).and_then(|n| usize::try_from(n).ok())
        })?;
        let patching = Patching::read(object, 224, if with_registers { 16 } else { 14 })?;
        Ok(Self {
            encoder: EncoderConfig { intermediate_size, ..encoder },
            patching: Patching { any_size: true, ..patching },
            qkv_bias: object.flag("qkv_bias", true)?,
            gated,
            registers: with_registers.then_some(registers),
        })
    }
}

/// `width` times the ratio under `key`, rounded down.
pub(super) fn scaled(object: &Object, key: &str, default: f64, width: usize) -> Result<usize, CheckpointError> {
    let ratio = object.number(key, default)?;
    let inner = (width as f64 * ratio) as usize;
    // Above any real ratio, and low enough that no product overflows.
    if inner == 0 || ratio > 1024.0 {
        let expected = format!("a number up to 1024 whose product with {width} is 1 or more");
        return Err(object.wrong(key, &expected, object.get(key)));
    }
    Ok(inner)
}
