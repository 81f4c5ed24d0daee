//! Which of the two towers is meant.

use std::fmt;

use super::{Manifest, Tower};

/// One of the two towers of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TowerKind {
    /// The image tower: pixels to embedding.
    Image,
    /// The text tower: token ids to embedding.
    Text,
}

impl TowerKind {
    /// Both towers, the image tower first.
    pub const ALL: [Self; 2] = [Self::Image, Self::Text];

    /// `image` or `text`, as messages and command lines spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for TowerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Manifest {
    /// The entry of one tower.
    pub fn tower(&self, kind: TowerKind) -> &Tower {
        match kind {
            TowerKind::Image => &self.vision,
            TowerKind::Text => &self.text,
        }
    }
}
