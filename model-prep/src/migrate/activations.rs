//! The rows that linear layers read, observed on a few inputs.

use std::collections::BTreeMap;

use spotter_engine::tower::Layer;

/// Rows that are kept of each linear layer. Factors come from the extremes of all rows, errors are measured on these.
const ROWS: usize = 96;

/// What one linear layer reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    /// Largest magnitude of each channel, over all rows.
    pub(super) largest: Vec<f32>,
    /// Some of the rows, evenly chosen among all.
    pub(super) kept: Vec<Vec<f32>>,
    pub(super) seen: usize,
}

impl Rows {
    fn add(&mut self, row: &[f32], random: &mut u32) {
        self.largest.resize(row.len(), 0.0);
        self.largest.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(x.abs()));
        self.seen += 1;
        if self.kept.len() < ROWS {
            self.kept.push(row.to_vec());
            return;
        }
        // Reservoir sampling, with the generator of Numerical Recipes.
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let place = (*random >> 8) as usize % self.seen;
        if let Some(kept) = self.kept.get_mut(place) {
            kept.copy_from_slice(row);
        }
    }

    /// Joins the rows of layers that read the same value.
    fn join(&mut self, other: &Self) {
        self.largest.resize(other.largest.len(), 0.0);
        self.largest.iter_mut().zip(&other.largest).for_each(|(most, x)| *most = most.max(*x));
        self.kept.extend(other.kept.iter().cloned());
    }
}

/// What the linear layers of a tower read, by the name of each step's first layer.
#[derive(Debug, Default)]
pub(super) struct Activations {
    steps: BTreeMap<String, (Vec<String>, Rows)>,
    random: u32,
}

impl Activations {
    /// Adds one row that the step `layer` reads.
    pub(super) fn add(&mut self, layer: &Layer, row: &[f32]) {
        let Some(first) = layer.layers.first() else { return };
        if !self.steps.contains_key(first) {
            self.steps.insert(first.clone(), (layer.layers.clone(), Rows::default()));
        }
        if let Some((_, rows)) = self.steps.get_mut(first) {
            rows.add(row, &mut self.random);
        }
    }

    /// The rows that `layers` read, which all read the same value; `None` if none was seen.
    pub(super) fn of(&self, layers: &[String]) -> Option<Rows> {
        let mut found = self.steps.values().filter(|(names, _)| names.iter().any(|name| layers.contains(name)));
        let mut rows = found.next()?.1.clone();
        found.for_each(|(_, more)| rows.join(more));
        Some(rows)
    }
}
