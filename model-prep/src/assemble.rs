//! Assembles the parts of a bundle from a model, before anything is written.

use std::path::Path;

use spotter_engine::bundle::{self, FileEntry, Manifest, Quantization, Source, Tower, Weights};
use spotter_engine::score::Scoring;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::error::Error;
use crate::model::Model;
use crate::overrides::DEFAULT_TEMPLATE;
use crate::plan::{Plans, Target};
use crate::progress::Tick;
use crate::towers::TowerFile;

/// The parts of a bundle, before they are written.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// Complete except for names, sizes and hashes of the files, which [`bundle::Writer`] fills in.
    pub(crate) manifest: Manifest,
    /// The image tower.
    pub(crate) vision: TowerFile,
    /// The text tower.
    pub(crate) text: TowerFile,
    /// `tokenizer.json`.
    pub(crate) tokenizer: Vec<u8>,
    /// `MODEL_CARD.md`.
    pub(crate) model_card: Vec<u8>,
}

impl Assembled {
    /// Loads the image tower.
    pub(crate) fn image_tower(&self, threads: &Threads) -> Result<ImageTower, Error> {
        Ok(ImageTower::from_reader(self.vision.onnx.reader(), &self.manifest, threads)?)
    }

    /// Loads the text tower.
    pub(crate) fn text_tower(&self, threads: &Threads) -> Result<TextTower, Error> {
        Ok(TextTower::from_reader(self.text.onnx.reader(), &self.tokenizer, &self.manifest, threads)?)
    }
}

/// Assembles the parts of a bundle. The towers' weights are in unnamed temporary files in the folder `scratch`. The
/// manifest's cosines are set to 1, which holds for float weights only.
pub(crate) fn assemble<'a>(
    model: impl Into<Model<'a>>,
    name: &str,
    plans: &Plans,
    scratch: &Path,
    tick: Tick<'_>,
) -> Result<Assembled, Error> {
    let model = model.into();
    let vision = model.image_tower(Target { plan: &plans.image, scratch }, tick)?;
    let text = model.text_tower(Target { plan: &plans.text, scratch }, tick)?;
    let [projection_dim, of_text] = [&vision, &text].map(TowerFile::projection_dim);
    if projection_dim != of_text {
        return Err(Error::Spaces { image: projection_dim, text: of_text });
    }
    let Scoring { logit_scale, logit_bias, kind } = model.scoring()?;
    let tokenizer = model.tokenizer();
    let source = model.source()?;
    let manifest = Manifest {
        format_version: bundle::FORMAT_VERSION,
        name: name.to_owned(),
        projection_dim,
        logit_scale,
        logit_bias,
        scoring: kind,
        vision: tower(&vision, plans.image.weights),
        text: tower(&text, plans.text.weights),
        preprocess: model.preprocess().clone(),
        tokenizer: tokenizer.spec(no_file_yet(), model.padding(), model.positions()),
        templates: if model.templates().is_empty() {
            vec![DEFAULT_TEMPLATE.to_owned()]
        } else {
            model.templates().to_vec()
        },
        source,
        overrides: model.overrides().to_vec(),
        quantization: Quantization {
            recipe: plans.recipe(&vision.layers, &text.layers),
            image_cosine_min: 1.0,
            text_cosine_min: 1.0,
            exceptions: exceptions(&vision, plans.image.weights).chain(exceptions(&text, plans.text.weights)).collect(),
            calibration: None,
            layers: Vec::new(),
        },
        adapted_labels: Vec::new(),
        model_card: no_file_yet(),
    };
    let model_card = model.model_card().map_or_else(|| model_card(&manifest), <[u8]>::to_vec);
    Ok(Assembled { manifest, vision, text, tokenizer: tokenizer.json.clone(), model_card })
}

fn tower(built: &TowerFile, weights: Weights) -> Tower {
    Tower {
        file: no_file_yet(),
        architecture: built.architecture,
        weights,
        inputs: built.inputs.clone(),
        output: built.output.clone(),
        features: Some(built.features.clone()),
    }
}

/// The layers of a tower that are not stored as `weights`.
fn exceptions(tower: &TowerFile, weights: Weights) -> impl Iterator<Item = (String, Weights)> {
    let others = tower.layers.iter().filter(move |layer| layer.stored != weights);
    others.map(|layer| (layer.name.clone(), layer.stored))
}

fn no_file_yet() -> FileEntry {
    FileEntry { name: String::new(), bytes: 0, sha256: String::new() }
}

/// Writes a model card for a checkpoint without one.
fn model_card(manifest: &Manifest) -> Vec<u8> {
    let (vision, text) = (manifest.vision.architecture, manifest.text.architecture);
    let Source { checkpoint, sha256 } = &manifest.source;
    format!(
        "# {}\n\nA dual encoder ({vision:?} image tower, {text:?} text tower, {} dimensions), made of the checkpoint \
         `{checkpoint}`, whose weights have the SHA-256 `{sha256}`.\n\nThe checkpoint came without a model card: what it \
         was trained on, what it is good for and who may use it is not recorded here. Ask whoever gave it to you.\n",
        manifest.name, manifest.projection_dim
    )
    .into_bytes()
}
