//! What is told: moments, changes, states.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// A moment, for durations and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since any fixed moment, by a clock that never goes back.
    pub elapsed: Duration,
    /// Unix time in microseconds, which is only passed on: clocks of boards are set while the program runs.
    pub unix_us: i64,
}

impl Moment {
    /// Time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.elapsed.saturating_sub(earlier.elapsed)
    }

    /// The moment that was `seconds` before this one.
    pub(super) fn before(self, seconds: f64) -> Self {
        let by = Duration::from_secs_f64(seconds.max(0.0)).min(self.elapsed);
        let by_us = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self { elapsed: self.elapsed - by, unix_us: self.unix_us.saturating_sub(by_us) }
    }
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A label has been present for long enough.
    Start,
    /// A label that had started is over.
    End,
    /// A question has another state.
    State,
}

/// Why a state is unknown, or why a label ended although it was not seen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No label of the question has reached its threshold for long enough.
    BelowThreshold,
    /// The source gives no frames.
    SourceLost,
    /// The view is dark.
    Dark,
    /// Something covers the lens, or nothing in the view has an outline.
    Covered,
    /// The view is far out of focus.
    Blurred,
    /// The image has been the same, to the last bit, for too long.
    Frozen,
    /// The label, or its sentences, were removed from the label file.
    LabelsChanged,
}

/// Probabilities of a label since it is present. All are smoothed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// The last one.
    pub probability: f32,
    /// The largest one.
    pub peak: f32,
    /// Their mean over time.
    pub mean: f32,
}

/// A change of a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its kind.
    pub kind: ChangeKind,
    /// Counts starts and changes of questions, from 0. Start and end of a label have the same number.
    pub number: u64,
    /// The question; `None` for a label outside of questions.
    pub question: Option<Arc<str>>,
    /// The label that started or ended, or that is the question's new state; `None` if that is unknown.
    pub label: Option<Arc<str>>,
    /// For a change of a question, the label that it had last.
    pub last: Option<Arc<str>>,
    /// Why the state is unknown, or why the label ended without being seen to.
    pub reason: Option<Reason>,
    /// When it was decided.
    pub at: Moment,
    /// Since when the label is present, or the state unknown.
    pub since: Moment,
    /// The label's probabilities; `None` if the state is unknown.
    pub figures: Option<Figures>,
}

/// A state.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The question; `None` for a label outside of questions, which has a state only while it is present.
    pub question: Option<Arc<str>>,
    /// The label; `None` if the state is unknown.
    pub label: Option<Arc<str>>,
    /// For an unknown state, the label that was known last.
    pub last: Option<Arc<str>>,
    /// Why it is unknown.
    pub reason: Option<Reason>,
    /// Since when it holds.
    pub since: Moment,
    /// Smoothed probability of the label; `None` if the state is unknown.
    pub probability: Option<f32>,
}
