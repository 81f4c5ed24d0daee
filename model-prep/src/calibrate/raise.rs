//! Gives single layers a finer storage until a tower is close enough to float, inside a budget of bytes.
//!
//! Layers are raised one unit after another: the one that makes up for most of what is missing, per byte. Every step is
//! measured on the whole tower, since errors of layers neither add up nor cancel in a known way. What a unit gains hardly
//! grows with others raised, so that only those whose gain was large before are measured again. In the end, units without
//! which the tower is close enough as well go back to the storage that they had.

use spotter_engine::bundle::TowerKind;

use super::inputs::Inputs;
use super::tower_pair::{CalibrationInput, TowerPair, embed_images, embed_texts};
use super::{TowerLayers, Unit, joined, units};
use crate::assemble::Assembled;
use crate::compare::threads;
use crate::error::Error;
use crate::progress::Tick;

/// Inputs on which single units are measured: those with the smallest cosines.
const WORST: usize = 16;

/// Units that are measured again in each step but the first, if one of them gains something.
const TRIES: usize = 6;

/// What a tower should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Goal {
    /// Smallest cosine to float on the built-in images and texts of a verification.
    pub(crate) cosine_min: f32,
    /// Bytes by which the tower may grow.
    pub(crate) bytes_max: u64,
}

/// Layers of one tower that get the finer storage.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Raised {
    /// Their names.
    pub(crate) layers: Vec<String>,
    /// Bytes that this costs.
    pub(crate) bytes: u64,
}

/// Chooses layers for the finer storage, of the towers that have a goal and run fused. `float` are the parts of the same
/// model with float weights.
pub(crate) fn raise(
    input: CalibrationInput<'_>,
    float: &Assembled,
    goals: [Option<Goal>; 2],
    tick: Tick<'_>,
) -> Result<[Raised; 2], Error> {
    let mut raised = [Raised::default(), Raised::default()];
    if goals == [None, None] {
        return Ok(raised);
    }
    let mut inputs = Inputs::built_in(&float.manifest)?;
    if goals[0].is_none() {
        inputs.pixels.clear();
    }
    if goals[1].is_none() {
        inputs.prompts.clear();
    }
    let references = {
        let images = embed_images(&float.image_tower(&threads()?)?, &inputs.pixels, tick)?;
        [images, embed_texts(&mut float.text_tower(&threads()?)?, &inputs.prompts, tick)?]
    };
    let pair = TowerPair::new(input, inputs, Some(references), tick)?;
    let towers = [(TowerKind::Image, &input.stored.vision), (TowerKind::Text, &input.stored.text)];
    for (((kind, file), goal), raised) in towers.into_iter().zip(goals).zip(&mut raised) {
        let Some(goal) = goal.filter(|_| !pair.steps(kind).is_empty()) else { continue };
        let layers = joined(&file.layers, pair.steps(kind));
        let layers = TowerLayers { kind, layers: &layers };
        let units = units(&layers, input.finer_plans);
        let measure = |chosen: &[usize], inputs: Option<&[usize]>| {
            pair.cosines(kind, &layers.names_of(chosen.iter().map(|unit| &units[*unit])), inputs)
        };
        let chosen = search(&units, goal, &measure)?;
        raised.bytes = chosen.iter().map(|unit| units[*unit].bytes_saved).sum();
        raised.layers = layers.names_of(chosen.iter().map(|unit| &units[*unit]));
    }
    Ok(raised)
}

/// Cosines to float of a tower with these units raised, on some inputs or on all.
type Measure<'a> = dyn Fn(&[usize], Option<&[usize]>) -> Result<Vec<f32>, Error> + 'a;

/// Indices of the units to raise.
fn search(units: &[Unit], goal: Goal, measure: &Measure<'_>) -> Result<Vec<usize>, Error> {
    let missing = |cosines: &[f32]| -> f64 { cosines.iter().map(|c| f64::from((goal.cosine_min - c).max(0.0))).sum() };
    let (mut chosen, mut left) = (Vec::new(), goal.bytes_max);
    // What a unit gained per byte when it was last measured, if it may be chosen.
    let mut gains: Vec<Option<f64>> = vec![Some(f64::INFINITY); units.len()];
    let mut cosines = measure(&chosen, None)?;
    while missing(&cosines) > 0.0 {
        let mut worst: Vec<usize> = (0..cosines.len()).collect();
        worst.sort_by(|a, b| cosines[*a].total_cmp(&cosines[*b]));
        worst.truncate(WORST);
        let before: f64 = missing(&worst.iter().map(|input| cosines[*input]).collect::<Vec<f32>>());
        let fits = |unit: &usize| units[*unit].bytes_saved <= left;
        let mut open: Vec<usize> = (0..units.len()).filter(|unit| gains[*unit].is_some()).filter(fits).collect();
        open.sort_by(|a, b| gains[*b].unwrap_or(0.0).total_cmp(&gains[*a].unwrap_or(0.0)));
        let mut best: Option<(usize, f64)> = None;
        let mut enough: Option<usize> = None;
        for (tried, unit) in open.into_iter().enumerate() {
            let known = gains[unit].unwrap_or(0.0);
            let found = best.is_some_and(|(_, gain)| gain > 0.0 && (tried >= TRIES || gain >= known));
            if known.is_finite() && found {
                break;
            }
            let with: Vec<usize> = chosen.iter().copied().chain([unit]).collect();
            let after = missing(&measure(&with, Some(&worst))?);
            let gain = (before - after) / units[unit].bytes_saved.max(1) as f64;
            gains[unit] = Some(gain);
            if best.is_none_or(|(_, most)| gain > most) {
                best = Some((unit, gain));
            }
            if after == 0.0 && enough.is_none_or(|other| units[unit].bytes_saved < units[other].bytes_saved) {
                enough = Some(unit);
            }
        }
        let Some((unit, _)) = enough.map(|unit| (unit, 0.0)).or(best.filter(|(_, gain)| *gain > 0.0)) else { break };
        gains[unit] = None;
        let with: Vec<usize> = chosen.iter().copied().chain([unit]).collect();
        let found = measure(&with, None)?;
        if missing(&found) < missing(&cosines) {
            left -= units[unit].bytes_saved;
            (chosen, cosines) = (with, found);
        }
    }
    if missing(&cosines) == 0.0 {
        drop_unneeded(&mut chosen, units, &|chosen| Ok(missing(&measure(chosen, None)?) == 0.0))?;
    }
    Ok(chosen)
}

/// Drops units that others, chosen later, have made unnecessary; the largest first.
fn drop_unneeded(
    chosen: &mut Vec<usize>,
    units: &[Unit],
    suffice: &dyn Fn(&[usize]) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut largest = chosen.clone();
    largest.sort_by_key(|unit| std::cmp::Reverse(units[*unit].bytes_saved));
    for unit in largest {
        let without: Vec<usize> = chosen.iter().copied().filter(|other| *other != unit).collect();
        if suffice(&without)? {
            *chosen = without;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tower_pair::Sensitivity;
    use super::*;

    /// The units' bytes, and what each takes from the loss of two inputs.
    const UNITS: [(u64, [f32; 2]); 4] =
        [(100, [0.02, 0.0]), (40, [0.01, 0.001]), (10, [0.0, 0.0]), (200, [0.03, 0.02])];

    fn found(table: &[(u64, [f32; 2])], cosine_min: f32, bytes_max: u64) -> Vec<usize> {
        let unit = |(index, (bytes_saved, _)): (usize, &(u64, _))| Unit {
            tower: TowerKind::Image,
            name: index.to_string(),
            sensitivity: Sensitivity::default(),
            bytes_saved: *bytes_saved,
        };
        let units: Vec<Unit> = table.iter().enumerate().map(unit).collect();
        let measure = |chosen: &[usize], inputs: Option<&[usize]>| {
            let cosine = |input: usize| 0.93 + chosen.iter().map(|unit| table[*unit].1[input]).sum::<f32>();
            Ok(inputs.unwrap_or(&[0, 1]).iter().map(|input| cosine(*input)).collect())
        };
        let mut chosen = search(&units, Goal { cosine_min, bytes_max }, &measure).unwrap();
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn the_units_that_gain_most_for_their_bytes_are_raised() {
        for (cosine_min, bytes_max, expected) in [
            (0.92, 1000, &[][..]),
            // One unit is enough, and no smaller one is.
            (0.9305, 1000, &[1]),
            (0.945, 1000, &[3]),
            (0.9505, 1000, &[1, 3]),
            // More than all reach.
            (0.99, 1000, &[0, 1, 3]),
            // Those that fit.
            (0.99, 150, &[0, 1]),
            (0.99, 50, &[1]),
            (0.99, 9, &[]),
        ] {
            assert_eq!(found(&UNITS, cosine_min, bytes_max), expected, "{cosine_min} in {bytes_max} bytes");
        }
    }

    #[test]
    fn units_that_became_unnecessary_are_dropped() {
        let table = [(10, [0.01, 0.0]), (100, [0.045, 0.0]), (100, [0.0, 0.045])];
        assert_eq!(found(&table, 0.97, 1000), [1, 2], "the first gains most per byte");
    }
}
