//! A Hugging Face `VisionTextDualEncoder` directory: typed configurations and named tensors.
//!
//! All naming schemes of the weights are read: the names that transformers 4 and 5 save, and the module names of
//! transformers 5. Everything is checked on reading; the resulting types need no further checks.

mod bounded;
mod config;
mod error;
mod folder;
mod json;
mod names;
mod pickle;
mod preprocessor;
mod safetensors_file;
mod stored;
mod tensors;
mod tokenizer;
mod torch_archive;
mod torch_error;
mod torch_file;
mod weights_file;
mod weights_name;

pub use config::{
    Activation, BeitConfig, BertConfig, BertPositions, ClipPooling, ClipTextConfig, ClipVisionConfig, Dinov2Config,
    Dropout, DualEncoderConfig, EncoderConfig, Family, MpnetConfig, Patching, RobertaConfig, SecondStage,
    SiglipTextConfig, SiglipVisionConfig, SwinConfig, TextConfig, VisionConfig, VitConfig,
};
pub use error::CheckpointError;
pub use preprocessor::preprocess_config_of;
pub use tensors::Tensors;
pub use tokenizer::TokenizerFile;

pub(crate) use bounded::read_optional;
pub(crate) use folder::{in_subfolder, locate, name_of};
pub(crate) use json::Object;
pub(crate) use names::without_old_suffixes;
pub(crate) use tensors::shard_names;
pub(crate) use weights_file::WeightsFile;
pub(crate) use weights_name::choose as choose_weights;

use std::path::{Path, PathBuf};

use spotter_engine::bundle::{Override, Padding};
use spotter_engine::preprocess::{PreprocessConfig, Size};

use crate::overrides::{LOGIT_SCALE, Overrides};

/// File name of the model card, in checkpoints and in bundles.
const MODEL_CARD_FILE: &str = "MODEL_CARD.md";

/// Low bits of a 32-bit float's fraction that f32, f16 and bf16 drop.
const BITS_DROPPED: [u32; 3] = [0, 13, 16];

/// An opened checkpoint with a checked configuration. Weights are read on request.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// `config.json`.
    pub config: DualEncoderConfig,
    /// The weights.
    pub tensors: Tensors,
    /// `tokenizer.json`, or what was built from the vocabulary files.
    pub tokenizer: TokenizerFile,
    /// Preprocessing by `preprocessor_config.json` and the overrides.
    pub preprocess: PreprocessConfig,
    /// Record of the overrides that were applied.
    pub overrides: Vec<Override>,
    /// Prompt templates from the overrides.
    pub templates: Vec<String>,
    /// Logit scale, a natural logarithm: the trained value, or the override.
    pub logit_scale: f32,
    /// `MODEL_CARD.md`, if there is one.
    pub model_card: Option<Vec<u8>>,
}

impl Checkpoint {
    /// Opens the checkpoint in the directory `path`: reads its configuration, and names and shapes of its tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, &Overrides::default())
    }

    /// Opens the checkpoint as [`Self::open`] does, and applies the overrides `given`.
    pub fn open_with(path: &Path, given: &Overrides) -> Result<Self, CheckpointError> {
        let path = &locate(path)?;
        let config_file = path.join("config.json");
        let mut config = DualEncoderConfig::read(&config_file)?;
        let (preprocess, overrides) = preprocessor::read(path, config.vision.patching(), given)?;
        if let Some(Size { height, width }) = preprocess.output_size() {
            config.vision.set_image_size([height, width], &config_file)?;
        }
        let tokenizer = TokenizerFile::read(path, Some(&config.text))?;
        let tensors = Tensors::open(path)?;
        let model_card = model_card_of(path)?;
        let (path, templates) = (path.to_owned(), given.templates.clone());
        let logit_scale = config.logit_scale_init_value;
        let mut checkpoint =
            Self { path, config, tensors, tokenizer, preprocess, overrides, templates, logit_scale, model_card };
        checkpoint.logit_scale = checkpoint.trained_logit_scale()?;
        match given.logit_scale {
            Some(to) => {
                let from = checkpoint.logit_scale.to_string();
                checkpoint.overrides.push(given.entry(LOGIT_SCALE, from, to.to_string()));
                checkpoint.logit_scale = to.0;
            }
            None => checkpoint.warn_of_untrained_scale(),
        }
        checkpoint.overrides.extend(given.template_entries());
        Ok(checkpoint)
    }

    /// Name of the checkpoint's folder, or of the model if the folder is a snapshot in a hub cache.
    pub fn name(&self) -> String {
        let absolute = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let model = folder::model_of_snapshot(&absolute).map(str::to_owned);
        model.or_else(|| name_of(&absolute)).unwrap_or_else(|| "checkpoint".into())
    }

    /// Inputs of the text tower, in the order of the reference's arguments.
    ///
    /// With padding to a fixed length, the tokenizer decides whether the model gets an attention mask. Without padding,
    /// the mask is an input, all ones for a single prompt.
    pub(crate) fn text_inputs(&self) -> Vec<&'static str> {
        let masked = self.tokenizer.attention_mask || self.config.text.padding() == Padding::Longest;
        self.config.text.inputs().iter().copied().filter(|name| masked || *name != "attention_mask").collect()
    }

    /// Warns if the logit scale still has its initial value, rounded to any storage type: the first training step
    /// changes it.
    fn warn_of_untrained_scale(&self) {
        let (scale, initial) = (self.logit_scale, self.config.logit_scale_init_value);
        if self.tensors.shape("logit_scale").is_none() {
            log::warn!("{}: no tensor logit_scale; logit_scale_init_value {initial} is used", self.path.display());
        } else if BITS_DROPPED.iter().any(|bits| rounded(initial, *bits) == scale) {
            log::warn!(
                "{}: logit_scale is {scale}, its initial value: was this checkpoint ever trained?",
                self.path.display()
            );
        }
    }

    /// The value of the tensor `logit_scale`, or the initial value if there is no such tensor.
    fn trained_logit_scale(&self) -> Result<f32, CheckpointError> {
        match self.tensors.shape("logit_scale") {
            Some(_) => self.scalar("logit_scale"),
            None => Ok(self.config.logit_scale_init_value),
        }
    }

    /// The trained logit bias, if the architecture has one.
    pub fn logit_bias(&self) -> Result<Option<f32>, CheckpointError> {
        match self.config.family {
            Family::VisionTextDualEncoder | Family::Clip => Ok(None),
            Family::Siglip => Ok(Some(self.scalar("logit_bias")?)),
        }
    }

    fn scalar(&self, name: &str) -> Result<f32, CheckpointError> {
        // Either a scalar or a vector of one element: SigLIP's is a vector, and some tools store scalars that way.
        let shape: &[usize] = if self.tensors.shape(name) == Some(&[1]) { &[1] } else { &[] };
        Ok(self.tensors.read(name, shape)?[0])
    }
}

/// Rounds to the nearest float whose low `bits` bits are zero, ties to even.
fn rounded(value: f32, bits: u32) -> f32 {
    let raw = value.to_bits();
    let half = (1_u32 << bits) / 2;
    let up = if bits == 0 { 0 } else { half - 1 + (raw >> bits & 1) };
    f32::from_bits((raw + up) >> bits << bits)
}

/// Reads the model card in the folder `path`, if there is one.
pub(crate) fn model_card_of(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    read_optional(&path.join(MODEL_CARD_FILE))
}

/// Reads the tokenizer in the folder `path`, for a text tower without a configuration.
pub(crate) fn tokenizer_in(path: &Path) -> Result<TokenizerFile, CheckpointError> {
    TokenizerFile::read(path, None)
}

#[cfg(test)]
mod tests {
    use super::{BITS_DROPPED, rounded};

    /// Expected values are PyTorch's.
    #[test]
    fn values_as_other_types_store_them() {
        let check = |value: f32, expected: [f32; 3]| {
            assert_eq!(BITS_DROPPED.map(|bits| rounded(value, bits)), expected, "{value}");
        };
        check(2.6592, [2.6592, 2.660_156_3, 2.656_25]);
        check(0.0, [0.0; 3]);
        check(-1.001, [-1.001, -1.000_976_6, -1.0]);
        check(4.6052, [4.6052, 4.605_468_8, 4.593_75]);
    }
}
