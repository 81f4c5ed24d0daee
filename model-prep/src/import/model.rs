//! Two ONNX towers, with tokenizer and preprocessing.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use spotter_engine::bundle::{Override, Padding};
use spotter_engine::files;
use spotter_engine::hash::Hasher;
use spotter_engine::preprocess::{PreprocessConfig, Size};
use spotter_engine::score::{Scoring, ScoringKind};

use super::error::ImportError;
use super::tower::{Options, Projection, TowerInput, tower};
use crate::checkpoint::{TokenizerFile, model_card_of, name_of, preprocess_config_of, tokenizer_in};
use crate::overrides::{LOGIT_SCALE, Overrides, ScaleTo, TEXT_PADDING};
use crate::plan::Target;
use crate::towers::TowerFile;

/// The recorded original of an override that ONNX files do not contain.
const NOT_THERE: &str = "none";

/// Size limit in bytes of a file with a projection, which may hold a whole model. It is read into memory.
const PROJECTION_BYTES_MAX: u64 = 2 << 30;

/// The files of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxFiles {
    /// The image tower.
    pub vision: TowerSource,
    /// The text tower.
    pub text: TowerSource,
    /// Folder with `preprocessor_config.json`, and `tokenizer.json` or vocabulary files.
    pub folder: PathBuf,
    /// Logit bias, as in SigLIP; with one, probabilities are sigmoids of the logits.
    pub logit_bias: Option<f32>,
    /// Padding of prompts; `None` for the tokenizer's.
    pub padding: Option<Padding>,
}

/// The file of one tower.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerSource {
    /// The ONNX file.
    pub path: PathBuf,
    /// The output to use; `None` for the graph's only output.
    pub output: Option<String>,
    /// The projection: a safetensors file, and the name of a matrix [projection_dim, width] in it.
    pub projection: Option<(PathBuf, String)>,
}

/// Two ONNX towers, with everything else that a bundle contains.
#[derive(Debug)]
pub struct OnnxModel {
    pub(crate) name: String,
    pub(crate) preprocess: PreprocessConfig,
    pub(crate) tokenizer: TokenizerFile,
    pub(crate) padding: Padding,
    pub(crate) scoring: Scoring,
    pub(crate) overrides: Vec<Override>,
    pub(crate) templates: Vec<String>,
    pub(crate) model_card: Option<Vec<u8>>,
    vision: (PathBuf, Options),
    text: (PathBuf, Options),
}

impl OnnxModel {
    /// Reads the files next to the towers; the towers are read when they are built. `overrides` must have a logit
    /// scale, since no file contains it.
    pub fn open(files: &OnnxFiles, overrides: &Overrides) -> Result<Self, ImportError> {
        if overrides.image_size.is_some() {
            let expected = "a checkpoint, whose position embeddings can be interpolated; the input size of an ONNX \
                            tower is fixed: that of preprocessor_config.json or of --resize and --crop";
            return Err(wrong(&files.vision.path, "--image-size", expected, "an ONNX tower"));
        }
        let (preprocess, mut record) = preprocess_config_of(&files.folder, overrides)?;
        let Some(Size { height, width }) = preprocess.output_size() else {
            return Err(wrong(
                &files.folder,
                "preprocessor_config.json",
                "one size for all images",
                "a size that depends on the image",
            ));
        };
        let Some(ScaleTo(logit_scale)) = overrides.logit_scale else {
            return Err(wrong(
                &files.folder,
                "logit scale",
                "--logit-scale with the trained value, which ONNX files do not contain",
                "none",
            ));
        };
        record.push(overrides.entry(LOGIT_SCALE, NOT_THERE.into(), ScaleTo(logit_scale).to_string()));
        let tokenizer = tokenizer_in(&files.folder)?;
        let padding = files.padding.unwrap_or(tokenizer.padding);
        if padding != tokenizer.padding {
            let [from, to] = [tokenizer.padding, padding].map(|padding| padding_name(padding).to_owned());
            record.push(overrides.entry(TEXT_PADDING, from, to));
        }
        record.extend(overrides.template_entries());
        let kind = if files.logit_bias.is_some() { ScoringKind::Sigmoid } else { ScoringKind::Softmax };
        let options = |source: &TowerSource, input| {
            let projection = source.projection.as_ref().map(|(path, name)| projection(path, name)).transpose()?;
            Ok::<_, ImportError>((source.path.clone(), Options { input, output: source.output.clone(), projection }))
        };
        Ok(Self {
            name: name_of(&files.folder).unwrap_or_else(|| "onnx".into()),
            tokenizer,
            preprocess,
            padding,
            scoring: Scoring { logit_scale, logit_bias: files.logit_bias, kind },
            overrides: record,
            templates: overrides.templates.clone(),
            model_card: model_card_of(&files.folder)?,
            vision: options(&files.vision, TowerInput::Image([height, width]))?,
            text: options(&files.text, TowerInput::Text)?,
        })
    }

    /// Name of the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn vision(&self, target: Target<'_>) -> Result<TowerFile, ImportError> {
        tower(&self.vision.0, &self.vision.1, target)
    }

    pub(crate) fn text(&self, target: Target<'_>) -> Result<TowerFile, ImportError> {
        tower(&self.text.0, &self.text.1, target)
    }

    /// SHA-256 over both files. External data counts only by its reference in the graph.
    pub(crate) fn sha256(&self) -> Result<String, ImportError> {
        let mut hash = Hasher::new();
        for (path, _) in [&self.vision, &self.text] {
            let io = |source| ImportError::Io { path: path.clone(), source };
            let mut file = files::open(path).map_err(io)?;
            hash.update_from(&mut file).map_err(io)?;
        }
        Ok(hash.finish_hex())
    }
}

/// The name of a padding on the command line.
fn padding_name(padding: Padding) -> &'static str {
    match padding {
        Padding::Longest => "longest",
        Padding::MaxLength => "max-length",
    }
}

fn wrong(path: &Path, what: &str, expected: &str, found: &str) -> ImportError {
    ImportError::Graph { path: path.to_owned(), what: what.into(), expected: expected.into(), found: found.into() }
}

fn projection(path: &Path, name: &str) -> Result<Projection, ImportError> {
    let bytes =
        files::read(path, PROJECTION_BYTES_MAX).map_err(|source| ImportError::Io { path: path.to_owned(), source })?;
    let expected = "a tensor F32 [projection_dim, width]";
    let what = format!("tensor {name}");
    let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(path, "file", "safetensors", &e.to_string()))?;
    let tensor = file.tensor(name).map_err(|_| wrong(path, &what, expected, &file.names().join(", ")))?;
    match (tensor.dtype(), tensor.shape()) {
        (safetensors::Dtype::F32, [to, from]) if *to > 0 && *from > 0 => {
            let weight = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Ok(Projection { weight, from: *from })
        }
        (dtype, shape) => Err(wrong(path, &what, expected, &format!("{dtype:?} {shape:?}"))),
    }
}
