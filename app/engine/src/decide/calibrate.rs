//! Fits thresholds to a wanted rate of false alarms, from what is seen while nothing happens.
//!
//! Frames in a row are not independent, so starts are counted and not frames: every label is decided about at many thresholds
//! at once, by the same rules as in operation. How many starts there are at a threshold falls steeply with its log-odds;
//! above the thresholds that were passed often enough to count, the fall is continued exponentially, by its mean so far.

use std::sync::Arc;

use super::change::{ChangeKind, Moment, Reason};
use super::rules::{Rules, default_release};
use super::track::{Step, Track};
use super::{Decider, LabelRules};

/// Smallest threshold that is fitted. A label that is never seen while nothing happens gets it, and is found more surely.
pub const FITTED_MIN: f32 = 0.4;

/// Largest threshold that is fitted: what is there must be able to pass it.
pub const FITTED_MAX: f32 = 0.95;

/// Step between the thresholds at which starts are counted, in log-odds.
const STEP: f64 = 0.1;

/// Number of thresholds: from [`FITTED_MIN`] to beyond [`FITTED_MAX`].
const LEVELS: usize = 36;

/// Starts from which on a count tells how fast it falls.
const TAIL_MIN: f64 = 8.0;

/// Least mean by which starts exceed a threshold, in log-odds: what is seen in minutes is never all that happens in a day.
const EXCESS_MIN: f64 = 0.15;

/// Share of the time from which on a label of a question is its usual answer, and no false alarm.
const USUAL: f64 = 0.5;

/// Seconds of a day.
const DAY_S: f64 = 86_400.0;

/// Quantile of the normal distribution for bounds that hold 19 times in 20.
const SURE: f64 = 1.645;

/// Counts false alarms while nothing happens. Its memory does not grow with time.
#[derive(Debug)]
pub struct Watch {
    rules: Arc<Rules>,
    /// By the rules as they are.
    decider: Decider,
    own_starts: Vec<u32>,
    /// Seconds for which each label was the answer of its question.
    answer_s: Vec<f64>,
    /// One for each label and threshold.
    tracks: Vec<Track>,
    starts: Vec<u32>,
    /// The thresholds and their releases.
    levels: Vec<(f32, f32)>,
    seconds: f64,
    frames: u64,
}

/// What was found for a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The threshold; as it was if it was not fitted.
    pub threshold: f32,
    /// Why it is this one.
    pub kind: FitKind,
    /// False alarms a day by the rules as they are.
    pub before_per_day: f64,
    /// Expected false alarms a day with the threshold.
    pub after_per_day: f64,
}

/// Why a label has its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitKind {
    /// It is given, and was not fitted.
    Given,
    /// It is the usual answer of its question.
    Usual,
    /// It was not seen at [`FITTED_MIN`], which it has now.
    Silent,
    /// Few enough false alarms were counted at [`FITTED_MIN`] or more.
    Counted,
    /// It lies above what was counted, as far as the counts continue.
    Continued,
    /// It would have to be above [`FITTED_MAX`], which it has now.
    Largest,
}

/// What was found for a label set.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// One for each label.
    pub labels: Vec<Fit>,
    /// False alarms a day of all labels, by the rules as they are.
    pub before_per_day: f64,
    /// Expected false alarms a day of all labels.
    pub after_per_day: f64,
    /// Between these it lies, 9 times in 10, by the number of alarms that were watched.
    pub range_per_day: (f64, f64),
    /// The fewest false alarms a day that a time of this length can promise: if there is none in it, there are fewer than
    /// this, 19 times in 20.
    pub promise_per_day: f64,
}

impl Watch {
    /// Starts to watch for labels with these rules.
    pub fn new(rules: &Arc<Rules>, now: Moment) -> Self {
        let labels = rules.labels.len();
        let level = |level: usize| {
            let threshold = probability_of(level_log_odds(level)) as f32;
            (threshold, default_release(threshold))
        };
        Self {
            rules: Arc::clone(rules),
            decider: Decider::new(Arc::clone(rules), now),
            own_starts: vec![0; labels],
            answer_s: vec![0.0; labels],
            tracks: vec![Track::default(); labels * LEVELS],
            starts: vec![0; labels * LEVELS],
            levels: (0..LEVELS).map(level).collect(),
            seconds: 0.0,
            frames: 0,
        }
    }

    /// Takes the probabilities of a frame, as [`Decider::frame`] does.
    ///
    /// # Panics
    /// If a label is not in the rules.
    pub fn frame(&mut self, now: Moment, probabilities: impl IntoIterator<Item = (usize, f32)>) {
        let seconds = self.decider.take(now, probabilities);
        self.seconds += seconds;
        self.frames += 1;
        self.decide(now, seconds);
        let rules = Arc::clone(&self.rules);
        let lone = Step::new(now, seconds, rules.smooth_s);
        rules.lone().for_each(|label| self.count(label, &lone, &rules.labels[label]));
        for question in &rules.questions {
            let step = Step::new(now, seconds, question.smooth_s);
            question.labels.clone().for_each(|label| self.count(label, &step, &rules.labels[label]));
        }
    }

    /// There are no frames for now; the next one is the first one.
    pub fn lose(&mut self, now: Moment) {
        self.decider.lose(now, Reason::SourceLost);
        self.tracks.iter_mut().for_each(Track::end);
        self.tracks.iter_mut().for_each(Track::forget);
    }

    /// Seconds that were watched.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Counts by the rules as they are.
    fn decide(&mut self, now: Moment, seconds: f64) {
        for answer in self.decider.questions.iter().filter_map(|answer| answer.label) {
            self.answer_s[answer] += seconds;
        }
        let rules = Arc::clone(&self.rules);
        self.decider.judge(now, seconds);
        for change in self.decider.changes().iter().filter(|change| change.kind == ChangeKind::Start) {
            let is_it = |label: &usize| Some(&rules.labels[*label].name) == change.label.as_ref();
            let found = match &change.question {
                Some(name) => {
                    let question = rules.questions.iter().find(|question| question.name == *name);
                    question.and_then(|question| question.labels.clone().find(is_it))
                }
                None => rules.lone().find(is_it),
            };
            if let Some(label) = found {
                self.own_starts[label] += 1;
            }
        }
    }

    /// Counts the starts of a label at every threshold.
    fn count(&mut self, label: usize, step: &Step, rules: &LabelRules) {
        let probability = f64::from(self.decider.probabilities[label]);
        let mut rules = rules.clone();
        let own = label * LEVELS..(label + 1) * LEVELS;
        let tracks = self.tracks[own.clone()].iter_mut().zip(&mut self.starts[own]);
        for ((track, starts), level) in tracks.zip(&self.levels) {
            (rules.threshold, rules.release) = *level;
            track.step(probability, step, &rules);
            if track.may_start(step.now, &rules) {
                track.start(0, step.now, None);
                *starts += 1;
            } else if track.may_end(step.now, &rules) {
                track.end();
            }
        }
    }

    /// Expected false alarms a day of a label at a threshold.
    ///
    /// # Panics
    /// If a label is not in the rules.
    pub fn per_day(&self, label: usize, threshold: f32) -> f64 {
        Curve::of(&self.starts[label * LEVELS..][..LEVELS]).count(log_odds(threshold.into())) / self.days()
    }

    fn days(&self) -> f64 {
        self.seconds.max(1.0) / DAY_S
    }

    /// Fits thresholds so that all labels together have `alarms_per_day` false alarms a day, each of them equally many unless
    /// it has fewer at [`FITTED_MIN`]. Those that `is_given` says are left as they are, beside that rate.
    ///
    /// # Panics
    /// If `is_given` has not one value for each label.
    pub fn fit(&self, alarms_per_day: f64, is_given: &[bool]) -> Fitted {
        assert_eq!(is_given.len(), self.rules.labels.len(), "one value for each label");
        let days = self.days();
        let usual = |label: usize| self.answer_s[label] > USUAL * self.seconds;
        let curves: Vec<Curve> = self.starts.chunks_exact(LEVELS).map(Curve::of).collect();
        let free: Vec<usize> = (0..curves.len()).filter(|&label| !is_given[label] && !usual(label)).collect();
        // The count of each label that makes the wanted sum, by bisection of its logarithm.
        let wanted = alarms_per_day * days;
        let sum = |each: f64| free.iter().map(|&label| curves[label].count(curves[label].threshold(each))).sum::<f64>();
        let (mut low, mut high) = (1e-9_f64.ln(), 1e9_f64.ln());
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            *(if sum(middle.exp()) > wanted { &mut high } else { &mut low }) = middle;
        }
        let each = low.exp();
        let fit = |label: usize| {
            let (rules, curve) = (&self.rules.labels[label], &curves[label]);
            let before_per_day = f64::from(self.own_starts[label]) / days;
            let kept = |kind, per_day| {
                let threshold = rules.threshold;
                Fit { threshold, kind, before_per_day: per_day, after_per_day: per_day }
            };
            if usual(label) {
                return kept(FitKind::Usual, 0.0);
            }
            if is_given[label] {
                return kept(FitKind::Given, before_per_day);
            }
            let at = curve.threshold(each);
            let kind = if curve.counts[0] == 0.0 {
                FitKind::Silent
            } else if at >= log_odds(FITTED_MAX.into()) {
                FitKind::Largest
            } else if at > curve.tail {
                FitKind::Continued
            } else {
                FitKind::Counted
            };
            let threshold = (probability_of(at) as f32).clamp(FITTED_MIN, FITTED_MAX);
            Fit { threshold, kind, before_per_day, after_per_day: curve.count(at) / days }
        };
        let labels: Vec<Fit> = (0..curves.len()).map(fit).collect();
        let after_per_day: f64 = labels.iter().map(|fit| fit.after_per_day).sum();
        let (fewest, most) = bounds(after_per_day * days);
        Fitted {
            before_per_day: labels.iter().map(|fit| fit.before_per_day).sum(),
            after_per_day,
            range_per_day: (fewest / days, most / days),
            promise_per_day: bounds(0.0).1 / days,
            labels,
        }
    }
}

/// How many starts a label has by its threshold.
#[derive(Debug)]
struct Curve {
    counts: [f64; LEVELS],
    /// Log-odds from which on the count is continued.
    tail: f64,
    /// The count there.
    tail_count: f64,
    /// Mean by which starts exceed it.
    excess: f64,
}

impl Curve {
    fn of(starts: &[u32]) -> Self {
        let mut counts = [0.0; LEVELS];
        // A presence that a low threshold sees as one may be several at a higher one: more than that are none.
        let mut most = 0.0_f64;
        for (count, starts) in counts.iter_mut().zip(starts).rev() {
            most = most.max(f64::from(*starts));
            *count = most;
        }
        let level = counts.iter().rposition(|count| *count >= TAIL_MIN).unwrap_or(0);
        let tail_count = counts[level];
        let above: f64 = counts[level + 1..].iter().sum();
        let excess = if tail_count > 0.0 { STEP * (above / tail_count + 0.5) } else { 0.0 };
        Self { counts, tail: level_log_odds(level), tail_count, excess: excess.max(EXCESS_MIN) }
    }

    /// The expected count at a threshold.
    fn count(&self, at: f64) -> f64 {
        if at >= self.tail {
            return self.tail_count * (-(at - self.tail) / self.excess).exp();
        }
        let place = ((at - level_log_odds(0)) / STEP).clamp(0.0, (LEVELS - 1) as f64);
        let (level, part) = (place as usize, place.fract());
        let next = self.counts[(level + 1).min(LEVELS - 1)];
        self.counts[level] + part * (next - self.counts[level])
    }

    /// The lowest threshold with at most this count, within the limits of thresholds.
    fn threshold(&self, count: f64) -> f64 {
        let (mut low, mut high) = (log_odds(FITTED_MIN.into()), log_odds(FITTED_MAX.into()));
        if self.count(low) <= count {
            return low;
        }
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            *(if self.count(middle) > count { &mut low } else { &mut high }) = middle;
        }
        high
    }
}

fn level_log_odds(level: usize) -> f64 {
    log_odds(FITTED_MIN.into()) + STEP * level as f64
}

fn log_odds(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

fn probability_of(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// Between these the mean of a Poisson distribution lies, each 19 times in 20, if it gave `count` (Wilson and Hilferty's
/// approximation of the chi-squared distribution).
fn bounds(count: f64) -> (f64, f64) {
    let cube = |n: f64, sign: f64| n * (1.0 - 1.0 / (9.0 * n) + sign * SURE / (3.0 * n.sqrt())).max(0.0).powi(3);
    let fewest = if count > 0.0 { cube(count, -1.0) } else { 0.0 };
    (fewest, cube(count + 1.0, 1.0))
}

#[cfg(test)]
mod tests;
