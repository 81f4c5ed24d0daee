//! Backgrounds that come with the program: what common scenes look like when nothing happens in them.

use clap::ValueEnum;

/// A set of prompts for what a camera sees when nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BackgroundSet {
    /// Streets, driveways and entrances.
    Street,
    /// Gardens, yards and terraces.
    Garden,
    /// Rooms of a home or an office.
    Room,
    /// Garages, workshops and stores.
    Workshop,
}

impl BackgroundSet {
    /// The prompts. Each is compared by itself, so they are few and differ.
    pub(super) fn prompts(self) -> &'static [&'static str] {
        match self {
            Self::Street => &[
                "an empty street",
                "an empty street at night",
                "a wet street in the rain",
                "a street with snow on the ground",
                "a front door with nobody there",
                "an empty driveway",
                "an empty parking space",
            ],
            Self::Garden => &[
                "an empty garden",
                "an empty back yard at night",
                "a lawn with nothing on it",
                "trees and bushes in the wind",
                "a terrace with nobody on it",
                "a garden covered with snow",
            ],
            Self::Room => &[
                "an empty room",
                "a dark room at night",
                "a living room with nobody in it",
                "a tidy desk with nobody there",
                "an empty corridor",
                "a wall with furniture",
            ],
            Self::Workshop => &[
                "an empty garage",
                "a dark garage",
                "a workshop with nobody in it",
                "shelves with boxes",
                "an empty concrete floor",
                "machines that nobody uses",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_few_and_differ() {
        let mut all: Vec<&str> = Vec::new();
        for set in BackgroundSet::value_variants() {
            assert!((4..=8).contains(&set.prompts().len()), "{set:?}");
            all.extend(set.prompts());
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        // Models mostly see the noun of a negation, but "nobody" says what a person-less place looks like in captions.
        assert!(all.iter().all(|prompt| !prompt.contains(" no ") && !prompt.contains("without")));
    }
}
