//! Exports a model as a bundle.

use std::io;
use std::path::Path;
use std::sync::Arc;

use spotter_engine::bundle::{Manifest, Part, TowerKind, Weights, Writer};

use crate::assemble::{Assembled, assemble};
use crate::calibrate::{self, CalibrationInput, Goal};
use crate::compare::{self, Agreement, image_probes, text_probes};
use crate::error::Error;
use crate::migrate::{self, COSINE_WITHOUT_NODES_MIN, Found};
use crate::model::Model;
use crate::observe;
use crate::plan::{Factors, Plans};
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
    let mut parts = assemble(model, name, &plans, writer.folder(), tick)?;
    if !plans.is_float() {
        let float = assemble(model, name, &Plans::from(Weights::F32), writer.folder(), tick)?;
        let reference = embeddings(&float, tick)?;
        let agreement = reference.agreement(&embeddings(&parts, tick)?);
        let found = migrate::find(&float, &plans, tick)?;
        let assembled = |plans: &Plans| {
            let parts = assemble(model, name, plans, writer.folder(), tick)?;
            let agreement = reference.agreement(&embeddings(&parts, tick)?);
            Ok((parts, agreement))
        };
        let mut kept = Kept { plans, parts, agreement };
        kept.try_factors(found, &assembled)?;
        kept.correct_biases(&float, &assembled, tick)?;
        kept.round(&float, writer.folder(), &assembled, tick)?;
        match settings {
            Some(settings) => {
                // Layers can be exchanged only between towers with the same factors.
                let finer_plans = kept.plans.stored_as([Weights::F32; 2]);
                let finer = match finer_plans.is_float() {
                    true => float,
                    false => assemble(model, name, &finer_plans, writer.folder(), tick)?,
                };
                let Kept { plans, parts: stored, .. } = &kept;
                let scratch = writer.folder();
                let input =
                    CalibrationInput { model, plans, stored, finer_plans: &finer_plans, finer: &finer, scratch };
                let choice = calibrate::choose(input, settings, tick)?;
                kept.store(choice.plans, &assembled)?;
                kept.parts.manifest.quantization.calibration = Some(choice.calibration);
                kept.parts.manifest.quantization.layers = choice.layers;
            }
            None => kept.raise(model, name, &float, writer.folder(), &assembled, tick)?,
        }
        let [image, text] = kept.agreement;
        parts = kept.parts;
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

/// In the order of all pairs here.
const TOWERS: [TowerKind; 2] = [TowerKind::Image, TowerKind::Text];

/// The smallest cosine to float that a tower should reach on the built-in images and texts of a verification: with int8
/// weights and with int4 weights. A little more than what is wanted of other inputs, which are not all as kind.
const COSINE_WANTED: f32 = 0.9925;
const COSINE_WANTED_INT4: f32 = 0.9955;

/// Share of its size by which an int8 tower may grow for it.
const GROWTH_MAX: f64 = 0.1;

/// Builds a model by plans and compares it with float.
type Assemble<'a> = dyn Fn(&Plans) -> Result<(Assembled, [Agreement; 2]), Error> + 'a;

/// A model with the best plans so far.
struct Kept {
    plans: Plans,
    parts: Assembled,
    agreement: [Agreement; 2],
}

impl Kept {
    /// Takes the factors that bring a tower closer to float: first those that cost nothing, then, of a tower that is not
    /// close enough, those that need nodes of their own. They are found by the errors of single layers, so the whole tower
    /// decides.
    fn try_factors(&mut self, found: [Found; 2], assembled: &Assemble<'_>) -> Result<(), Error> {
        let [folded, with_nodes]: [[Factors; 2]; 2] = {
            let [image, text] = found;
            [[image.folded, text.folded], [image.with_nodes, text.with_nodes]]
        };
        self.try_each(folded, assembled)?;
        let mut wanted = with_nodes;
        for (factors, agreement) in wanted.iter_mut().zip(&self.agreement) {
            if agreement.cosine_min >= COSINE_WITHOUT_NODES_MIN {
                factors.clear();
            }
        }
        self.try_each(wanted, assembled)
    }

    /// Adds `factors` to the plan of each tower if its smallest cosine grows by it.
    fn try_each(&mut self, factors: [Factors; 2], assembled: &Assemble<'_>) -> Result<(), Error> {
        if factors.iter().all(Factors::is_empty) {
            return Ok(());
        }
        let mut plans = self.plans.clone();
        for (tower, factors) in TOWERS.into_iter().zip(factors) {
            plans.of_mut(tower).factors.extend(factors);
        }
        let (parts, agreement) = assembled(&plans)?;
        let better = [0, 1].map(|tower: usize| agreement[tower].cosine_min > self.agreement[tower].cosine_min);
        if better[0] {
            (self.plans.image, self.parts.vision, self.agreement[0]) = (plans.image, parts.vision, agreement[0]);
        }
        if better[1] {
            (self.plans.text, self.parts.text, self.agreement[1]) = (plans.text, parts.text, agreement[1]);
        }
        Ok(())
    }
}

impl Kept {
    /// Corrects the biases of convolutions for what rounding their weights adds to their results on average, if the smallest
    /// cosine grows by it.
    fn correct_biases(&mut self, float: &Assembled, assembled: &Assemble<'_>, tick: Tick<'_>) -> Result<(), Error> {
        let Some(means) = observe::channel_means(float, &self.plans, tick)? else { return Ok(()) };
        let mut plans = self.plans.clone();
        plans.image.means = Some(Arc::new(means));
        let (parts, agreement) = assembled(&plans)?;
        log::debug!(
            "biases corrected: smallest cosine {}, {} before",
            agreement[0].cosine_min,
            self.agreement[0].cosine_min
        );
        if agreement[0].cosine_min > self.agreement[0].cosine_min {
            (self.plans.image, self.parts.vision, self.agreement[0]) = (plans.image, parts.vision, agreement[0]);
        }
        Ok(())
    }

    /// Rounds int4 weights by what the layers read.
    fn round(
        &mut self,
        float: &Assembled,
        scratch: &Path,
        assembled: &Assemble<'_>,
        tick: Tick<'_>,
    ) -> Result<(), Error> {
        let mut plans = self.plans.clone();
        let [image, text] = observe::observe(float, &plans, scratch, tick)?;
        (plans.image.moments, plans.text.moments) = (image.map(Arc::new), text.map(Arc::new));
        self.store(plans, assembled)
    }

    /// Stores layers in a finer way until both towers are close enough to float.
    fn raise(
        &mut self,
        model: Model<'_>,
        name: &str,
        float: &Assembled,
        scratch: &Path,
        assembled: &Assemble<'_>,
        tick: Tick<'_>,
    ) -> Result<(), Error> {
        let goals = [0, 1].map(|tower: usize| self.goal(TOWERS[tower], self.agreement[tower]));
        if goals == [None, None] {
            return Ok(());
        }
        let finer = TOWERS.map(|tower| match self.plans.of(tower).weights {
            Weights::Int4 => Weights::Int8,
            Weights::Int8 => Weights::F16,
            floats => floats,
        });
        let finer_plans = self.plans.stored_as(finer);
        let finer = assemble(model, name, &finer_plans, scratch, tick)?;
        let Self { plans, parts: stored, .. } = &*self;
        let input = CalibrationInput { model, plans, stored, finer_plans: &finer_plans, finer: &finer, scratch };
        let raised = calibrate::raise(input, float, goals, tick)?;
        let mut plans = plans.clone();
        for (tower, raised) in TOWERS.into_iter().zip(&raised) {
            let finer = finer_plans.of(tower).weights;
            log::debug!("{tower:?}: {} layers as {finer:?}, {} bytes more", raised.layers.len(), raised.bytes);
            plans.of_mut(tower).exceptions.extend(raised.layers.iter().map(|name| (name.clone(), finer)));
        }
        self.store(plans, assembled)
    }

    /// What a tower should reach; `None` if nothing points to a loss.
    fn goal(&self, tower: TowerKind, agreement: Agreement) -> Option<Goal> {
        let (plan, file) = match tower {
            TowerKind::Image => (&self.plans.image, &self.parts.vision),
            TowerKind::Text => (&self.plans.text, &self.parts.text),
        };
        match plan.weights {
            Weights::Int4 => Some(Goal { cosine_min: COSINE_WANTED_INT4, bytes_max: u64::MAX }),
            // Few inputs of a tower with outliers may lose much, and the built-in images and prompts need not be among them.
            Weights::Int8 if agreement.cosine_min < COSINE_WITHOUT_NODES_MIN || !plan.factors.is_empty() => {
                let bytes_max = (file.onnx.bytes() as f64 * GROWTH_MAX) as u64;
                Some(Goal { cosine_min: COSINE_WANTED, bytes_max })
            }
            _ => None,
        }
    }

    /// Takes other plans.
    fn store(&mut self, plans: Plans, assembled: &Assemble<'_>) -> Result<(), Error> {
        if plans != self.plans {
            (self.parts, self.agreement) = assembled(&plans)?;
            self.plans = plans;
        }
        Ok(())
    }
}

/// Embeddings of the built-in images and prompts.
struct Embeddings([Vec<Vec<f32>>; 2]);

impl Embeddings {
    fn agreement(&self, other: &Self) -> [Agreement; 2] {
        [0, 1].map(|tower| Agreement::of(&other.0[tower], &self.0[tower]))
    }
}

/// Embeds the built-in images and prompts.
fn embeddings(parts: &Assembled, tick: Tick<'_>) -> Result<Embeddings, Error> {
    let threads = compare::threads()?;
    // Each tower is dropped before the next one is loaded.
    let images = image_probes(&parts.image_tower(&threads)?, &parts.manifest, tick)?;
    let texts = text_probes(&mut parts.text_tower(&threads)?, tick)?;
    Ok(Embeddings([images, texts]))
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
