//! What is trained, and what stays as it is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use spotter_engine::bundle::TowerKind;

use super::towers::Tower;

/// The towers that stay as they are. Projections, logit scale and logit bias are always trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lock {
    /// The image tower: what it knows is kept, and the text tower learns to name it (LiT).
    Image,
    /// The text tower.
    Text,
    /// Both towers: only projections are trained.
    Both,
    /// Neither.
    None,
}

/// What of a dual encoder is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locking {
    /// The towers that are not trained at all.
    pub lock: Lock,
    /// Number of last layers that are trained of the others; all, with the embeddings, if `None`.
    pub train_layers: Option<usize>,
}

/// Tensors outside of the towers.
const HEADS: [&str; 4] = ["visual_projection.weight", "text_projection.weight", "logit_scale", "logit_bias"];

impl Lock {
    /// Whether a tower is not trained at all.
    pub fn holds(self, kind: TowerKind) -> bool {
        match self {
            Self::Image => kind == TowerKind::Image,
            Self::Text => kind == TowerKind::Text,
            Self::Both => true,
            Self::None => false,
        }
    }
}

impl Locking {
    /// The first layer of a tower that is trained.
    pub(super) fn first_layer(&self, tower: &dyn Tower) -> usize {
        self.train_layers.map_or(0, |count| tower.layers().saturating_sub(count))
    }

    /// Whether the tensor called `name` is trained. `towers` are those that are not locked.
    pub(super) fn trains(&self, name: &str, towers: [Option<&dyn Tower>; 2]) -> bool {
        if HEADS.contains(&name) {
            return true;
        }
        let kind = usize::from(!name.starts_with("vision_model."));
        let Some(tower) = towers[kind] else { return false };
        if self.train_layers.is_none_or(|count| count >= tower.layers()) {
            return true;
        }
        if let Some(rest) = name.strip_prefix(tower.layer_prefix()) {
            let number = rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
            return number.is_some_and(|number| number >= self.first_layer(tower));
        }
        !tower.below().iter().any(|prefix| name.starts_with(prefix))
    }
}
