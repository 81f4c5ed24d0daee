//! A Hugging Face `VisionTextDualEncoder` directory: typed configurations and named tensors.
//!
//! Both naming generations of the weights are read: what transformers 4 and 5 save, and what the modules of
//! transformers 5 are called. Everything is checked here once; what comes out needs no second look.

mod bounded;
mod config;
mod error;
mod json;
mod names;
mod pickle;
mod preprocessor;
mod safetensors_file;
mod tensors;
mod tokenizer;
mod torch_archive;
mod torch_file;
mod weights_file;

pub use config::{
    Activation, BeitConfig, BertConfig, ClipPooling, ClipTextConfig, ClipVisionConfig, Dinov2Config, DualEncoderConfig,
    EncoderConfig, Family, MpnetConfig, Patching, RobertaConfig, SiglipTextConfig, SiglipVisionConfig, SwinConfig,
    TextConfig, VisionConfig, VitConfig,
};
pub use error::CheckpointError;
pub(crate) use preprocessor::recipe_in;
pub use preprocessor::recipe_of;
pub use tensors::Tensors;
pub use tokenizer::TokenizerFile;

pub(crate) use bounded::read_optional;
pub(crate) use json::Object;
pub(crate) use names::without_old_ends;

use std::path::{Path, PathBuf};

use spotter_engine::bundle::{Override, Padding};
use spotter_engine::preprocess::{Recipe, Size};

use crate::overrides::{LOGIT_SCALE, Overrides, ScaleTo};

/// Name of the model card, in a checkpoint as in a bundle.
const MODEL_CARD_FILE: &str = "MODEL_CARD.md";

/// A checkpoint that was opened and whose configuration was checked; weights are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it lies.
    pub path: PathBuf,
    /// `config.json`.
    pub config: DualEncoderConfig,
    /// The weights.
    pub tensors: Tensors,
    /// `tokenizer.json`, or what stands for it.
    pub tokenizer: TokenizerFile,
    /// `preprocessor_config.json`, with what was set by hand.
    pub preprocess: Recipe,
    /// What was set by hand.
    pub overrides: Vec<Override>,
    /// Prompt templates that were set by hand.
    pub templates: Vec<String>,
    logit_scale: Option<ScaleTo>,
    /// `MODEL_CARD.md`, where there is one.
    pub model_card: Option<Vec<u8>>,
}

impl Checkpoint {
    /// Reads the configuration of the checkpoint in the directory `path`, and the names and shapes of its tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, &Overrides::default())
    }

    /// The same, with `overrides` in the place of what the checkpoint says.
    pub fn open_with(path: &Path, given: &Overrides) -> Result<Self, CheckpointError> {
        let kind = std::fs::metadata(path).map_err(|source| CheckpointError::io(path, source))?;
        if !kind.is_dir() {
            return Err(CheckpointError::NotACheckpoint { path: path.to_owned(), found: "a file" });
        }
        let config_file = path.join("config.json");
        let mut config = DualEncoderConfig::read(&config_file)?;
        let (preprocess, overrides) = preprocessor::read(path, config.vision.patching(), given)?;
        if let Some(Size { height, width }) = preprocess.output_size() {
            config.vision.set_image_size([height, width], &config_file)?;
        }
        let tokenizer = TokenizerFile::read(path, Some(&config.text))?;
        let tensors = Tensors::open(path)?;
        let model_card = model_card_of(path)?;
        let path = path.to_owned();
        let (logit_scale, templates) = (given.logit_scale, given.templates.clone());
        let mut checkpoint =
            Self { path, config, tensors, tokenizer, preprocess, overrides, templates, logit_scale, model_card };
        if let Some(to) = logit_scale {
            let from = checkpoint.trained_logit_scale()?;
            checkpoint.overrides.push(given.entry(LOGIT_SCALE, from.to_string(), to.to_string()));
        }
        checkpoint.overrides.extend(given.template_entries());
        Ok(checkpoint)
    }

    /// Name of the checkpoint's folder.
    pub fn name(&self) -> String {
        let absolute = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.file_name().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
    }

    /// Inputs of the text tower, in the order of the reference's arguments.
    ///
    /// Where prompts are padded to one length, the tokenizer decides whether the model gets to know what is padding;
    /// elsewhere a mask of a single prompt holds nothing but ones.
    pub fn text_inputs(&self) -> Vec<&'static str> {
        let masked = self.tokenizer.attention_mask || self.config.text.padding() == Padding::Longest;
        self.config.text.inputs().iter().copied().filter(|name| masked || *name != "attention_mask").collect()
    }

    /// Natural logarithm of the factor on cosines: the trained value, or what was set in its place.
    pub fn logit_scale(&self) -> Result<f32, CheckpointError> {
        if let Some(ScaleTo(scale)) = self.logit_scale {
            return Ok(scale);
        }
        let scale = self.trained_logit_scale()?;
        // Training moves it in its first step.
        if scale == self.config.logit_scale_init_value {
            log::warn!(
                "{}: logit_scale is {scale}, its value before training: was this checkpoint ever tuned?",
                self.path.display()
            );
        }
        Ok(scale)
    }

    fn trained_logit_scale(&self) -> Result<f32, CheckpointError> {
        if self.tensors.shape("logit_scale").is_none() {
            log::warn!(
                "{}: no tensor logit_scale: logit_scale_init_value {} is used",
                self.path.display(),
                self.config.logit_scale_init_value
            );
            return Ok(self.config.logit_scale_init_value);
        }
        self.scalar("logit_scale")
    }

    /// What is added to logits, where the architecture does so: the trained value.
    pub fn logit_bias(&self) -> Result<Option<f32>, CheckpointError> {
        match self.config.family {
            Family::VisionTextDualEncoder | Family::Clip => Ok(None),
            Family::Siglip => Ok(Some(self.scalar("logit_bias")?)),
        }
    }

    fn scalar(&self, name: &str) -> Result<f32, CheckpointError> {
        // With or without an axis: SigLIP has one, and some tools keep scalars as one-element vectors.
        let shape: &[usize] = if self.tensors.shape(name) == Some(&[1]) { &[1] } else { &[] };
        Ok(self.tensors.read(name, shape)?[0])
    }
}

/// The model card in the folder `path`, where there is one.
pub(crate) fn model_card_of(path: &Path) -> Result<Option<Vec<u8>>, CheckpointError> {
    read_optional(&path.join(MODEL_CARD_FILE))
}

/// The tokenizer in the folder `path`, for a text tower of which no configuration is known.
pub(crate) fn tokenizer_in(path: &Path) -> Result<TokenizerFile, CheckpointError> {
    TokenizerFile::read(path, None)
}
