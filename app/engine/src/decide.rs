//! Decides about labels over time: the probabilities of frames become states and events.
//!
//! - **Smoothing** is exponential with a time constant: a probability counts for the time since the frame before, so that the
//!   result does not depend on the frame rate.
//! - **A label outside of questions** starts when its smoothed probability has been at or above `threshold` for `for_s`
//!   seconds, and ends when it has been below `release` for `hold_s`.
//! - **A question** has at most one of its labels, by the same rules, and is unknown without. Another label that may start
//!   takes its place at once if the old one is below its release, or is led by [`LEAD`].
//!
//! There is no clock in here: each frame comes with its [`Moment`]. Times at which a value passes a threshold are computed
//! between frames, so that events at different frame rates are at most one frame apart. Frames allocate nothing unless
//! something changes.

pub mod calibrate;
mod change;
mod rules;
mod sight;
mod track;

pub use change::{Change, ChangeKind, Figures, Moment, Reason, State};
pub use rules::{FOR_S, HOLD_S, LabelRules, QuestionRules, RELEASE_BELOW, Rules, SMOOTH_S, THRESHOLD, default_release};
pub use sight::{FROZEN_S, ViewRules};

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

use self::sight::{Seen, Sight};
use self::track::{Step, Track};
use crate::view::View;

/// By how much another label of a question must lead one that is not below its release. Of two labels whose probabilities
/// sum to 1, the better one has 0.6 and the other 0.4 then.
pub const LEAD: f32 = 0.2;

/// Decides about one label set.
#[derive(Debug)]
pub struct Decider {
    rules: Arc<Rules>,
    tracks: Vec<Track>,
    questions: Vec<Answer>,
    /// Probabilities of the frame that is being decided about, in the order of the labels.
    probabilities: Vec<f32>,
    /// Moment of the last frame.
    last: Option<Moment>,
    sight: Sight,
    /// Number of the next start or change of a question.
    next: u64,
    changes: Vec<Change>,
}

/// The state of a question.
#[derive(Debug, Clone)]
struct Answer {
    /// The label; `None` if unknown.
    label: Option<usize>,
    /// Name of the last known label.
    last: Option<Arc<str>>,
    /// Since when the state is unknown.
    since: Moment,
    /// When it last changed.
    changed: Option<Moment>,
    /// Why it is unknown.
    reason: Reason,
}

impl Answer {
    fn unknown(since: Moment) -> Self {
        Self { label: None, last: None, since, changed: None, reason: Reason::BelowThreshold }
    }
}

impl Decider {
    /// Decides by `rules`, from `now` on. All questions are unknown.
    pub fn new(rules: Arc<Rules>, now: Moment) -> Self {
        let tracks = vec![Track::default(); rules.labels.len()];
        let questions = vec![Answer::unknown(now); rules.questions.len()];
        let probabilities = vec![0.0; rules.labels.len()];
        Self {
            rules,
            tracks,
            questions,
            probabilities,
            last: None,
            sight: Sight::default(),
            next: 0,
            changes: Vec::new(),
        }
    }

    /// The rules that are in force.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The changes of the last call of [`Self::look`], [`Self::frame`], [`Self::lose`] or [`Self::adopt`].
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The states: of every question, then of each label outside of questions that has started.
    pub fn states(&self, now: Moment) -> impl Iterator<Item = State> {
        let questions =
            self.rules.questions.iter().zip(&self.questions).map(move |(rules, answer)| match answer.label {
                Some(label) => self.state(Some(&rules.name), label, now),
                None => State {
                    question: Some(Arc::clone(&rules.name)),
                    label: None,
                    last: answer.last.clone(),
                    reason: Some(answer.reason),
                    since: answer.since,
                    probability: None,
                },
            });
        let lone = self.rules.lone().filter(|&label| self.tracks[label].started().is_some());
        questions.chain(lone.map(move |label| self.state(None, label, now)))
    }

    fn state(&self, question: Option<&Arc<str>>, label: usize, now: Moment) -> State {
        let track = &self.tracks[label];
        State {
            question: question.cloned(),
            label: Some(Arc::clone(&self.rules.labels[label].name)),
            last: None,
            reason: None,
            since: track.since(now),
            probability: Some(track.value() as f32),
        }
    }

    /// Takes the measures of a frame's view; returns whether its probabilities count, which [`Self::frame`] takes then. While
    /// nothing can be judged all states are unknown.
    pub fn look(&mut self, now: Moment, view: &View) -> bool {
        self.changes.clear();
        let rules = Arc::clone(&self.rules);
        match self.sight.look(now, view, &rules.view) {
            Seen::Clear => true,
            Seen::Uncertain => false,
            Seen::Blind(reason) => {
                self.nothing_known(now, reason);
                false
            }
        }
    }

    /// Why the view lets nothing be judged, if it does not.
    pub fn blind(&self) -> Option<Reason> {
        self.sight.blind()
    }

    /// Takes the probabilities of a frame, as pairs of label and probability; labels that are not named have 0.
    ///
    /// # Panics
    /// If a label is not in the rules.
    pub fn frame(&mut self, now: Moment, probabilities: impl IntoIterator<Item = (usize, f32)>) {
        let seconds = self.take(now, probabilities);
        self.judge(now, seconds);
    }

    /// Takes the probabilities of a frame; returns the seconds since the one before.
    fn take(&mut self, now: Moment, probabilities: impl IntoIterator<Item = (usize, f32)>) -> f64 {
        self.probabilities.fill(0.0);
        for (label, probability) in probabilities {
            self.probabilities[label] = if probability.is_finite() { probability } else { 0.0 };
        }
        let seconds = self.last.map_or(0.0, |last| now.since(last).as_secs_f64());
        // An older frame than the last one has no weight, and does not turn back the time.
        self.last = self.last.filter(|last| last.elapsed > now.elapsed).or(Some(now));
        seconds
    }

    /// Decides about the frame that was taken, `seconds` after the one before.
    fn judge(&mut self, now: Moment, seconds: f64) {
        self.changes.clear();
        let rules = Arc::clone(&self.rules);
        let step = Step::new(now, seconds, rules.smooth_s);
        for label in rules.lone() {
            let (track, own) = (&mut self.tracks[label], &rules.labels[label]);
            track.step(self.probabilities[label].into(), &step, own);
            if track.may_start(now, own) {
                self.start(None, label, now, None);
            } else if track.may_end(now, own) {
                self.end(None, label, now, None);
            }
        }
        for (index, question) in rules.questions.iter().enumerate() {
            let step = Step::new(now, seconds, question.smooth_s);
            for label in question.labels.clone() {
                self.tracks[label].step(self.probabilities[label].into(), &step, &rules.labels[label]);
            }
            self.answer(index, question, now);
        }
    }

    /// Decides about a question whose labels have taken their step.
    fn answer(&mut self, index: usize, question: &QuestionRules, now: Moment) {
        let rules = Arc::clone(&self.rules);
        let may_start = |label: &usize| self.tracks[*label].may_start(now, &rules.labels[*label]);
        let by_value = |a: &usize, b: &usize| self.tracks[*a].value().total_cmp(&self.tracks[*b].value());
        let best = question.labels.clone().rev().filter(may_start).max_by(by_value);
        let Some(old) = self.questions[index].label else {
            self.questions[index].reason = Reason::BelowThreshold;
            if best.is_some() {
                self.change(index, best, now, None);
            }
            return;
        };
        let track = &self.tracks[old];
        let replaces = |label: &usize| {
            let lead = self.tracks[*label].value() - track.value();
            lead > 0.0 && (track.is_released() || lead >= f64::from(LEAD))
        };
        let best = best.filter(replaces);
        if best.is_some() {
            self.change(index, best, now, None);
        } else if track.may_end(now, &rules.labels[old]) {
            self.change(index, None, now, Some(Reason::BelowThreshold));
        }
    }

    /// Gives a question another label, or none for a reason.
    fn change(&mut self, index: usize, label: Option<usize>, now: Moment, reason: Option<Reason>) {
        let rules = Arc::clone(&self.rules);
        let question = &rules.questions[index].name;
        let mut since = now;
        if let Some(old) = self.questions[index].label {
            since = self.tracks[old].below().unwrap_or(now);
            // That it was seen to end needs no reason.
            self.end(Some(question), old, now, reason.filter(|reason| *reason != Reason::BelowThreshold));
            self.questions[index].last = Some(Arc::clone(&rules.labels[old].name));
        }
        if let Some(new) = label {
            self.start(Some(question), new, now, self.questions[index].changed);
            since = self.tracks[new].since(now);
        }
        let answer = &mut self.questions[index];
        (answer.label, answer.since, answer.changed) = (label, since, Some(now));
        answer.reason = reason.unwrap_or(answer.reason);
        let last = answer.last.clone();
        let change = Change {
            kind: ChangeKind::State,
            number: self.number(),
            question: Some(Arc::clone(question)),
            label: label.map(|label| Arc::clone(&rules.labels[label].name)),
            last,
            reason,
            at: now,
            since,
            figures: label.map(|label| self.tracks[label].figures(now)),
        };
        self.changes.push(change);
    }

    fn start(&mut self, question: Option<&Arc<str>>, label: usize, now: Moment, earliest: Option<Moment>) {
        let number = self.number();
        self.tracks[label].start(number, now, earliest);
        self.tell(ChangeKind::Start, number, question, label, now, None);
    }

    fn end(&mut self, question: Option<&Arc<str>>, label: usize, now: Moment, reason: Option<Reason>) {
        if let Some(number) = self.tracks[label].started() {
            self.tell(ChangeKind::End, number, question, label, now, reason);
            self.tracks[label].end();
        }
    }

    fn tell(
        &mut self,
        kind: ChangeKind,
        number: u64,
        question: Option<&Arc<str>>,
        label: usize,
        now: Moment,
        reason: Option<Reason>,
    ) {
        let track = &self.tracks[label];
        self.changes.push(Change {
            kind,
            number,
            question: question.cloned(),
            label: Some(Arc::clone(&self.rules.labels[label].name)),
            last: None,
            reason,
            at: now,
            since: track.since(now),
            figures: Some(track.figures(now)),
        });
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// There are no frames for now: what has started ends, every question is unknown, and the next frame is the first one.
    pub fn lose(&mut self, now: Moment, reason: Reason) {
        self.changes.clear();
        self.sight.forget();
        self.nothing_known(now, reason);
    }

    fn nothing_known(&mut self, now: Moment, reason: Reason) {
        let rules = Arc::clone(&self.rules);
        for label in rules.lone() {
            self.end(None, label, now, Some(reason));
        }
        for index in 0..rules.questions.len() {
            if self.questions[index].label.is_some() {
                self.change(index, None, now, Some(reason));
            }
            self.questions[index].reason = reason;
        }
        self.tracks.iter_mut().for_each(Track::forget);
        self.last = None;
    }

    /// Decides by other rules from the next frame on. A label keeps its state if its name, its question and its meaning are
    /// the same; the others end, and begin again.
    pub fn adopt(&mut self, rules: Arc<Rules>, now: Moment) {
        self.changes.clear();
        let old = Arc::clone(&self.rules);
        let kept = kept_labels(&old, &rules);
        for label in old.lone().filter(|label| !kept.contains_key(label)) {
            self.end(None, label, now, Some(Reason::LabelsChanged));
        }
        for index in 0..old.questions.len() {
            if self.questions[index].label.is_some_and(|label| !kept.contains_key(&label)) {
                self.change(index, None, now, Some(Reason::LabelsChanged));
            }
        }
        let mut tracks = vec![Track::default(); rules.labels.len()];
        for (from, to) in &kept {
            tracks[*to] = take(&mut self.tracks[*from]);
        }
        let answers: HashMap<&str, &Answer> =
            old.questions.iter().map(|question| &*question.name).zip(&self.questions).collect();
        let answer = |question: &QuestionRules| {
            let mut answer = answers.get(&*question.name).map_or_else(|| Answer::unknown(now), |a| (*a).clone());
            answer.label = answer.label.and_then(|label| kept.get(&label).copied());
            answer
        };
        self.questions = rules.questions.iter().map(answer).collect();
        self.tracks = tracks;
        self.probabilities = vec![0.0; rules.labels.len()];
        self.rules = rules;
    }
}

/// The labels of `old` that `new` has too, with the same meaning and in the same question: their indices in both.
fn kept_labels(old: &Rules, new: &Rules) -> HashMap<usize, usize> {
    fn keys(rules: &Rules) -> impl Iterator<Item = ((Option<&str>, &str), usize)> {
        let lone = rules.lone().map(|label| (None, label));
        let questions = rules.questions.iter().flat_map(|q| q.labels.clone().map(|label| (Some(&*q.name), label)));
        lone.chain(questions).map(|(question, label)| ((question, &*rules.labels[label].name), label))
    }
    let found: HashMap<_, _> = keys(new).collect();
    let kept = keys(old).filter_map(|(key, label)| Some((label, *found.get(&key)?)));
    kept.filter(|(from, to)| old.labels[*from].meaning == new.labels[*to].meaning).collect()
}

#[cfg(test)]
mod tests;
