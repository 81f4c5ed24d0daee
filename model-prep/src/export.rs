//! Checkpoint to bundle.

pub(crate) mod command;

use std::io;
use std::path::Path;

use spotter_engine::bundle::{Manifest, Part, Weights, Writer};

use crate::assemble::{Assembled, assemble};
use crate::compare::{self, Agreement, image_probes, text_probes};
use crate::error::Error;
use crate::model::Model;
use crate::plan::Plans;
use crate::progress::Tick;
use crate::{calibrate, probes};

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

/// Cut to five digits, so that no less than the truth is promised; beyond them, machines with other vector
/// instructions disagree.
fn rounded(cosine: f32) -> f32 {
    ((f64::from(cosine) * 1e5).floor() / 1e5) as f32
}
