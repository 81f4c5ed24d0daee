//! What each layer costs as integers, measured on pictures and prompts, and which layers stay floats for it.
//!
//! Damage lies in activations too, so nothing is computed from weights: towers are run as the engine runs them, float
//! ones in which one layer has its integer form. The pictures of one layer are few ([`PER_LAYER`]), those of
//! a choice as a whole many ([`PICTURES`]). Layers are ranked by the cosine that they lose for each byte that they save,
//! and the shortest head of that list is kept in float that holds the wanted agreement, found by bisection: every head
//! that counts was measured as a whole.

mod bench;
mod inputs;

use std::path::PathBuf;

use spotter_engine::bundle::{Calibration, LayerStorage, Weights};

use self::bench::Bench;
pub(crate) use self::bench::Material;
pub use self::inputs::Inputs;
use crate::error::Error;
use crate::plan::{Layer, Plans};
use crate::progress::Tick;

/// Pictures that a choice as a whole is measured on, at most: one of them is a quarter of a point.
pub const PICTURES: usize = 400;

/// Bytes of preprocessed pictures that are held, at most: 400 pictures of 224 x 224.
const PIXELS_BYTES_MAX: usize = 256 << 20;

/// Pictures among them that each layer is measured on. The mean of their cosines hardly moves with more.
pub const PER_LAYER: usize = 16;

/// What to calibrate on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Pictures, in folders or not.
    pub folder: PathBuf,
    /// What to choose among for each picture; where there are none, the names of the folders in `folder`, and where there
    /// are none either, the probes of [`crate::probes`].
    pub prompts: Vec<String>,
    /// Of 100 pictures, how many may have another winning prompt than with float weights.
    pub max_drop: f32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The plans that were given, with exceptions.
    pub plans: Plans,
    /// For the manifest.
    pub calibration: Calibration,
    /// For the manifest: the layers of both towers.
    pub layers: Vec<LayerStorage>,
}

/// Layers that run as one, and what they cost.
#[derive(Debug, Clone, PartialEq)]
struct Unit {
    /// 0 for the image tower, 1 for the text tower.
    tower: usize,
    name: String,
    cosine_loss: f32,
    drop: f32,
    bytes_saved: u64,
}

/// Chooses which layers are better floats.
pub(crate) fn choose(material: Material<'_>, settings: &Settings, tick: Tick<'_>) -> Result<Choice, Error> {
    let Material { stored, plans, .. } = material;
    let inputs = Inputs::read(settings, &stored.manifest)?;
    warn_of_coarseness(inputs.pixels.len(), settings);
    let mut bench = Bench::new(material, inputs, tick)?;
    let layers = [&stored.vision.layers, &stored.text.layers];
    let mut units = units(layers);
    for unit in &mut units {
        let names = names(layers[unit.tower], |name| *name == unit.name);
        (unit.cosine_loss, unit.drop) = bench.damage(unit.tower, &names)?;
    }
    let mut ranked: Vec<&Unit> = units.iter().collect();
    let cost = |unit: &Unit| f64::from(unit.cosine_loss) / unit.bytes_saved.max(1) as f64;
    ranked.sort_by(|a, b| cost(b).total_cmp(&cost(a)));

    let mut drop_with = |count: usize| {
        let kept = |tower: usize| {
            let kept = |name: &String| ranked[..count].iter().any(|unit| unit.tower == tower && unit.name == *name);
            names(layers[tower], kept)
        };
        bench.drop([kept(0), kept(1)])
    };
    let drop_without_floats = drop_with(0)?;
    // Enough are kept, and too few are: with all of them in float nothing drops.
    let (mut enough, mut drop, mut too_few) = (0, drop_without_floats, 0);
    if drop > settings.max_drop {
        (enough, drop) = (ranked.len(), 0.0);
        while enough - too_few > 1 {
            let middle = usize::midpoint(enough, too_few);
            let found = drop_with(middle)?;
            if found <= settings.max_drop {
                (enough, drop) = (middle, found);
            } else {
                too_few = middle;
            }
        }
    }
    let mut plans = plans.clone();
    for unit in &ranked[..enough] {
        let plan = if unit.tower == 0 { &mut plans.image } else { &mut plans.text };
        let names = names(layers[unit.tower], |name| *name == unit.name);
        plan.exceptions.extend(names.into_iter().map(|name| (name, Weights::F32)));
    }
    let calibration = Calibration {
        pictures: bench.pictures(),
        pictures_per_layer: bench.pictures().min(PER_LAYER),
        prompts: bench.prompts(),
        max_drop: settings.max_drop,
        drop,
        drop_without_floats,
    };
    let layers = storage(layers, &units, &plans);
    Ok(Choice { plans, calibration, layers })
}

/// Says so where one picture is more than all that may change.
fn warn_of_coarseness(pictures: usize, settings: &Settings) {
    let (one, max_drop) = (100.0 / pictures.max(1) as f32, settings.max_drop);
    if max_drop > 0.0 && one > max_drop {
        log::warn!(
            "{}: one of {pictures} pictures is {one:.1} points, and {max_drop} may change: no winning prompt may; give \
             {:.0} pictures or more",
            settings.folder.display(),
            (100.0 / max_drop).ceil()
        );
    }
}

/// Units of layers that are not stored as floats anyway.
fn units(layers: [&Vec<Layer>; 2]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for (tower, layer) in layers.into_iter().enumerate().flat_map(|(tower, all)| all.iter().map(move |l| (tower, l))) {
        let bytes_saved = layer.bytes(Weights::F32) - layer.bytes(layer.stored);
        if layer.stored == Weights::F32 {
            continue;
        }
        match units.iter_mut().find(|unit| unit.tower == tower && unit.name == layer.unit) {
            Some(unit) => unit.bytes_saved += bytes_saved,
            None => {
                let name = layer.unit.clone();
                units.push(Unit { tower, name, cosine_loss: 0.0, drop: 0.0, bytes_saved });
            }
        }
    }
    units
}

/// Names of the layers whose units are `chosen`.
fn names(layers: &[Layer], chosen: impl Fn(&String) -> bool) -> Vec<String> {
    layers.iter().filter(|layer| chosen(&layer.unit)).map(|layer| layer.name.clone()).collect()
}

fn storage(layers: [&Vec<Layer>; 2], units: &[Unit], plans: &Plans) -> Vec<LayerStorage> {
    let plans = [&plans.image, &plans.text];
    let row = |tower: usize, layer: &Layer| {
        let unit = units.iter().find(|unit| unit.tower == tower && unit.name == layer.unit)?;
        let stored = if plans[tower].of(&layer.name) == Weights::F32 { Weights::F32 } else { layer.stored };
        Some(LayerStorage {
            name: layer.name.clone(),
            kind: layer.kind,
            stored,
            cosine_loss: unit.cosine_loss,
            drop: unit.drop,
            bytes_saved: layer.bytes(Weights::F32) - layer.bytes(stored),
        })
    };
    let rows = layers.into_iter().enumerate();
    rows.flat_map(|(tower, layers)| layers.iter().filter_map(move |layer| row(tower, layer))).collect()
}
