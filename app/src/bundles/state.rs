//! Which slot is active, and how far it is to be trusted: the content of `bundles.json`.

use serde::{Deserialize, Serialize};

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
    /// Whether the active one was loaded and has worked since it became active. Only then does a start write nothing.
    pub proven: bool,
    /// How often loading it was begun since then. Counted before it is tried, so that a board that dies of it is counted.
    pub tries: u32,
    /// The one that was given up last.
    pub failed: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self { active: BUILT_IN.to_owned(), previous: None, proven: true, tries: 0, failed: None }
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
            proven: name == BUILT_IN,
            tries: 0,
            failed: self.failed.clone().filter(|failed| failed != name),
        }
    }

    /// After somebody went back; `None` where there is nothing to go back to.
    #[must_use]
    pub fn rolled_back(&self) -> Option<Self> {
        let previous = self.previous.as_deref()?;
        Some(Self { previous: None, ..self.activated(previous) })
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
        let back = self.previous.as_deref().unwrap_or(BUILT_IN);
        Self { previous: None, failed: Some(self.active.clone()), ..self.activated(back) }.tried()
    }

    /// After the active one was loaded and worked.
    #[must_use]
    pub fn worked(&self) -> Self {
        Self { proven: true, tries: 0, ..self.clone() }
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

    /// `active previous proven tries failed`, where `-` is nothing.
    fn state(text: &str) -> State {
        let words: Vec<&str> = text.split(' ').collect();
        let name = |word: &str| (word != "-").then(|| word.to_owned());
        State {
            active: words[0].to_owned(),
            previous: name(words[1]),
            proven: words[2] == "proven",
            tries: words[3].parse().expect("a number"),
            failed: name(words[4]),
        }
    }

    #[test]
    fn steps() {
        let back = |state: &State| state.rolled_back().unwrap_or_else(|| state.clone());
        type Step<'a> = &'a dyn Fn(&State) -> State;
        let cases: [(&str, Step<'_>, &str); 19] = [
            ("built-in - proven 0 -", &|s| s.activated("a"), "a built-in new 0 -"),
            ("a built-in proven 0 -", &|s| s.activated("b"), "b a new 0 -"),
            ("a built-in new 1 -", &|s| s.activated("a"), "a built-in new 1 -"),
            ("a - proven 0 b", &|s| s.activated("b"), "b a new 0 -"),
            ("a - proven 0 c", &|s| s.activated("b"), "b a new 0 c"),
            ("a b proven 0 -", &|s| s.activated("built-in"), "built-in a proven 0 -"),
            ("b a proven 0 -", &back, "a - new 0 -"),
            ("a built-in proven 0 -", &back, "built-in - proven 0 -"),
            ("a - proven 0 -", &back, "a - proven 0 -"),
            ("built-in a proven 0 -", &State::tried, "built-in a proven 0 -"),
            ("b a proven 0 -", &State::tried, "b a proven 0 -"),
            ("b a new 0 -", &State::tried, "b a new 1 -"),
            ("b a new 1 -", &State::tried, "b a new 2 -"),
            // Given up: the one before has its tries too, and the first of them begins.
            ("b a new 2 -", &State::tried, "a - new 1 b"),
            ("a - new 2 b", &State::tried, "built-in - proven 0 a"),
            ("b a new 1 -", &State::worked, "b a proven 0 -"),
            ("b a new 2 -", &State::broke, "b a new 2 -"),
            ("b a proven 0 -", &State::broke, "b a new 1 -"),
            ("built-in - proven 0 -", &State::broke, "built-in - proven 0 -"),
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
}
