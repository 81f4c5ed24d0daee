//! `vision_config` of ViT and DeiT.

use super::encoder::{Activation, EncoderConfig, EncoderDefaults};
use super::patching::Patching;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// A Vision Transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Sizes of the input and the patches.
    pub patching: Patching,
    /// True if query, key and value have biases.
    pub qkv_bias: bool,
    /// Activation of the pooler.
    pub pooler_activation: Activation,
}

impl VitConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let encoder = EncoderConfig::read(object, &EncoderDefaults::VIT)?;
        // The reference builds its projection with `hidden_size` inputs, so it cannot run such a checkpoint either.
        let pooler = object.count("pooler_output_size", encoder.hidden_size)?;
        if pooler != encoder.hidden_size {
            let reason = format!("visual_projection takes hidden_size {} values", encoder.hidden_size);
            return Err(object.unsupported("pooler_output_size", pooler, reason));
        }
        Ok(Self {
            patching: Patching::read(object, 224, 16)?,
            qkv_bias: object.flag("qkv_bias", true)?,
            pooler_activation: Activation::read(object, "pooler_act", "tanh")?,
            encoder,
        })
    }
}
