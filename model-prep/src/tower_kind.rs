//! Which of the two towers is meant.

/// One of the two towers of a dual encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TowerKind {
    /// The image tower: pixels to embedding.
    Image,
    /// The text tower: token ids to embedding.
    Text,
}
