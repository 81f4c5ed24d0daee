//! `vision_config` of any image tower.

use std::path::Path;

use spotter_engine::bundle::Architecture;

use super::beit::BeitConfig;
use super::clip_vision::ClipVisionConfig;
use super::dinov2::Dinov2Config;
use super::nested::tower;
use super::patching::Patching;
use super::siglip_vision::SiglipVisionConfig;
use super::swin::SwinConfig;
use super::vit::VitConfig;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Image tower architectures.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionConfig {
    /// Vision Transformer.
    Vit(VitConfig),
    /// DeiT, whose configuration is that of a Vision Transformer.
    Deit(VitConfig),
    /// BEiT.
    Beit(BeitConfig),
    /// CLIP's image tower.
    Clip(ClipVisionConfig),
    /// DINOv2, with or without registers.
    Dinov2(Dinov2Config),
    /// SigLIP's image tower.
    Siglip(SiglipVisionConfig),
    /// Swin Transformer, of the first or second version.
    Swin(SwinConfig),
}

impl VisionConfig {
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        match object.text("model_type", "")?.as_str() {
            "vit" => Ok(Self::Vit(VitConfig::read(object)?)),
            "deit" => Ok(Self::Deit(VitConfig::read(object)?)),
            "beit" => Ok(Self::Beit(BeitConfig::read(object)?)),
            "clip_vision_model" => Ok(Self::Clip(ClipVisionConfig::read(object)?)),
            "dinov2" => Ok(Self::Dinov2(Dinov2Config::read(object, false)?)),
            "dinov2_with_registers" => Ok(Self::Dinov2(Dinov2Config::read(object, true)?)),
            "siglip_vision_model" => Ok(Self::Siglip(SiglipVisionConfig::read(object)?)),
            "swin" => Ok(Self::Swin(SwinConfig::read(object)?)),
            "swinv2" => Ok(Self::Swin(SwinConfig::read_second(object)?)),
            // A whole CLIP or SigLIP model contributes its image tower.
            "clip" => Self::read(&tower(object, "vision_config", "clip_vision_model")?),
            "siglip" => Self::read(&tower(object, "vision_config", "siglip_vision_model")?),
            other => {
                let reason = "image towers: \"vit\", \"deit\", \"beit\", \"clip_vision_model\", \"dinov2\", \
                              \"dinov2_with_registers\", \"siglip_vision_model\", \"swin\", \"swinv2\"";
                Err(object.unsupported("model_type", format!("{other:?}"), reason))
            }
        }
    }

    /// Sizes of the input and the patches.
    pub(crate) fn patching(&self) -> &Patching {
        match self {
            Self::Vit(config) | Self::Deit(config) => &config.patching,
            Self::Beit(config) => &config.patching,
            Self::Clip(config) => &config.patching,
            Self::Dinov2(config) => &config.patching,
            Self::Siglip(config) => &config.patching,
            Self::Swin(config) => &config.patching,
        }
    }

    /// Sets height and width of the input, which may differ from the trained size.
    ///
    /// # Errors
    /// The reference could not run the tower at this size either. `config` is the file that the message names.
    pub(crate) fn set_image_size(&mut self, image_size: [usize; 2], config: &Path) -> Result<(), CheckpointError> {
        let patching = match self {
            Self::Vit(config) | Self::Deit(config) => &mut config.patching,
            Self::Beit(config) => &mut config.patching,
            Self::Clip(config) => &mut config.patching,
            Self::Dinov2(config) => &mut config.patching,
            Self::Siglip(config) => &mut config.patching,
            Self::Swin(config) => &mut config.patching,
        };
        patching.image_size = image_size;
        let patching = *patching;
        patching.check(config)?;
        match self {
            Self::Swin(swin) => swin.check(config),
            Self::Beit(beit) => beit.check(config),
            Self::Vit(_) | Self::Deit(_) | Self::Clip(_) | Self::Dinov2(_) | Self::Siglip(_) => {
                patching.check_positions(config)
            }
        }
    }

    /// Width of the pooler output.
    pub(crate) fn pooled_width(&self) -> usize {
        match self {
            Self::Vit(config) | Self::Deit(config) => config.encoder.hidden_size,
            Self::Beit(config) => config.encoder.hidden_size,
            Self::Clip(config) => config.encoder.hidden_size,
            Self::Dinov2(config) => config.encoder.hidden_size,
            Self::Siglip(config) => config.encoder.hidden_size,
            Self::Swin(config) => config.pooled_width(),
        }
    }

    /// The architecture, as the bundle names it.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Vit(_) => Architecture::Vit,
            Self::Deit(_) => Architecture::Deit,
            Self::Beit(_) => Architecture::Beit,
            Self::Clip(_) => Architecture::Clip,
            Self::Dinov2(config) if config.registers.is_some() => Architecture::Dinov2WithRegisters,
            Self::Dinov2(_) => Architecture::Dinov2,
            Self::Siglip(_) => Architecture::Siglip,
            Self::Swin(config) if config.second.is_some() => Architecture::Swinv2,
            Self::Swin(_) => Architecture::Swin,
        }
    }
}
