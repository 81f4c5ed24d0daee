//! How the weights of a tower are stored, layer by layer.

use std::collections::BTreeMap;
use std::path::Path;

use spotter_engine::bundle::{LayerKind, Weights};

use crate::quantize::{self, GROUP};

/// How the weights of one tower are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of all layers but the exceptions.
    pub weights: Weights,
    /// Layers that are stored otherwise, by their names.
    pub exceptions: BTreeMap<String, Weights>,
}

impl From<Weights> for Plan {
    fn from(weights: Weights) -> Self {
        Self { weights, exceptions: BTreeMap::new() }
    }
}

impl Plan {
    /// How the layer called `name` is stored.
    pub fn of(&self, name: &str) -> Weights {
        self.exceptions.get(name).copied().unwrap_or(self.weights)
    }
}

/// How the weights of both towers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    /// Of the image tower.
    pub image: Plan,
    /// Of the text tower.
    pub text: Plan,
}

impl From<Weights> for Plans {
    fn from(weights: Weights) -> Self {
        Self { image: weights.into(), text: weights.into() }
    }
}

impl Plans {
    /// In words, for the manifest.
    pub fn recipe(&self) -> String {
        let words = |plan: &Plan| match plan.weights {
            Weights::Int8 => quantize::RECIPE,
            Weights::Int4 => quantize::RECIPE_INT4,
            Weights::F32 => "none: 32-bit floats",
        };
        let (image, text) = (words(&self.image), words(&self.text));
        let mut recipe =
            if image == text { image.to_owned() } else { format!("image tower: {image}. Text tower: {text}") };
        let floats = |plan: &Plan| plan.exceptions.values().filter(|weights| **weights == Weights::F32).count();
        let count = floats(&self.image) + floats(&self.text);
        if count > 0 {
            recipe.push_str(&format!("; {count} layers, which cost most, are kept as floats"));
        }
        recipe
    }

    /// Whether every weight stays a float.
    pub fn is_float(&self) -> bool {
        *self == Self::from(Weights::F32)
    }
}

/// What a tower is built for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// How its weights are stored.
    pub plan: &'a Plan,
    /// A folder with room for the weights of the tower while it is built.
    pub scratch: &'a Path,
}

/// A layer whose weights a plan can store in different ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name in the checkpoint, and of its node in the graph.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Layers of one unit run as one and are stored alike: query, key and value of an attention block.
    pub unit: String,
    /// How it is stored.
    pub stored: Weights,
    /// Number of its weights, biases left out.
    pub weights: usize,
    /// Weights of one output channel, or of one row of a table.
    pub width: usize,
}

impl Layer {
    /// Bytes of its weights and scales when they are stored as `weights`.
    pub fn bytes(&self, weights: Weights) -> u64 {
        let count = self.weights as u64;
        match weights {
            Weights::F32 => 4 * count,
            Weights::Int8 => count + 4 * count / self.width.max(1) as u64,
            Weights::Int4 => count / 2 + 4 * count / GROUP as u64,
        }
    }
}
