//! `vision_config` of BEiT.

use std::path::Path;

use super::vision::wrong_size;
use super::{EncoderConfig, EncoderDefaults, Patching};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::Object;

/// The most patches with relative position biases, of which there is one for each pair of tokens: a table of 64 MiB for
/// each head.
const BIASED_PATCHES_MAX: usize = 4096;

/// BEiT.
#[derive(Debug, Clone, PartialEq)]
pub struct BeitConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Input and patches.
    pub patching: Patching,
    /// Whether there are absolute position embeddings.
    pub absolute_positions: bool,
    /// Whether each layer has relative position biases of its own.
    pub layer_biases: bool,
    /// Whether there are relative position biases that all layers share.
    pub shared_biases: bool,
    /// Whether the outputs of blocks are multiplied by a factor for each channel.
    pub layer_scale: bool,
    /// Whether the mean of the patches is pooled; else the class token.
    pub mean_pooling: bool,
}

impl BeitConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let patching = Patching::read(object, 224, 16)?;
        let config = Self {
            encoder: EncoderConfig::read(object, &EncoderDefaults::BERT)?,
            patching: Patching { any_size: true, ..patching },
            absolute_positions: object.flag("use_absolute_position_embeddings", false)?,
            layer_biases: object.flag("use_relative_position_bias", false)?,
            shared_biases: object.flag("use_shared_relative_position_bias", false)?,
            layer_scale: object.number("layer_scale_init_value", 0.1)? > 0.0,
            mean_pooling: object.flag("use_mean_pooling", true)?,
        };
        Ok(config)
    }

    /// Refuses input sizes that the reference, or memory, has no tables for.
    pub(super) fn check(&self, config: &Path) -> Result<(), CheckpointError> {
        if self.absolute_positions {
            self.patching.check_positions(config)?;
        }
        let biased = self.layer_biases || self.shared_biases;
        if biased && self.patching.patches().max(self.patching.trained_patches()) > BIASED_PATCHES_MAX {
            let expected = format!("at most {BIASED_PATCHES_MAX} patches, for relative position biases");
            return Err(wrong_size(config, self.patching.image_size, &expected));
        }
        Ok(())
    }
}
