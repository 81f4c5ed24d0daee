//! One label over time: its smoothed probability, and since when it is present or absent.

use super::change::{Figures, Moment};
use super::rules::LabelRules;

/// Tolerance of comparisons of times in seconds, so that rounding does not move an event by a frame.
const TOLERANCE_S: f64 = 1e-6;

/// One frame, as a label sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) now: Moment,
    /// Seconds since the frame before.
    pub(super) seconds: f64,
    /// Time constant in seconds.
    pub(super) smooth_s: f64,
    /// Weight of this frame.
    pub(super) weight: f64,
}

impl Step {
    pub(super) fn new(now: Moment, seconds: f64, smooth_s: f32) -> Self {
        let smooth_s = f64::from(smooth_s);
        // What is left of the value before decays by exp(-seconds / smooth_s), however many frames that are.
        let weight = if smooth_s > 0.0 { -(-seconds / smooth_s).exp_m1() } else { 1.0 };
        Self { now, seconds, smooth_s, weight }
    }

    /// When the smoothed value passed `level` on its way from `before` to where `probability` has drawn it: the probability
    /// counts for the whole time since the frame before, in which the value approaches it exponentially.
    fn passed(&self, before: f64, probability: f64, level: f64) -> Moment {
        if self.smooth_s == 0.0 {
            return self.now.before(self.seconds);
        }
        let taken = self.smooth_s * ((before - probability) / (level - probability)).ln();
        // Not a number, or infinite, where the probability is the level.
        let taken = if taken.is_finite() { taken.clamp(0.0, self.seconds) } else { self.seconds };
        self.now.before(self.seconds - taken)
    }
}

/// A label over time.
#[derive(Debug, Clone, Default)]
pub(super) struct Track {
    /// Smoothed probability; `None` before the first frame.
    value: Option<f64>,
    /// While it is not started, since when it is at or above its threshold; else since when it was, before it started.
    since: Option<Moment>,
    /// While it is started, since when it is below its release.
    below: Option<Moment>,
    /// Largest value since `since`.
    peak: f64,
    /// Sum of value times seconds since `since`.
    area: f64,
    /// Number of the start, while it is started.
    started: Option<u64>,
}

impl Track {
    /// Takes the probability of a frame.
    pub(super) fn step(&mut self, probability: f64, step: &Step, rules: &LabelRules) {
        let before = self.value;
        let value = before.map_or(probability, |before| before + step.weight * (probability - before));
        self.value = Some(value);
        let passed = |level: f64, is_passed: fn(f64, f64) -> bool| match before {
            Some(before) if is_passed(before, level) => step.passed(before, probability, level),
            // The first frame, or a limit that was changed.
            _ => step.now,
        };
        let (threshold, release) = (f64::from(rules.threshold), f64::from(rules.release));
        if self.started.is_none() && value < threshold {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(passed(threshold, |before, level| before < level));
            (self.peak, self.area) = (value, value * step.now.since(self.since.unwrap_or(step.now)).as_secs_f64());
        } else {
            self.peak = self.peak.max(value);
            self.area += value * step.seconds;
        }
        if self.started.is_none() || value >= release {
            self.below = None;
        } else if self.below.is_none() {
            self.below = Some(passed(release, |before, level| before >= level));
        }
    }

    /// Smoothed probability; 0 before the first frame.
    pub(super) fn value(&self) -> f64 {
        self.value.unwrap_or(0.0)
    }

    /// Returns whether it has not started and has been present for long enough to.
    pub(super) fn may_start(&self, now: Moment, rules: &LabelRules) -> bool {
        self.started.is_none() && self.since.is_some_and(|since| has_lasted(now, since, rules.for_s))
    }

    /// Returns whether it is below its release.
    pub(super) fn is_released(&self) -> bool {
        self.below.is_some()
    }

    /// Returns whether it has been absent for long enough to end.
    pub(super) fn may_end(&self, now: Moment, rules: &LabelRules) -> bool {
        self.below.is_some_and(|below| has_lasted(now, below, rules.hold_s))
    }

    /// Since when it is below its release.
    pub(super) fn below(&self) -> Option<Moment> {
        self.below
    }

    pub(super) fn started(&self) -> Option<u64> {
        self.started
    }

    /// Starts it with a number. Times before `earliest` do not count, in which the question had another label.
    pub(super) fn start(&mut self, number: u64, now: Moment, earliest: Option<Moment>) {
        self.started = Some(number);
        if let Some(earliest) = earliest.filter(|earliest| earliest.elapsed > self.since(now).elapsed) {
            self.since = Some(earliest);
            (self.peak, self.area) = (self.value(), self.value() * now.since(earliest).as_secs_f64());
        }
    }

    /// Ends it; where it is still above its threshold, it must be so for long enough again.
    pub(super) fn end(&mut self) {
        (self.started, self.since, self.below) = (None, None, None);
    }

    /// Forgets the smoothed probability, which later frames have nothing to do with.
    pub(super) fn forget(&mut self) {
        self.value = None;
        if self.started.is_none() {
            self.since = None;
        }
    }

    /// Since when it is present.
    pub(super) fn since(&self, now: Moment) -> Moment {
        self.since.unwrap_or(now)
    }

    /// Its probabilities since it is present.
    pub(super) fn figures(&self, now: Moment) -> Figures {
        let seconds = now.since(self.since(now)).as_secs_f64();
        let mean = if seconds > 0.0 { (self.area / seconds).min(self.peak) } else { self.value() };
        Figures { probability: self.value() as f32, peak: self.peak as f32, mean: mean as f32 }
    }
}

fn has_lasted(now: Moment, since: Moment, seconds: f32) -> bool {
    now.since(since).as_secs_f64() + TOLERANCE_S >= f64::from(seconds)
}
