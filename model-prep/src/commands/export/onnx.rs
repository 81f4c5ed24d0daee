//! What the command line says of ONNX towers.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use spotter_engine::bundle::Padding;

use super::{OnnxFiles, TowerSource};

/// Towers that were exported to ONNX by other programs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Towers in ONNX files")]
pub(crate) struct OnnxArguments {
    /// Take this image tower: CHECKPOINT then is a folder with preprocessor_config.json and a tokenizer, and
    /// --logit-scale is needed.
    #[arg(long, value_name = "FILE.onnx", requires = "text_onnx")]
    vision_onnx: Option<PathBuf>,
    /// Take this text tower.
    #[arg(long, value_name = "FILE.onnx", requires = "vision_onnx")]
    text_onnx: Option<PathBuf>,
    /// Output of the image tower: the embedding, or what the pooler gives; the only one if left out.
    #[arg(long, value_name = "NAME", requires = "vision_onnx")]
    vision_output: Option<String>,
    /// Output of the text tower.
    #[arg(long, value_name = "NAME", requires = "text_onnx")]
    text_output: Option<String>,
    /// Multiply the image tower's output by this matrix [projection_dim, width] of a safetensors file.
    #[arg(long, value_name = "FILE:TENSOR", requires = "vision_onnx", value_parser = projection)]
    vision_projection: Option<(PathBuf, String)>,
    /// Multiply the text tower's output by this matrix.
    #[arg(long, value_name = "FILE:TENSOR", requires = "text_onnx", value_parser = projection)]
    text_projection: Option<(PathBuf, String)>,
    /// Added to logits, which a sigmoid then turns into probabilities, as SigLIP does.
    #[arg(long, value_name = "NUMBER", requires = "vision_onnx", allow_hyphen_values = true)]
    logit_bias: Option<f32>,
    /// How far prompts are padded, where the tokenizer's files do not say what the text tower was trained with.
    #[arg(long, value_enum, value_name = "HOW", requires = "text_onnx", group = "overrides")]
    text_padding: Option<PaddingName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PaddingName {
    /// Not at all: one prompt at a time.
    Longest,
    /// To the most tokens that the tokenizer allows, as SigLIP.
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
    /// The files, where any are named; `folder` holds what belongs to them.
    pub(crate) fn files(self, folder: &Path) -> Option<OnnxFiles> {
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
        _ => {
            Err("expected a file and the name of a tensor in it, as towers.safetensors:visual_projection.weight".into())
        }
    }
}
