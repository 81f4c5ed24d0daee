//! Checkpoint to bundle.

pub(crate) mod command;

use std::io;
use std::path::Path;

use spotter_engine::bundle::{self, FileEntry, Manifest, Part, Quantization, Source, Tower, Weights, Writer};
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::compare::{self, Agreement, image_probes, text_probes};
use crate::model::{Model, Scores};
use crate::overrides::DEFAULT_TEMPLATE;
use crate::plan::{Plans, Target};
use crate::towers::TowerFile;
use crate::{Error, Tick, calibrate, probes};

/// The parts of a bundle before they are written.
#[derive(Debug)]
pub struct Assembled {
    /// Complete but for the files' names, sizes and hashes, which [`bundle::Writer`] fills in.
    pub manifest: Manifest,
    /// The image tower.
    pub vision: TowerFile,
    /// The text tower.
    pub text: TowerFile,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `MODEL_CARD.md`.
    pub model_card: Vec<u8>,
}

impl Assembled {
    /// Loads the image tower.
    pub fn image_tower(&self, threads: &Threads) -> Result<ImageTower, Error> {
        Ok(ImageTower::from_reader(self.vision.onnx.reader(), &self.manifest, threads)?)
    }

    /// Loads the text tower.
    pub fn text_tower(&self, threads: &Threads) -> Result<TextTower, Error> {
        Ok(TextTower::from_reader(self.text.onnx.reader(), &self.tokenizer, &self.manifest, threads)?)
    }
}

/// Makes a bundle of `model` and writes it to `out`; `tick` is called often, to show that it goes on.
///
/// Weights are read, converted and written one tensor after the other, and towers are loaded one at a time.
pub fn export<'a>(
    model: impl Into<Model<'a>>,
    out: &Path,
    name: &str,
    plans: impl Into<Plans>,
    tick: Tick<'_>,
) -> Result<Manifest, Error> {
    export_calibrated(model, out, name, plans, None, tick)
}

/// The same; with settings, layers that cost too much stay floats. See [`calibrate`]; of towers that run fused it holds
/// both forms in memory.
///
/// # Errors
/// Besides what keeps a bundle from being written: with settings, where all weights stay floats.
pub fn export_calibrated<'a>(
    model: impl Into<Model<'a>>,
    out: &Path,
    name: &str,
    plans: impl Into<Plans>,
    settings: Option<&calibrate::Settings>,
    tick: Tick<'_>,
) -> Result<Manifest, Error> {
    let (model, plans) = (model.into(), plans.into());
    if settings.is_some() && plans.is_float() {
        return Err(Error::NothingToCalibrate);
    }
    let mut writer = Writer::new(out)?;
    let mut parts = assemble(model, name, &plans, writer.folder(), tick)?;
    if !plans.is_float() {
        let float = assemble(model, name, &Plans::from(Weights::F32), writer.folder(), tick)?;
        let material =
            calibrate::Material { model, plans: &plans, stored: &parts, float: &float, scratch: writer.folder() };
        let choice = settings.map(|settings| calibrate::choose(material, settings, tick)).transpose()?;
        if let Some(choice) = choice {
            if choice.plans != plans {
                parts = assemble(model, name, &choice.plans, writer.folder(), tick)?;
            }
            parts.manifest.quantization.calibration = Some(choice.calibration);
            parts.manifest.quantization.layers = choice.layers;
        }
        let agreement = agreement(&parts, &float, tick)?;
        parts.manifest.quantization.image_cosine_min = rounded(agreement[0].cosine_min);
        parts.manifest.quantization.text_cosine_min = rounded(agreement[1].cosine_min);
    }
    for (part, tower) in [(Part::Vision, &parts.vision), (Part::Text, &parts.text)] {
        let path = writer.folder().join(part.name());
        let mut file = writer.create(part)?;
        io::copy(&mut tower.onnx.reader(), &mut file).map_err(|source| Error::Io { path, source })?;
        file.finish()?;
    }
    writer.add(Part::Tokenizer, &parts.tokenizer)?;
    writer.add(Part::ModelCard, &parts.model_card)?;
    Ok(writer.finish(parts.manifest)?)
}

/// Of pictures and prompts, on probes.
fn agreement(ours: &Assembled, theirs: &Assembled, tick: Tick<'_>) -> Result<[Agreement; 2], Error> {
    let threads = compare::threads()?;
    // Each tower is gone before the next one is loaded.
    let images = |parts: &Assembled| image_probes(&parts.image_tower(&threads)?, &parts.manifest, tick);
    let texts = |parts: &Assembled| text_probes(&mut parts.text_tower(&threads)?, tick);
    Ok([Agreement::of(&images(ours)?, &images(theirs)?), Agreement::of(&texts(ours)?, &texts(theirs)?)])
}

/// How often [`export`] calls `tick`, about.
pub fn steps<'a>(model: impl Into<Model<'a>>, plans: &Plans) -> u64 {
    let steps = model.into().steps();
    if plans.is_float() { steps } else { 2 * (steps + probes::count()) }
}

/// Makes the parts of a bundle, the towers' weights in files without a name in the folder `scratch`. The accuracy in
/// the manifest stays at 1, which is true of floats only.
pub fn assemble<'a>(
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
    let Scores { logit_scale, logit_bias, scoring } = model.scores()?;
    let tokenizer = model.tokenizer();
    let source = model.source()?;
    let manifest = Manifest {
        format_version: bundle::FORMAT_VERSION,
        name: name.to_owned(),
        projection_dim,
        logit_scale,
        logit_bias,
        scoring,
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
            recipe: plans.recipe(),
            image_cosine_min: 1.0,
            text_cosine_min: 1.0,
            calibration: None,
            layers: Vec::new(),
        },
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

fn no_file_yet() -> FileEntry {
    FileEntry { name: String::new(), bytes: 0, sha256: String::new() }
}

/// A card for a checkpoint that has none: what is known, and what is not.
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

/// Cut to five digits, so that no less than the truth is promised; beyond them, machines with other vector
/// instructions disagree.
fn rounded(cosine: f32) -> f32 {
    ((f64::from(cosine) * 1e5).floor() / 1e5) as f32
}
