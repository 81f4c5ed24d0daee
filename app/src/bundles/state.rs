//! The contents of `bundles.json`, which names the active slot, and of `slot.json`.

use serde::{Deserialize, Serialize};

use super::release::Release;

/// Name of the demo bundle among the slots. It needs no slot and cannot fail.
pub const BUILT_IN: &str = "built-in";

/// Failed attempts to load a bundle after which it is rolled back.
const TRIES_MAX: u32 = 2;

/// The slot file, in the slot. For people; nothing relies on it but repairs.
pub(super) const SLOT_FILE: &str = "slot.json";

/// Content of a slot file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFile {
    /// Time of the installation.
    pub installed: String,
    /// SHA-256 of the archive in hexadecimal digits.
    pub archive_sha256: String,
}

/// The active slot, and how far it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The slot to run.
    pub active: String,
    /// The previous slot, for a rollback.
    pub previous: Option<String>,
    /// True if the previous slot had worked when another one was activated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub previous_proven: bool,
    /// True if the active slot was loaded and worked since its activation. Only then does a start write nothing.
    pub proven: bool,
    /// Attempts to load it since then. Counted beforehand, so that a crash counts.
    pub tries: u32,
    /// The slot that was rolled back last.
    pub failed: Option<String>,
    /// The newest accepted release; older ones are refused. `None` if no accepted bundle had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            active: BUILT_IN.to_owned(),
            previous: None,
            previous_proven: false,
            proven: true,
            tries: 0,
            failed: None,
            release: None,
        }
    }
}

impl State {
    /// The state after the activation of `name`.
    #[must_use]
    pub fn activated(&self, name: &str) -> Self {
        if self.active == name {
            return self.clone();
        }
        Self {
            active: name.to_owned(),
            previous: Some(self.active.clone()),
            previous_proven: self.proven,
            proven: name == BUILT_IN,
            tries: 0,
            failed: self.failed.clone().filter(|failed| failed != name),
            release: self.release,
        }
    }

    /// The state after a rollback; `None` if there is no previous slot.
    #[must_use]
    pub(crate) fn rolled_back(&self) -> Option<Self> {
        let previous = self.previous.as_deref()?;
        Some(Self { previous: None, previous_proven: false, ..self.activated(previous) })
    }

    /// The state before an attempt to load the active slot: counts it, or rolls back after too many.
    #[must_use]
    pub fn tried(&self) -> Self {
        if self.proven || self.active == BUILT_IN {
            return self.clone();
        }
        if self.tries < TRIES_MAX {
            return Self { tries: self.tries + 1, ..self.clone() };
        }
        // With signed releases, only slots that have worked here are rolled back to.
        let worked = |_: &&str| self.previous_proven || self.release.is_none();
        let back = self.previous.as_deref().filter(worked).unwrap_or(BUILT_IN);
        let failed = Some(self.active.clone());
        Self { previous: None, previous_proven: false, failed, ..self.activated(back) }.tried()
    }

    /// The state after the active slot was loaded and worked.
    #[must_use]
    pub(crate) fn worked(&self) -> Self {
        Self { proven: true, tries: 0, ..self.clone() }
    }

    /// The state after a signed bundle was accepted: `release` becomes the newest if it is newer, or if an older one was allowed
    /// explicitly (`older`).
    #[must_use]
    pub(crate) fn with_release(&self, release: Option<Release>, older: bool) -> Self {
        Self { release: if older { release } else { release.max(self.release) }, ..self.clone() }
    }

    /// The state after the active slot was refused: as if all its attempts had failed.
    #[must_use]
    pub fn refused(&self) -> Self {
        if self.active == BUILT_IN { self.clone() } else { Self { proven: false, tries: TRIES_MAX, ..self.clone() } }
    }

    /// The state after the active slot could not be loaded. If it had worked before, this was the first attempt.
    #[must_use]
    pub(crate) fn broke(&self) -> Self {
        if self.active == BUILT_IN {
            self.clone()
        } else {
            Self { proven: false, tries: self.tries.max(1), ..self.clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `active previous proven tries failed`; `-` is none, and `+` means that the previous slot had worked.
    fn state(text: &str) -> State {
        let words: Vec<&str> = text.split(' ').collect();
        let name = |word: &str| (word != "-").then(|| word.to_owned());
        State {
            active: words[0].to_owned(),
            previous: name(words[1].trim_end_matches('+')),
            previous_proven: words[1].ends_with('+'),
            release: None,
            proven: words[2] == "proven",
            tries: words[3].parse().expect("a number"),
            failed: name(words[4]),
        }
    }

    #[test]
    fn state_transitions() {
        let back = |state: &State| state.rolled_back().unwrap_or_else(|| state.clone());
        type Step<'a> = &'a dyn Fn(&State) -> State;
        let cases: [(&str, Step<'_>, &str); 25] = [
            ("built-in - proven 0 -", &|s| s.activated("a"), "a built-in+ new 0 -"),
            ("a built-in proven 0 -", &|s| s.activated("b"), "b a+ new 0 -"),
            ("a built-in new 1 -", &|s| s.activated("a"), "a built-in new 1 -"),
            ("a built-in+ new 1 -", &|s| s.activated("b"), "b a new 0 -"),
            ("a - proven 0 b", &|s| s.activated("b"), "b a+ new 0 -"),
            ("a - proven 0 c", &|s| s.activated("b"), "b a+ new 0 c"),
            ("a b proven 0 -", &|s| s.activated("built-in"), "built-in a+ proven 0 -"),
            ("b a proven 0 -", &back, "a - new 0 -"),
            ("b a+ proven 0 -", &back, "a - new 0 -"),
            ("a built-in proven 0 -", &back, "built-in - proven 0 -"),
            ("a - proven 0 -", &back, "a - proven 0 -"),
            ("built-in a proven 0 -", &State::tried, "built-in a proven 0 -"),
            ("b a proven 0 -", &State::tried, "b a proven 0 -"),
            ("b a new 0 -", &State::tried, "b a new 1 -"),
            ("b a new 1 -", &State::tried, "b a new 2 -"),
            // Rolled back: the previous slot gets its attempts too, and this is the first.
            ("b a new 2 -", &State::tried, "a - new 1 b"),
            ("b a+ new 2 -", &State::tried, "a - new 1 b"),
            ("a - new 2 b", &State::tried, "built-in - proven 0 a"),
            ("b a new 1 -", &State::worked, "b a proven 0 -"),
            ("b a new 2 -", &State::broke, "b a new 2 -"),
            ("b a proven 0 -", &State::broke, "b a new 1 -"),
            ("built-in - proven 0 -", &State::broke, "built-in - proven 0 -"),
            ("b a+ new 0 c", &State::refused, "b a+ new 2 c"),
            ("b a+ new 0 c", &|s| s.refused().tried(), "a - new 1 b"),
            ("built-in - proven 0 -", &State::refused, "built-in - proven 0 -"),
        ];
        for (before, step, after) in cases {
            assert_eq!(step(&state(before)), state(after), "{before}");
        }
    }

    #[test]
    fn attempts_end_at_the_built_in_bundle() {
        let mut state = State::default().activated("a").activated("b");
        let mut tried = Vec::new();
        for _ in 0..10 {
            state = state.tried();
            tried.push(state.active.clone());
            state = state.broke();
        }
        assert_eq!(tried[..6], ["b", "b", "a", "a", "built-in", "built-in"]);
        assert_eq!(tried[9], "built-in");
    }

    #[test]
    fn older_releases_are_accepted_only_if_proven_or_requested() {
        let (old, new) = (Some(Release::Number(7)), Some(Release::Number(8)));
        for (before, release, older, expected) in [
            (None, None, false, None),
            (None, old, false, old),
            (old, new, false, new),
            (new, old, false, new),
            (new, None, false, new),
            (new, old, true, old),
            (new, None, true, None),
            (new, new, true, new),
        ] {
            let state = State { release: before, ..state("b a+ new 2 -") };
            let expected = State { release: expected, ..state.clone() };
            assert_eq!(state.with_release(release, older), expected, "{before:?}, {release:?}, {older}");
        }
        for (before, after) in [
            ("b a+ new 2 -", "a - new 1 b"),
            ("b a new 2 -", "built-in - proven 0 b"),
            ("b - new 2 -", "built-in - proven 0 b"),
        ] {
            let counted = |text: &str| State { release: new, ..state(text) };
            assert_eq!(counted(before).tried(), counted(after), "{before}");
        }
    }

    #[test]
    fn states_survive_a_round_trip() {
        for (json, expected) in [
            (r#"{"active":"a","previous":null,"proven":true,"tries":0,"failed":null}"#, state("a - proven 0 -")),
            (
                concat!(
                    r#"{"active":"b","previous":"a","previous_proven":true,"proven":false,"tries":1,"#,
                    r#""failed":"c","release":{"number":7}}"#
                ),
                State { release: Some(Release::Number(7)), ..state("b a+ new 1 c") },
            ),
            (
                r#"{"active":"a","previous":null,"proven":true,"tries":0,"failed":null,"release":{"timestamp":9}}"#,
                State { release: Some(Release::Timestamp(9)), ..state("a - proven 0 -") },
            ),
        ] {
            assert_eq!(serde_json::from_str::<State>(json).expect("a state"), expected, "{json}");
            assert_eq!(serde_json::to_string(&expected).expect("JSON"), json);
        }
    }
}
