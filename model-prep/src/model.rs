//! The sources of a bundle: a checkpoint, or ONNX towers of other exporters.

use spotter_engine::bundle::{Override, Padding, Positions, Source};
use spotter_engine::preprocess::PreprocessConfig;
use spotter_engine::score::Scoring;

use crate::checkpoint::{Checkpoint, TokenizerFile};
use crate::error::Error;
use crate::import::OnnxModel;
use crate::plan::Target;
use crate::progress::Tick;
use crate::towers::{self, TowerFile};

/// The source of a bundle.
#[derive(Debug, Clone, Copy)]
pub enum Model<'a> {
    /// A Hugging Face checkpoint.
    Checkpoint(&'a Checkpoint),
    /// Two ONNX files, with tokenizer and preprocessing.
    Onnx(&'a OnnxModel),
}

impl<'a> From<&'a Checkpoint> for Model<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self::Checkpoint(checkpoint)
    }
}

impl<'a> From<&'a OnnxModel> for Model<'a> {
    fn from(model: &'a OnnxModel) -> Self {
        Self::Onnx(model)
    }
}

impl<'a> Model<'a> {
    /// Builds the image tower.
    pub(crate) fn image_tower(self, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, Error> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(towers::vision(checkpoint, target, tick)?),
            Self::Onnx(model) => Ok(model.vision(target)?),
        }
    }

    /// Builds the text tower.
    pub(crate) fn text_tower(self, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, Error> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(towers::text(checkpoint, target, tick)?),
            Self::Onnx(model) => Ok(model.text(target)?),
        }
    }

    pub(crate) fn source(self) -> Result<Source, Error> {
        match self {
            Self::Checkpoint(checkpoint) => {
                Ok(Source { checkpoint: checkpoint.name(), sha256: checkpoint.tensors.sha256()? })
            }
            Self::Onnx(model) => Ok(Source { checkpoint: model.name.clone(), sha256: model.sha256()? }),
        }
    }

    pub(crate) fn scoring(self) -> Result<Scoring, Error> {
        match self {
            Self::Checkpoint(checkpoint) => Ok(Scoring {
                logit_scale: checkpoint.logit_scale,
                logit_bias: checkpoint.logit_bias()?,
                kind: checkpoint.config.family.scoring(),
            }),
            Self::Onnx(model) => Ok(model.scoring),
        }
    }

    pub(crate) fn positions(self) -> Positions {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.config.text.positions(),
            Self::Onnx(_) => Positions::Sequential,
        }
    }

    pub(crate) fn padding(self) -> Padding {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.config.text.padding(),
            Self::Onnx(model) => model.padding,
        }
    }

    pub(crate) fn tokenizer(self) -> &'a TokenizerFile {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.tokenizer,
            Self::Onnx(model) => &model.tokenizer,
        }
    }

    pub(crate) fn preprocess(self) -> &'a PreprocessConfig {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.preprocess,
            Self::Onnx(model) => &model.preprocess,
        }
    }

    pub(crate) fn overrides(self) -> &'a [Override] {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.overrides,
            Self::Onnx(model) => &model.overrides,
        }
    }

    /// Prompt templates from the overrides.
    pub(crate) fn templates(self) -> &'a [String] {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.templates,
            Self::Onnx(model) => &model.templates,
        }
    }

    pub(crate) fn model_card(self) -> Option<&'a [u8]> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.model_card.as_deref(),
            Self::Onnx(model) => model.model_card.as_deref(),
        }
    }

    /// Number of times that building both towers calls `tick`.
    pub(crate) fn steps(self) -> u64 {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.tensors.count(),
            Self::Onnx(_) => 0,
        }
    }
}
