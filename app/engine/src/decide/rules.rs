//! What is decided about a label set, and by which limits.

use std::ops::Range;
use std::sync::Arc;

use super::ViewRules;

/// Default time constant of the smoothing in seconds: about ten frames of a camera, so that single frames that are wrong, which
/// every model has, count little. What lasts longer than noise is left to `for_s`, which delays less for the same effect. This
/// and the other defaults were chosen on generated streams (`tests/reference/decide_streams.md`).
pub const SMOOTH_S: f32 = 0.3;

/// Default threshold. Of two labels that exclude each other, the better one has more than 0.5 even if neither fits, so it must
/// be clearly above.
pub const THRESHOLD: f32 = 0.6;

/// By how much the default release lies below the threshold: more than what is left of the noise after smoothing.
pub const RELEASE_BELOW: f32 = 0.2;

/// Default time in seconds for which a label must hold before it starts: longer than most of what passes. Together with the
/// smoothing, a label that appears is told after about 1.1 seconds.
pub const FOR_S: f32 = 0.8;

/// Default time in seconds for which a label must be absent before it ends: people and animals are hidden, or turn away, for
/// moments. It delays ends only, and spares most of the flapping.
pub const HOLD_S: f32 = 3.0;

/// How a label set is decided about.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// Time constant of the smoothing for labels outside of questions, in seconds; 0 for none.
    pub smooth_s: f32,
    /// The labels, in the order of the set: those outside of questions, then those of each question.
    pub labels: Vec<LabelRules>,
    /// The questions, in the order of their labels.
    pub questions: Vec<QuestionRules>,
    /// Which flaws of the view make all states unknown.
    pub view: ViewRules,
}

/// How a label is decided about.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRules {
    /// Name of the label.
    pub name: Arc<str>,
    /// Differs between labels with different sentences, so that a label which gets other ones begins again.
    pub meaning: u64,
    /// Smoothed probability from which on the label counts as present.
    pub threshold: f32,
    /// Smoothed probability below which it counts as absent; at most the threshold.
    pub release: f32,
    /// Seconds for which it must be present before it starts.
    pub for_s: f32,
    /// Seconds for which it must be absent before it ends.
    pub hold_s: f32,
}

/// How a question is decided about.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionRules {
    /// Name of the question.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Range<usize>,
    /// Time constant of its smoothing in seconds; 0 for none.
    pub smooth_s: f32,
}

impl Rules {
    /// The labels outside of questions.
    pub fn lone(&self) -> Range<usize> {
        0..self.questions.first().map_or(self.labels.len(), |question| question.labels.start)
    }
}

/// The release for a threshold: [`RELEASE_BELOW`] lower, or half of it where that is more.
pub fn default_release(threshold: f32) -> f32 {
    (threshold - RELEASE_BELOW).max(threshold / 2.0)
}
