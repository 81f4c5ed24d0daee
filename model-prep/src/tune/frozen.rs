//! Locked towers, run by the engine up to the pooler: fused, on all cores, each image and sentence once.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{ArrayView4, Axis};
use spotter_engine::bundle::{self, FileEntry, Manifest, Quantization, TowerKind, Weights};
use spotter_engine::picture;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::score::ScoringKind;
use spotter_engine::tokenize::Tokenizer;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use super::error::TuneError;
use crate::checkpoint::Checkpoint;
use crate::plan::{Plan, Target};
use crate::towers::{End, TowerFile, text_to, vision_to};

/// A locked image tower with its preprocessing.
#[derive(Debug, Clone)]
pub(super) struct LockedImages {
    tower: ImageTower,
    manifest: Manifest,
}

/// What one thread needs to run it.
pub(super) struct ImageWorker<'a> {
    locked: &'a LockedImages,
    tower: ImageTower,
    preprocessor: Preprocessor,
    pixels: Vec<f32>,
}

/// A locked text tower with its tokenizer.
#[derive(Debug, Clone)]
pub(super) struct LockedTexts(TextTower);

impl LockedImages {
    /// Builds the tower; its weights are in a temporary file in the folder `scratch`.
    pub(super) fn new(checkpoint: &Checkpoint, scratch: &Path) -> Result<Self, TuneError> {
        let plan = Plan::from(Weights::F32);
        let file = vision_to(End::Pooler, checkpoint, Target { plan: &plan, scratch }, &|| ())?;
        let manifest = manifest(checkpoint, &file, TowerKind::Image);
        let tower = ImageTower::from_reader(file.onnx.reader(), &manifest, &Threads::default());
        Ok(Self { tower: tower.map_err(crate::Error::from)?, manifest })
    }

    pub(super) fn worker(&self) -> Result<ImageWorker<'_>, TuneError> {
        let preprocessor = self.manifest.preprocessor()?;
        Ok(ImageWorker { locked: self, tower: self.tower.clone(), preprocessor, pixels: Vec::new() })
    }
}

impl ImageWorker<'_> {
    /// The pooler output for the content of an image's file; the inner error says why it cannot be read.
    pub(super) fn pooled(&mut self, bytes: &[u8]) -> Result<Result<Vec<f32>, TuneError>, TuneError> {
        let read = picture::decode(bytes).map_err(TuneError::from);
        let read = read.and_then(|image| Ok(self.preprocessor.run(&image, &mut self.pixels)?));
        if let Err(error) = read {
            return Ok(Err(error));
        }
        let [height, width] = self.locked.manifest.image_size();
        let shaped = ArrayView4::from_shape((1, 3, height, width), &self.pixels);
        let shaped = shaped.map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        let features = self.tower.features_batch(shaped).map_err(crate::Error::from)?;
        Ok(Ok(features.index_axis(Axis(0), 0).to_vec()))
    }
}

impl LockedTexts {
    /// Builds the tower; its weights are in a temporary file in the folder `scratch`.
    pub(super) fn new(checkpoint: &Checkpoint, scratch: &Path) -> Result<Self, TuneError> {
        let plan = Plan::from(Weights::F32);
        let file = text_to(End::Pooler, checkpoint, Target { plan: &plan, scratch }, &|| ())?;
        let manifest = manifest(checkpoint, &file, TowerKind::Text);
        let json = &checkpoint.tokenizer.json;
        let tower = TextTower::from_reader(file.onnx.reader(), json, &manifest, &Threads::default());
        Ok(Self(tower.map_err(crate::Error::from)?))
    }

    /// The pooler output for a sentence.
    pub(super) fn pooled(&mut self, sentence: &str) -> Result<Vec<f32>, TuneError> {
        let encoding = self.0.tokenizer().encode(sentence)?;
        let features = self.0.features_batch(&[encoding]).map_err(crate::Error::from)?;
        Ok(features.index_axis(Axis(0), 0).to_vec())
    }
}

/// The tokenizer of a checkpoint, with the text tower's way of counting positions.
pub(super) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, TuneError> {
    let text = &checkpoint.config.text;
    let spec = checkpoint.tokenizer.spec(no_file(), text.padding(), text.positions());
    Ok(Tokenizer::from_bytes(&checkpoint.tokenizer.json, &spec)?)
}

fn no_file() -> FileEntry {
    FileEntry { name: String::new(), bytes: 0, sha256: String::new() }
}

/// The description of a tower that is loaded from memory. It names this tower in the place of the other one too, which is
/// not loaded.
fn manifest(checkpoint: &Checkpoint, file: &TowerFile, kind: TowerKind) -> Manifest {
    let tower = bundle::Tower {
        file: no_file(),
        architecture: file.architecture,
        weights: Weights::F32,
        inputs: file.inputs.clone(),
        output: file.output.clone(),
        features: Some(file.features.clone()),
    };
    let text = &checkpoint.config.text;
    Manifest {
        format_version: bundle::FORMAT_VERSION,
        name: format!("{kind:?}"),
        projection_dim: file.projection_dim(),
        logit_scale: 0.0,
        logit_bias: None,
        scoring: ScoringKind::Softmax,
        vision: tower.clone(),
        text: tower,
        preprocess: checkpoint.preprocess.clone(),
        tokenizer: checkpoint.tokenizer.spec(no_file(), text.padding(), text.positions()),
        templates: Vec::new(),
        source: bundle::Source { checkpoint: String::new(), sha256: String::new() },
        overrides: Vec::new(),
        quantization: Quantization {
            recipe: String::new(),
            image_cosine_min: 1.0,
            text_cosine_min: 1.0,
            exceptions: BTreeMap::new(),
            calibration: None,
            layers: Vec::new(),
        },
        adapted_labels: Vec::new(),
        model_card: no_file(),
    }
}
