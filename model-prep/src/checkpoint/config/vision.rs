//! `vision_config`: which architecture, and the sizes that all of them have.

use std::path::Path;

use serde_json::Value;
use spotter_engine::bundle::Architecture;
use spotter_engine::preprocess::MAX_SIDE;

use super::{BeitConfig, ClipVisionConfig, Dinov2Config, SiglipVisionConfig, SwinConfig, VitConfig, tower};
use crate::checkpoint::CheckpointError;
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
    /// Swin Transformer.
    Swin(SwinConfig),
}

/// The input of an image tower and the patches it is cut into, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Height and width of the input.
    pub image_size: [usize; 2],
    /// Height and width of the input that there are position embeddings for.
    pub trained_size: [usize; 2],
    /// Height and width of a patch.
    pub patch_size: [usize; 2],
    /// Whether the reference takes pictures of any size without being asked to.
    pub any_size: bool,
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
            // A whole CLIP or SigLIP stands for its image tower.
            "clip" => Self::read(&tower(object, "vision_config", "clip_vision_model")?),
            "siglip" => Self::read(&tower(object, "vision_config", "siglip_vision_model")?),
            other => {
                let reason = "image towers: \"vit\", \"deit\", \"beit\", \"clip_vision_model\", \"dinov2\", \
                              \"dinov2_with_registers\", \"siglip_vision_model\", \"swin\"";
                Err(object.unsupported("model_type", format!("{other:?}"), reason))
            }
        }
    }

    /// Input and patches.
    pub fn patching(&self) -> &Patching {
        match self {
            Self::Vit(config) | Self::Deit(config) => &config.patching,
            Self::Beit(config) => &config.patching,
            Self::Clip(config) => &config.patching,
            Self::Dinov2(config) => &config.patching,
            Self::Siglip(config) => &config.patching,
            Self::Swin(config) => &config.patching,
        }
    }

    /// Makes the tower for pictures of this height and width, which need not be the size that it was trained for.
    ///
    /// # Errors
    /// Where the reference could not run it either; `config` is the file that the message names.
    pub fn set_image_size(&mut self, image_size: [usize; 2], config: &Path) -> Result<(), CheckpointError> {
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
            _ => patching.check_positions(config),
        }
    }

    /// Width of what the pooler gives.
    pub fn pooled_width(&self) -> usize {
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
            Self::Swin(_) => Architecture::Swin,
        }
    }
}

impl Patching {
    pub(super) fn read(object: &Object, image_size: usize, patch_size: usize) -> Result<Self, CheckpointError> {
        let channels = object.count("num_channels", 3)?;
        if channels != 3 {
            return Err(object.unsupported("num_channels", channels, "pictures have 3 channels"));
        }
        let image_size = pair(object, "image_size", image_size)?;
        let patch_size = pair(object, "patch_size", patch_size)?;
        if patch_size[0] > image_size[0] || patch_size[1] > image_size[1] {
            let expected = format!("at most image_size {image_size:?}");
            return Err(object.wrong("patch_size", &expected, object.get("patch_size")));
        }
        Ok(Self { image_size, trained_size: image_size, patch_size, any_size: false })
    }

    /// Rows and columns of patches; pixels beyond the last whole patch are not looked at.
    pub fn grid(&self) -> [usize; 2] {
        self.grid_of(self.image_size)
    }

    /// The same for the size that there are position embeddings for.
    pub fn trained_grid(&self) -> [usize; 2] {
        self.grid_of(self.trained_size)
    }

    fn grid_of(&self, size: [usize; 2]) -> [usize; 2] {
        [size[0] / self.patch_size[0], size[1] / self.patch_size[1]]
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.grid().iter().product()
    }

    /// Number of patches that there are position embeddings for.
    pub fn trained_patches(&self) -> usize {
        self.trained_grid().iter().product()
    }

    /// Side of the square grid that the reference takes the trained position embeddings for when it interpolates them;
    /// nothing where it takes them as they are.
    pub fn interpolated_from(&self) -> Option<usize> {
        let [height, width] = self.image_size;
        let same = self.patches() == self.trained_patches() && height == width;
        let asked = self.any_size || self.image_size != self.trained_size;
        (asked && !same).then(|| self.trained_patches().isqrt())
    }

    fn check(&self, config: &Path) -> Result<(), CheckpointError> {
        let [height, width] = self.image_size;
        let [patch_height, patch_width] = self.patch_size;
        let fits = height >= patch_height && width >= patch_width && height.max(width) <= MAX_SIDE;
        if !fits {
            let expected =
                format!("one patch of {patch_height} x {patch_width} pixels at least, sides of {MAX_SIDE} at most");
            return Err(wrong_size(config, self.image_size, &expected));
        }
        Ok(())
    }

    /// Refuses to interpolate what the reference cannot reshape to a square.
    pub(super) fn check_positions(&self, config: &Path) -> Result<(), CheckpointError> {
        let Some(side) = self.interpolated_from() else { return Ok(()) };
        if side * side == self.trained_patches() {
            return Ok(());
        }
        let ([rows, columns], [height, width]) = (self.trained_grid(), self.trained_size);
        let expected = format!(
            "{height} x {width}: position embeddings of {rows} x {columns} patches cannot be interpolated, the reference \
             takes them for a square"
        );
        Err(wrong_size(config, self.image_size, &expected))
    }
}

/// The error for an input size that a tower cannot have.
pub(super) fn wrong_size(config: &Path, [height, width]: [usize; 2], expected: &str) -> CheckpointError {
    CheckpointError::Key {
        path: config.to_owned(),
        key: "size of the image tower's input (--image-size)".into(),
        expected: expected.to_owned(),
        found: format!("{height} x {width}"),
    }
}

/// Height and width of at most [`MAX_SIDE`] pixels, given as one number for both or as a pair.
fn pair(object: &Object, key: &str, default: usize) -> Result<[usize; 2], CheckpointError> {
    let one = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MAX_SIDE).contains(n));
    let expected = format!("a whole number from 1 to {MAX_SIDE}, or [height, width]");
    object.or(key, [default; 2], &expected, |v| match v {
        Value::Array(sides) => match &sides[..] {
            [height, width] => Some([one(height)?, one(width)?]),
            _ => None,
        },
        _ => one(v).map(|n| [n; 2]),
    })
}
