//! Checkpoint to bundle.

use std::path::Path;

use spotter_engine::bundle::{
    self, Contents, FileEntry, Manifest, Quantization, Source, TokenizerSpec, Tower, Weights,
};
use spotter_engine::score::ScoringKind;

use crate::checkpoint::Checkpoint;
use crate::compare::{Agreement, Towers};
use crate::towers::{self, TowerFile};
use crate::{Error, Tick, probes, quantize};

/// Template for labels of a checkpoint that names none, the one that CLIP introduced.
const DEFAULT_TEMPLATE: &str = "a photo of a {}.";

/// The parts of a bundle before they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// Complete but for the files' names, sizes and hashes, which [`bundle::write`] fills in.
    pub manifest: Manifest,
    /// `vision.onnx`.
    pub vision: Vec<u8>,
    /// `text.onnx`.
    pub text: Vec<u8>,
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `MODEL_CARD.md`.
    pub model_card: Vec<u8>,
}

/// Makes a bundle of `checkpoint` and writes it to `out`; `tick` is called often, to show that it goes on.
pub fn export(
    checkpoint: &Checkpoint,
    out: &Path,
    name: &str,
    weights: Weights,
    tick: Tick<'_>,
) -> Result<Manifest, Error> {
    let mut parts = assemble(checkpoint, name, weights, tick)?;
    if weights == Weights::Int8 {
        let float = assemble(checkpoint, name, Weights::F32, tick)?;
        let (mut ours, mut theirs) = (Towers::load(&parts)?, Towers::load(&float)?);
        let image = Agreement::of(&ours.image_probes(tick)?, &theirs.image_probes(tick)?);
        let text = Agreement::of(&ours.text_probes(tick)?, &theirs.text_probes(tick)?);
        parts.manifest.quantization.image_cosine_min = rounded(image.cosine_min);
        parts.manifest.quantization.text_cosine_min = rounded(text.cosine_min);
    }
    let Assembled { manifest, vision, text, tokenizer, model_card } = &parts;
    Ok(bundle::write(out, manifest.clone(), &Contents { vision, text, tokenizer, model_card })?)
}

/// How often [`export`] calls `tick`, about.
pub fn steps(checkpoint: &Checkpoint, weights: Weights) -> u64 {
    match weights {
        Weights::F32 => checkpoint.tensors.count(),
        Weights::Int8 => 2 * (checkpoint.tensors.count() + probes::count()),
    }
}

/// Makes the parts of a bundle in memory; the accuracy in its manifest stays at 1, which is true of floats only.
pub fn assemble(checkpoint: &Checkpoint, name: &str, weights: Weights, tick: Tick<'_>) -> Result<Assembled, Error> {
    let vision = towers::vision(checkpoint, weights, tick)?;
    let text = towers::text(checkpoint, weights, tick)?;
    let tokenizer = &checkpoint.tokenizer;
    let recipe = match weights {
        Weights::Int8 => quantize::RECIPE,
        Weights::F32 => "none: 32-bit floats",
    };
    let source = Source { checkpoint: checkpoint.name(), sha256: checkpoint.tensors.sha256()? };
    let manifest = Manifest {
        format_version: bundle::FORMAT_VERSION,
        name: name.to_owned(),
        projection_dim: checkpoint.config.projection_dim,
        logit_scale: checkpoint.logit_scale()?,
        logit_bias: None,
        scoring: ScoringKind::Softmax,
        vision: tower(&vision, weights),
        text: tower(&text, weights),
        preprocess: checkpoint.preprocess.clone(),
        tokenizer: TokenizerSpec {
            file: no_file_yet(),
            max_length: tokenizer.max_length,
            padding_side: tokenizer.padding_side,
            pad_token: tokenizer.pad_token.clone(),
            pad_id: tokenizer.pad_id,
            pad_type_id: tokenizer.pad_type_id,
            positions: checkpoint.config.text.positions(),
        },
        templates: vec![DEFAULT_TEMPLATE.to_owned()],
        source,
        quantization: Quantization { recipe: recipe.to_owned(), image_cosine_min: 1.0, text_cosine_min: 1.0 },
        model_card: no_file_yet(),
    };
    let model_card = checkpoint.model_card.clone().unwrap_or_else(|| model_card(&manifest));
    Ok(Assembled { manifest, vision: vision.onnx, text: text.onnx, tokenizer: tokenizer.json.clone(), model_card })
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
