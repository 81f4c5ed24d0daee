//! `vision_config` of BEiT.

use std::path::Path;

use super::encoder::{DropoutDefaults, EncoderConfig, EncoderDefaults};
use super::patching::{Patching, wrong_size};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Largest number of patches with relative position biases. There is one bias per pair of tokens and head: 64 MiB a
/// head.
const BIASED_PATCHES_MAX: usize = 4096;

/// Defaults of `BeitConfig`.
const DEFAULTS: EncoderDefaults =
    EncoderDefaults { dropout: DropoutDefaults { path: Some(0.1), ..DropoutDefaults::VIT }, ..EncoderDefaults::VIT };

/// BEiT.
#[derive(Debug, Clone, PartialEq)]
pub struct BeitConfig {
    /// Parameters of its layers.
    pub encoder: EncoderConfig,
    /// Sizes of the input and the patches.
    pub patching: Patching,
    /// True if there are absolute position embeddings.
    pub absolute_positions: bool,
    /// True if each layer has its own relative position biases.
    pub layer_biases: bool,
    /// True if all layers share relative position biases.
    pub shared_biases: bool,
    /// True if block outputs are multiplied by a factor per channel (layer scale).
    pub layer_scale: bool,
    /// True if the pooler takes the mean of the patches instead of the class token.
    pub mean_pooling: bool,
}

impl BeitConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let patching = Patching::read(object, 224, 16)?;
        let config = Self {
            encoder: EncoderConfig::read(object, &DEFAULTS)?,
            patching: Patching { any_size: true, ..patching },
            absolute_positions: object.flag("use_absolute_position_embeddings", false)?,
            layer_biases: object.flag("use_relative_position_bias", false)?,
            shared_biases: object.flag("use_shared_relative_position_bias", false)?,
            layer_scale: object.number("layer_scale_init_value", 0.1)? > 0.0,
            mean_pooling: object.flag("use_mean_pooling", true)?,
        };
        Ok(config)
    }

    /// Refuses input sizes that the reference cannot run, or whose bias tables are too large.
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
