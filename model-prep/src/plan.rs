//! How the weights of a tower are stored, layer by layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use spotter_engine::bundle::{LayerKind, TowerKind, Weights};

use crate::moments::TowerMoments;
use crate::quantize::{self, GROUP};

/// Factors between the layers of a tower that cancel each other (`migrate`): what the key names is divided by
/// them, channel by channel, and the columns of the linear layers that read it are multiplied by them. All are powers of
/// two, so that no float result changes.
pub type Factors = BTreeMap<String, Vec<f32>>;

/// How the weights of one tower are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Storage of all layers that are not exceptions.
    pub weights: Weights,
    /// Layers that are stored differently, by name.
    pub exceptions: BTreeMap<String, Weights>,
    /// Factors that move scale from activations into weights.
    pub factors: Factors,
    /// What the linear layers read, for the rounding to int4; without it, weights are rounded to the nearest integers.
    pub(crate) moments: Option<Arc<TowerMoments>>,
    /// What the convolutions of an imported tower read, for their biases; without it, biases stay as they are.
    pub(crate) means: Option<Arc<ChannelMeans>>,
}

/// The mean of each channel that a convolution reads, by the name of its output.
pub(crate) type ChannelMeans = BTreeMap<String, Vec<f32>>;

impl From<Weights> for Plan {
    fn from(weights: Weights) -> Self {
        Self { weights, exceptions: BTreeMap::new(), factors: Factors::new(), moments: None, means: None }
    }
}

impl Plan {
    /// Storage of the layer called `name`.
    pub fn of(&self, name: &str) -> Weights {
        self.exceptions.get(name).copied().unwrap_or(self.weights)
    }
}

/// How the weights of both towers are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Plans {
    /// The image tower's.
    pub image: Plan,
    /// The text tower's.
    pub text: Plan,
}

impl From<Weights> for Plans {
    fn from(weights: Weights) -> Self {
        Self { image: weights.into(), text: weights.into() }
    }
}

impl Plans {
    /// The plan of one tower.
    pub(crate) fn of(&self, tower: TowerKind) -> &Plan {
        match tower {
            TowerKind::Image => &self.image,
            TowerKind::Text => &self.text,
        }
    }

    /// Each tower stored as `weights`, with the same factors.
    pub(crate) fn stored_as(&self, [image, text]: [Weights; 2]) -> Self {
        let plan = |plan: &Plan, weights| Plan { factors: plan.factors.clone(), ..Plan::from(weights) };
        Self { image: plan(&self.image, image), text: plan(&self.text, text) }
    }

    /// The plan of one tower, to change.
    pub(crate) fn of_mut(&mut self, tower: TowerKind) -> &mut Plan {
        match tower {
            TowerKind::Image => &mut self.image,
            TowerKind::Text => &mut self.text,
        }
    }

    /// Describes the storage of towers with these layers in words, for the manifest.
    pub(crate) fn recipe(&self, image_layers: &[Layer], text_layers: &[Layer]) -> String {
        let words = |plan: &Plan, layers: &[Layer]| match plan.weights {
            Weights::Int8 => quantize::RECIPE.to_owned(),
            Weights::Int4 => format!("{}; {}", quantize::RECIPE_INT4, mix(layers)),
            Weights::F16 => "none: 16-bit floats".to_owned(),
            Weights::F32 => "none: 32-bit floats".to_owned(),
        };
        let (image, text) = (words(&self.image, image_layers), words(&self.text, text_layers));
        let mut recipe = if image == text { image } else { format!("image tower: {image}. Text tower: {text}") };
        let layers = image_layers.iter().chain(text_layers);
        let halves: Vec<&Layer> = layers.filter(|layer| layer.stored == Weights::F16).collect();
        if !halves.is_empty() {
            let bytes: u64 = halves.iter().map(|l| l.bytes(Weights::F16) - l.bytes(Weights::Int8)).sum();
            let (count, kilobytes) = (halves.len(), bytes as f64 / 1e3);
            recipe.push_str(&format!(
                "; {count} layers, which cost most, are kept as 16-bit floats, which takes {kilobytes:.1} kB more"
            ));
        }
        let floats = |plan: &Plan| plan.exceptions.values().filter(|weights| **weights == Weights::F32).count();
        let count = floats(&self.image) + floats(&self.text);
        if count > 0 {
            recipe.push_str(&format!("; {count} layers, which cost most, are kept as floats"));
        }
        recipe
    }

    /// Returns whether all weights of both towers are stored as floats.
    pub(crate) fn is_float(&self) -> bool {
        *self == Self::from(Weights::F32)
    }
}

/// How many layers of an int4 tower are int8, and the size of all.
fn mix(layers: &[Layer]) -> String {
    let int8 = layers.iter().filter(|layer| layer.stored == Weights::Int8).count();
    let (bytes, weights) =
        layers.iter().fold((0, 0), |(bytes, weights), l| (bytes + l.bytes(l.stored), weights + l.weights as u64));
    let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
    format!("{int8} of {} layers are int8: {bits:.1} bits a weight", layers.len())
}

/// How and where a tower is built.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// How its weights are stored.
    pub plan: &'a Plan,
    /// A folder for temporary files, with room for the tower's weights.
    pub scratch: &'a Path,
}

/// A place where scale can be moved from activations into weights without a change of any float result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What writes the activations: the name that the plan's factors have.
    pub name: String,
    /// The linear layers that read them; all read the same rows.
    pub layers: Vec<String>,
    /// True if the division is a node of its own, which takes time. All others are folded into weights that exist.
    pub own_node: bool,
}

/// A layer whose weights a plan can store in different ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name in the checkpoint and in the graph.
    pub name: String,
    /// Its kind of computation.
    pub kind: LayerKind,
    /// Name of the unit it is in, which is that of one of its layers. The layers of a unit are measured together and
    /// stored alike: query, key and value of an attention block. A calibration adds the layers that the engine computes
    /// as one.
    pub unit: String,
    /// How it is stored.
    pub stored: Weights,
    /// Number of weights, without biases.
    pub weights: usize,
    /// Weights per output channel, or per row of an embedding table.
    pub width: usize,
}

impl Layer {
    /// Bytes of its weights and scales if they are stored as `weights`.
    pub fn bytes(&self, weights: Weights) -> u64 {
        let (count, rows) = (self.weights as u64, (self.weights / self.width.max(1)) as u64);
        match weights {
            Weights::F32 => 4 * count,
            Weights::F16 => 2 * count,
            Weights::Int8 => count + 4 * rows,
            Weights::Int4 => count.div_ceil(2) + rows * (4 + self.width.div_ceil(GROUP) as u64),
        }
    }
}
