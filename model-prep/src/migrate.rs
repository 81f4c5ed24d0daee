//! Moves scale from activations into weights, so that channels which are far larger than others do not cost the others
//! their precision (SmoothQuant, arXiv 2211.10438).
//!
//! The activations at a site ([`Site`]) are divided by factors, and the columns of the linear layers that read them are
//! multiplied by them: folded into a layer norm, or into the rows of the layer that writes them, or, behind an activation
//! function, in a node of its own. The factors are powers of two: float results stay the same to the last bit. Their
//! strength is chosen for each site by the error of the outputs, on activations of the float tower for the built-in images
//! and prompts. A site where they do not help much has none. Whether a tower takes its factors is decided by the export, by
//! the embeddings of the whole tower.

mod activations;
mod site;
#[cfg(test)]
mod tests;

use spotter_engine::bundle::Weights;

use self::activations::Activations;
use self::site::{Reader, best_factors};
use crate::assemble::Assembled;
use crate::compare::threads;
use crate::error::Error;
use crate::plan::{Factors, Plan, Plans};
use crate::probes;
use crate::progress::Tick;
use crate::towers::TowerFile;

/// Number of images, and of prompts, on which activations are observed.
const INPUTS: usize = 12;

/// A tower whose smallest cosine to float is below this also gets the factors that need a node of their own.
pub(crate) const COSINE_WITHOUT_NODES_MIN: f32 = 0.998;

/// The factors of one tower.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// Those that are folded into weights, and cost nothing.
    pub(crate) folded: Factors,
    /// Those that need a node of their own.
    pub(crate) with_nodes: Factors,
}

/// Finds the factors of both towers. `float` are the parts of the same model with float weights.
pub(crate) fn find(float: &Assembled, plans: &Plans, tick: Tick<'_>) -> Result<[Found; 2], Error> {
    let mut found = [Found::default(), Found::default()];
    if plans.image.weights != Weights::F32 {
        let mut seen = Activations::default();
        let mut preprocessor = float.manifest.preprocessor()?;
        let tower = float.image_tower(&threads()?)?;
        let mut pixels = Vec::new();
        let inputs = if tower.unfused().is_none() { INPUTS } else { 0 };
        for image in probes::observed(float.manifest.image_size()).into_iter().take(inputs) {
            tick();
            preprocessor.run(&image, &mut pixels)?;
            tower.embed_showing(&pixels, &mut |layer, row| seen.add(layer, row))?;
        }
        drop(tower);
        found[0] = of_tower(&float.vision, &seen, &plans.image)?;
    }
    if plans.text.weights != Weights::F32 {
        let mut seen = Activations::default();
        let mut tower = float.text_tower(&threads()?)?;
        let inputs = if tower.unfused().is_none() { INPUTS } else { 0 };
        // Evenly chosen, short and long.
        let prompts = probes::prompts();
        for index in 0..inputs {
            tick();
            let prompt = prompts[index * prompts.len() / inputs];
            tower.embed_showing(prompt, &mut |layer, row| seen.add(layer, row))?;
        }
        drop(tower);
        found[1] = of_tower(&float.text, &seen, &plans.text)?;
    }
    Ok(found)
}

/// The factors of one tower.
fn of_tower(float: &TowerFile, seen: &Activations, plan: &Plan) -> Result<Found, Error> {
    let mut factors = Found::default();
    for site in &float.sites {
        let Some(rows) = seen.of(&site.layers) else { continue };
        let mut readers = Vec::new();
        for layer in &site.layers {
            let stored = plan.of(layer);
            let name = format!("{layer}.weight");
            let values = float.onnx.floats(&name);
            let values = values.map_err(|source| Error::Io { path: name.into(), source })?;
            if let Some(weights) = values.filter(|_| stored != Weights::F32) {
                let to = weights.len() / rows.largest.len().max(1);
                readers.push(Reader { weights, to, stored });
            }
        }
        if readers.is_empty() {
            continue;
        }
        if let Some((values, gain)) = best_factors(&rows, &readers) {
            log::debug!("{}: scale moved into the weights, {gain:.1} times less error", site.name);
            let factors = if site.own_node { &mut factors.with_nodes } else { &mut factors.folded };
            factors.insert(site.name.clone(), values);
        }
    }
    Ok(factors)
}
