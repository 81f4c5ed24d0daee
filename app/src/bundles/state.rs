//! Which slot is active, and how far it is to be trusted: the content of `bundles.json`.

use serde::{Deserialize, Serialize};

use super::release::Release;

/// Stands for the bundle inside the program among the names of slots. It needs no slot and cannot fail.
pub const BUILT_IN: &str = "built-in";

/// A bundle that could not be loaded this often is given up.
const TRIES_MAX: u32 = 2;

/// Which slot is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The slot that runs, or is to run next.
    pub active: String,
    /// The one before, to which can be gone back.
    pub previous: Option<String>,
    /// Whether that one had worked when another was chosen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub previous_proven: bool,
    /// Whether the active one was loaded and has worked since it became active. Only then does a start write nothing.
    pub proven: bool,
    /// How often loading it was begun since then. Counted before it is tried, so that a board that dies of it is counted.
    pub tries: u32,
    /// The one that was given up last.
    pub failed: Option<String>,
    /// The newest signed release that was taken; older ones are refused. `None` where none was signed with a release.
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
    /// After somebody chose `name`.
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

    /// After somebody went back; `None` where there is nothing to go back to.
    #[must_use]
    pub fn rolled_back(&self) -> Option<Self> {
        let previous = self.previous.as_deref()?;
        Some(Self { previous: None, previous_proven: false, ..self.activated(previous) })
    }

    /// Before the active one is loaded: counted, or given up where it was tried often enough.
    #[must_use]
    pub fn tried(&self) -> Self {
        if self.proven || self.active == BUILT_IN {
            return self.clone();
        }
        if self.tries < TRIES_MAX {
            return Self { tries: self.tries + 1, ..self.clone() };
        }
        // Where releases are counted nobody goes back to one that never worked here.
        let worked = |_: &&str| self.previous_proven || self.release.is_none();
        let back = self.previous.as_deref().filter(worked).unwrap_or(BUILT_IN);
        let failed = Some(self.active.clone());
        Self { previous: None, previous_proven: false, failed, ..self.activated(back) }.tried()
    }

    /// After the active one was loaded and worked.
    #[must_use]
    pub fn worked(&self) -> Self {
        Self { proven: true, tries: 0, ..self.clone() }
    }

    /// After a signed archive was taken: its `release` is the newest if it is newer than all before it, or if going back to
    /// it was wanted (`older`).
    #[must_use]
    pub fn with_release(&self, release: Option<Release>, older: bool) -> Self {
        Self { release: if older { release } else { release.max(self.release) }, ..self.clone() }
    }

    /// After the active one was found to be such that no program should try to load it: as if it had had all its tries.
    #[must_use]
    pub fn refused(&self) -> Self {
        if self.active == BUILT_IN { self.clone() } else { Self { proven: false, tries: TRIES_MAX, ..self.clone() } }
    }

    /// After the active one could not be loaded. One that had worked before gets its tries anew; this was the first.
    #[must_use]
    pub fn broke(&self) -> Self {
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

    /// `active previous proven tries failed`, where `-` is nothing, and `+` says that the previous one had worked.
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
    fn steps() {
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
            // Given up: the one before has its tries too, and the first of them begins.
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
    fn whatever_breaks_the_tries_end_at_the_built_in_one() {
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
    fn signed_releases_go_back_only_to_what_worked_or_by_wish() {
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
    fn states_are_written_and_read() {
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
