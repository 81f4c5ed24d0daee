//! Measures what every layer costs as integers on images and prompts, and chooses the layers to keep in float.
//!
//! Activations matter as much as weights, so nothing is estimated from weights alone: float towers are run as the
//! engine runs them, with one layer in its integer form. Each layer is measured on a few images ([`IMAGES_PER_LAYER`]),
//! a whole choice on many ([`IMAGES`]). Layers are ranked by the cosine they lose per byte they save. Bisection then
//! finds the shortest prefix of that ranking that, kept in float, meets the limit; every prefix it tries is measured as
//! a whole.

mod inputs;
mod raise;
pub mod report;
mod tower_pair;

use spotter_engine::bundle::{Calibration, LayerStorage, TowerKind, Weights};
use spotter_engine::tower;

use self::inputs::Inputs;
pub use self::inputs::{IMAGES, IMAGES_PER_LAYER, Settings};
pub(crate) use self::raise::{Goal, raise};
pub(crate) use self::tower_pair::CalibrationInput;
use self::tower_pair::{Sensitivity, TowerPair};
use crate::error::Error;
use crate::plan::{Layer, Plans};
use crate::progress::Tick;

/// The result of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// The given plans, with the chosen layers as exceptions.
    pub(crate) plans: Plans,
    /// For the manifest.
    pub(crate) calibration: Calibration,
    /// For the manifest: the layers of both towers.
    pub(crate) layers: Vec<LayerStorage>,
}

/// Layers that are measured together and stored alike, and their cost.
#[derive(Debug, Clone, PartialEq)]
struct Unit {
    tower: TowerKind,
    name: String,
    sensitivity: Sensitivity,
    /// Against the finer form.
    bytes_saved: u64,
}

/// The layers of one tower.
#[derive(Debug, Clone, Copy)]
struct TowerLayers<'a> {
    kind: TowerKind,
    layers: &'a [Layer],
}

impl TowerLayers<'_> {
    /// Names of the layers of this tower that belong to one of `units`.
    fn names_of<'u>(&self, units: impl IntoIterator<Item = &'u Unit>) -> Vec<String> {
        let own: Vec<&str> =
            units.into_iter().filter(|unit| unit.tower == self.kind).map(|unit| unit.name.as_str()).collect();
        let chosen = self.layers.iter().filter(|layer| own.contains(&layer.unit.as_str()));
        chosen.map(|layer| layer.name.clone()).collect()
    }
}

/// Chooses the layers to keep in float.
pub(crate) fn choose(input: CalibrationInput<'_>, settings: &Settings, tick: Tick<'_>) -> Result<Choice, Error> {
    let CalibrationInput { stored, plans, .. } = input;
    let inputs = Inputs::read(settings, &stored.manifest)?;
    warn_of_coarse_steps(inputs.pixels.len(), settings);
    let mut pair = TowerPair::new(input, inputs, None, tick)?;
    let image_layers = joined(&stored.vision.layers, pair.steps(TowerKind::Image));
    let text_layers = joined(&stored.text.layers, pair.steps(TowerKind::Text));
    let towers = [
        TowerLayers { kind: TowerKind::Image, layers: &image_layers },
        TowerLayers { kind: TowerKind::Text, layers: &text_layers },
    ];
    let mut units: Vec<Unit> = towers.iter().flat_map(|tower| units(tower, input.finer_plans)).collect();
    for unit in &mut units {
        let layers = if unit.tower == TowerKind::Image { towers[0] } else { towers[1] };
        unit.sensitivity = pair.sensitivity(unit.tower, &layers.names_of([&*unit]))?;
    }
    let mut ranked: Vec<&Unit> = units.iter().collect();
    let cost = |unit: &Unit| f64::from(unit.sensitivity.cosine_loss) / unit.bytes_saved.max(1) as f64;
    ranked.sort_by(|a, b| cost(b).total_cmp(&cost(a)));

    let mut change_with = |count: usize| {
        let [image, text] = towers.map(|tower| tower.names_of(ranked[..count].iter().copied()));
        pair.top1_change(image, text)
    };
    let drop_without_floats = change_with(0)?;
    // `enough` layers in float meet the limit, `too_few` do not; with all layers in float nothing changes.
    let (mut enough, mut drop, mut too_few) = (0, drop_without_floats, 0);
    if drop > settings.max_drop {
        (enough, drop) = (ranked.len(), 0.0);
        while enough - too_few > 1 {
            let middle = usize::midpoint(enough, too_few);
            let found = change_with(middle)?;
            if found <= settings.max_drop {
                (enough, drop) = (middle, found);
            } else {
                too_few = middle;
            }
        }
    }
    let mut plans = plans.clone();
    for tower in towers {
        let plan = plans.of_mut(tower.kind);
        let floats = tower.names_of(ranked[..enough].iter().copied());
        plan.exceptions.extend(floats.into_iter().map(|name| (name, Weights::F32)));
    }
    let calibration = Calibration {
        pictures: pair.images(),
        pictures_per_layer: pair.images().min(IMAGES_PER_LAYER),
        prompts: pair.prompts(),
        max_drop: settings.max_drop,
        drop,
        drop_without_floats,
    };
    let layers = towers.iter().flat_map(|tower| storage(tower, &units, &plans)).collect();
    Ok(Choice { plans, calibration, layers })
}

/// Warns if a single image is a larger share than the limit allows.
fn warn_of_coarse_steps(images: usize, settings: &Settings) {
    let (one, max_drop) = (100.0 / images.max(1) as f32, settings.max_drop);
    if max_drop > 0.0 && one > max_drop {
        log::warn!(
            "{}: one of {images} images is {one:.1}%, more than the {max_drop}% that may change, so no top-1 label \
             may; use {:.0} images or more",
            settings.folder.display(),
            (100.0 / max_drop).ceil()
        );
    }
}

/// The layers, those of each step of the loaded tower in one unit: the engine computes them as one, and exchanges them
/// together.
fn joined(layers: &[Layer], steps: &[tower::Layer]) -> Vec<Layer> {
    let mut layers = layers.to_vec();
    for step in steps {
        let unit_of = |name: &String| layers.iter().find(|layer| layer.name == *name).map(|layer| layer.unit.clone());
        let units: Vec<String> = step.layers.iter().filter_map(unit_of).collect();
        let Some((first, others)) = units.split_first() else { continue };
        for layer in layers.iter_mut().filter(|layer| others.contains(&layer.unit)) {
            layer.unit.clone_from(first);
        }
    }
    layers
}

/// Groups the layers that are smaller than in `finer` by their unit.
fn units(tower: &TowerLayers<'_>, finer: &Plans) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for layer in tower.layers {
        let finer = layer.bytes(finer.of(tower.kind).of(&layer.name));
        let Some(bytes_saved) = finer.checked_sub(layer.bytes(layer.stored)).filter(|saved| *saved > 0) else {
            continue;
        };
        match units.iter_mut().find(|unit| unit.name == layer.unit) {
            Some(unit) => unit.bytes_saved += bytes_saved,
            None => units.push(Unit {
                tower: tower.kind,
                name: layer.unit.clone(),
                sensitivity: Sensitivity::default(),
                bytes_saved,
            }),
        }
    }
    units
}

/// The manifest's rows for the layers of one tower that were measured.
fn storage(tower: &TowerLayers<'_>, units: &[Unit], plans: &Plans) -> Vec<LayerStorage> {
    let row = |layer: &Layer| {
        let unit = units.iter().find(|unit| unit.tower == tower.kind && unit.name == layer.unit)?;
        let kept = plans.of(tower.kind).of(&layer.name) == Weights::F32;
        let stored = if kept { Weights::F32 } else { layer.stored };
        Some(LayerStorage {
            name: layer.name.clone(),
            kind: layer.kind,
            stored,
            cosine_loss: unit.sensitivity.cosine_loss,
            drop: unit.sensitivity.top1_change,
            bytes_saved: layer.bytes(Weights::F32) - layer.bytes(stored),
        })
    };
    tower.layers.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use spotter_engine::bundle::LayerKind;
    use spotter_engine::tower::Work;

    use super::*;

    #[test]
    fn layers_that_the_engine_computes_as_one_are_one_unit() {
        struct Case {
            /// Name and unit of each layer.
            layers: &'static [[&'static str; 2]],
            /// The layers of each step of the loaded tower.
            steps: &'static [&'static [&'static str]],
            units: &'static [&'static str],
        }
        let attention = &[["q", "q"], ["k", "q"], ["v", "q"], ["out", "out"]];
        let apart = &[["q", "q"], ["k", "k"], ["v", "v"], ["out", "out"]];
        for Case { layers, steps, units } in [
            Case { layers: attention, steps: &[], units: &["q", "q", "q", "out"] },
            Case { layers: attention, steps: &[&["q"], &["k", "v"], &["out"]], units: &["q", "q", "q", "out"] },
            Case { layers: apart, steps: &[&["q"], &["k", "v"], &[], &["out"]], units: &["q", "k", "k", "out"] },
            Case { layers: apart, steps: &[&["k", "q"], &["other", "v"]], units: &["k", "k", "v", "out"] },
            Case { layers: attention, steps: &[&["out", "v"]], units: &["out", "out", "out", "out"] },
        ] {
            let layer = |[name, unit]: &[&str; 2]| Layer {
                name: (*name).to_owned(),
                kind: LayerKind::Linear,
                unit: (*unit).to_owned(),
                stored: Weights::Int8,
                weights: 4,
                width: 2,
            };
            let step = |layers: &&[&str]| tower::Layer {
                name: "step".to_owned(),
                layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
                kind: "linear".to_owned(),
                work: Work::Other,
                time_ns: 0,
            };
            let (layers, steps): (Vec<_>, Vec<_>) =
                (layers.iter().map(layer).collect(), steps.iter().map(step).collect());
            let found: Vec<String> = joined(&layers, &steps).into_iter().map(|layer| layer.unit).collect();
            assert_eq!(found, units, "{steps:?}");
        }
    }
}
