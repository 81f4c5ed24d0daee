//! Arguments of `model-prep export` about ONNX towers.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use spotter_engine::bundle::Padding;

use crate::import::{OnnxFiles, TowerSource};

/// Towers that were exported to ONNX by other programs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Towers in ONNX files")]
pub(super) struct OnnxArguments {
    /// ONNX file of the image tower. CHECKPOINT is then a folder with preprocessor_config.json and a tokenizer, and
    /// --logit-scale is required.
    #[arg(long, value_name = "FILE.onnx", requires = "text_onnx")]
    vision_onnx: Option<PathBuf>,
    /// ONNX file of the text tower.
    #[arg(long, value_name = "FILE.onnx", requires = "vision_onnx")]
    text_onnx: Option<PathBuf>,
    /// Output of the image tower to use: the embedding or the pooler output. Default: its only output.
    #[arg(long, value_name = "NAME", requires = "vision_onnx")]
    vision_output: Option<String>,
    /// Output of the text tower to use.
    #[arg(long, value_name = "NAME", requires = "text_onnx")]
    text_output: Option<String>,
    /// Projection of the image tower's output: a matrix [projection_dim, width] in a safetensors file.
    #[arg(long, value_name = "FILE:TENSOR", requires = "vision_onnx", value_parser = projection)]
    vision_projection: Option<(PathBuf, String)>,
    /// Projection of the text tower's output.
    #[arg(long, value_name = "FILE:TENSOR", requires = "text_onnx", value_parser = projection)]
    text_projection: Option<(PathBuf, String)>,
    /// Logit bias; probabilities are then sigmoids of the logits, as in SigLIP.
    #[arg(long, value_name = "NUMBER", requires = "vision_onnx", allow_hyphen_values = true)]
    logit_bias: Option<f32>,
    /// Padding of prompts, if the tokenizer's files differ from how the text tower was trained.
    #[arg(long, value_enum, value_name = "HOW", requires = "text_onnx", group = "overrides")]
    text_padding: Option<PaddingName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaddingName {
    /// No padding: prompts are run one at a time.
    Longest,
    /// To the tokenizer's maximum length, as in SigLIP.
    MaxLength,
}

impl From<PaddingName> for Padding {
    fn from(name: PaddingName) -> Self {
        match name {
            PaddingName::Longest => Self::Longest,
            PaddingName::MaxLength => Self::MaxLength,
        }
    }
}

impl OnnxArguments {
    /// Returns whether towers are given.
    pub(super) fn has_towers(&self) -> bool {
        self.vision_onnx.is_some()
    }

    /// The ONNX files, if any are given; `folder` holds the tokenizer and `preprocessor_config.json`.
    pub(super) fn files(self, folder: &Path) -> Option<OnnxFiles> {
        Some(OnnxFiles {
            vision: TowerSource {
                path: self.vision_onnx?,
                output: self.vision_output,
                projection: self.vision_projection,
            },
            text: TowerSource { path: self.text_onnx?, output: self.text_output, projection: self.text_projection },
            folder: folder.to_owned(),
            logit_bias: self.logit_bias,
            padding: self.text_padding.map(Padding::from),
        })
    }
}

fn projection(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((path, name)) if !path.is_empty() && !name.is_empty() => Ok((path.into(), name.to_owned())),
        _ => Err("expected FILE:TENSOR, such as towers.safetensors:visual_projection.weight".into()),
    }
}
