//! Exports a model as a bundle.

use std::io;
use std::path::Path;

use spotter_engine::bundle::{Manifest, Part, Weights, Writer};

use crate::assemble::{Assembled, assemble};
use crate::calibrate::{self, CalibrationInput};
use crate::compare::{self, Agreement, image_probes, text_probes};
use crate::error::Error;
use crate::migrate;
use crate::model::Model;
use crate::plan::Plans;
use crate::probes;
use crate::progress::Tick;

/// Exports `model` as a bundle to `out`.
///
/// Weights are read, converted and written one tensor at a time, and towers are loaded one at a time.
pub fn export<'a>(
    model: impl Into<Model<'a>>,
    out: &Path,
    name: &str,
    plans: impl Into<Plans>,
    tick: Tick<'_>,
) -> Result<Manifest, Error> {
    export_calibrated(model, out, name, plans, None, tick)
}

/// Exports `model` as [`export`] does; with `settings`, keeps the most sensitive layers in float (see [`calibrate`]).
/// Of towers that run fused, a calibration holds both forms in memory.
///
/// # Errors
/// Besides the errors of [`export`]: with settings, if `plans` store all weights as floats.
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
    let mut plans = plans;
    let mut float = None;
    if !plans.is_float() {
        let parts = assemble(model, name, &Plans::from(Weights::F32), writer.folder(), tick)?;
        migrate::choose(&parts, &mut plans, tick)?;
        float = Some(parts);
    }
    let mut parts = assemble(model, name, &plans, writer.folder(), tick)?;
    if let Some(float) = float {
        let input = CalibrationInput { model, plans: &plans, stored: &parts, float: &float, scratch: writer.folder() };
        let choice = settings.map(|settings| calibrate::choose(input, settings, tick)).transpose()?;
        if let Some(choice) = choice {
            if choice.plans != plans {
                parts = assemble(model, name, &choice.plans, writer.folder(), tick)?;
            }
            parts.manifest.quantization.calibration = Some(choice.calibration);
            parts.manifest.quantization.layers = choice.layers;
        }
        let [image, text] = agreement(&parts, &float, tick)?;
        parts.manifest.quantization.image_cosine_min = rounded_down(image.cosine_min);
        parts.manifest.quantization.text_cosine_min = rounded_down(text.cosine_min);
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

/// Compares two versions of the image tower and of the text tower on the built-in probes.
fn agreement(ours: &Assembled, theirs: &Assembled, tick: Tick<'_>) -> Result<[Agreement; 2], Error> {
    let threads = compare::threads()?;
    // Each tower is dropped before the next one is loaded.
    let images = |parts: &Assembled| image_probes(&parts.image_tower(&threads)?, &parts.manifest, tick);
    let texts = |parts: &Assembled| text_probes(&mut parts.text_tower(&threads)?, tick);
    Ok([Agreement::of(&images(ours)?, &images(theirs)?), Agreement::of(&texts(ours)?, &texts(theirs)?)])
}

/// Approximate number of times that [`export`] calls `tick`.
pub fn steps<'a>(model: impl Into<Model<'a>>, plans: &Plans) -> u64 {
    let steps = model.into().steps();
    if plans.is_float() { steps } else { 2 * (steps + probes::count()) }
}

/// Rounds a cosine down to five digits, so that the manifest never promises more than was measured. Beyond five digits,
/// machines with other vector instructions disagree.
fn rounded_down(cosine: f32) -> f32 {
    ((f64::from(cosine) * 1e5).floor() / 1e5) as f32
}
