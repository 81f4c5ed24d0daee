//! Decisions of the loop: it gives every moment its time, every event its id, and keeps events until the output takes them.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;
use std::vec::Drain;

use jiff::Timestamp;
use spotter_engine::decide::{Decider, Moment, Reason, Rules, State};
use spotter_engine::score::Score;
use spotter_engine::view::View;

use crate::output::Decision;

/// Maximum number of events that wait for a slow output: start and end of every label that a file may have.
const WAITING_MAX: usize = 20_000;

/// The decider, and the events that the output has not taken yet.
#[derive(Debug)]
pub(super) struct Decisions {
    decider: Decider,
    /// What moments count from.
    begun: Instant,
    /// Distinguishes the events of this run from those of all others.
    run: u64,
    /// How often the source was lost when that was last looked at.
    losses: u64,
    waiting: VecDeque<Decision>,
    /// Events since they were last drained.
    fresh: Vec<Decision>,
    /// Events that found no room and were not counted yet.
    lost: u64,
}

impl Decisions {
    pub(super) fn new(rules: &Arc<Rules>, now: Instant) -> Self {
        // Seeded by the operating system: the clock of a board without a battery may start at the same time again.
        let run = RandomState::new().build_hasher().finish();
        let decider = Decider::new(Arc::clone(rules), moment(now, now, Timestamp::now()));
        Self { decider, begun: now, run, losses: 0, waiting: VecDeque::new(), fresh: Vec::new(), lost: 0 }
    }

    /// Takes the measures and the scores of all labels for a frame that was captured at `time`, after the rules that belong to
    /// them.
    pub(super) fn frame(
        &mut self,
        rules: &Arc<Rules>,
        captured: Instant,
        time: Timestamp,
        view: &View,
        scores: &[Score],
    ) {
        let now = moment(self.begun, captured, time);
        if !Arc::ptr_eq(rules, self.decider.rules()) {
            self.decider.adopt(Arc::clone(rules), now);
            self.keep();
        }
        let counts = self.decider.look(now, view);
        self.keep();
        if counts {
            self.decider.frame(now, scores.iter().map(|score| (score.label, score.probability)));
            self.keep();
        }
    }

    /// Makes all states unknown if the source was lost since the last call; it may be back already.
    pub(super) fn follow(&mut self, losses: u64, now: Instant) {
        if losses != std::mem::replace(&mut self.losses, losses) {
            self.decider.lose(moment(self.begun, now, Timestamp::now()), Reason::SourceLost);
            self.keep();
        }
    }

    /// Why the view lets nothing be judged, if it does not.
    pub(super) fn blind(&self) -> Option<Reason> {
        self.decider.blind()
    }

    /// The states after a frame that was captured at `time`.
    pub(super) fn states(&self, captured: Instant, time: Timestamp) -> Vec<State> {
        self.decider.states(moment(self.begun, captured, time)).collect()
    }

    /// The events since the last call, for those who get them without waiting.
    pub(super) fn fresh(&mut self) -> Drain<'_, Decision> {
        self.fresh.drain(..)
    }

    /// The next event for the output.
    pub(super) fn take(&mut self) -> Option<Decision> {
        self.waiting.pop_front()
    }

    /// Keeps an event that was taken and found no room.
    pub(super) fn put_back(&mut self, decision: Decision) {
        self.waiting.push_front(decision);
    }

    /// The number of events that were lost since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn keep(&mut self) {
        for change in self.decider.changes() {
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
                self.lost += 1;
            }
            let id = format!("{:016x}-{}", self.run, change.number);
            let decision = Decision { id, change: change.clone() };
            self.fresh.push(decision.clone());
            self.waiting.push_back(decision);
        }
    }
}

fn moment(begun: Instant, at: Instant, time: Timestamp) -> Moment {
    Moment { elapsed: at.saturating_duration_since(begun), unix_us: time.as_microsecond() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use spotter_engine::decide::{ChangeKind, LabelRules};

    use super::*;

    fn rules(threshold: f32) -> Arc<Rules> {
        let name = "cat".into();
        let label = LabelRules { name, meaning: 1, threshold, release: threshold, for_s: 0.0, hold_s: 0.0 };
        Arc::new(Rules { labels: vec![label], ..Rules::default() })
    }

    const CLEAR: View = View { brightest: 200.0, step: 90.0, sharpness: 0.5, digest: 0 };

    fn score(probability: f32) -> Score {
        Score { label: 0, cosine: 0.0, logit: 0.0, probability }
    }

    #[test]
    fn ids_differ_between_runs_and_a_label_ends_under_the_one_it_started_with() {
        let mut ids = BTreeSet::new();
        for _ in 0..2 {
            let (rules, begun) = (rules(0.5), Instant::now());
            let mut decisions = Decisions::new(&rules, begun);
            for (second, probability) in [1.0, 0.0, 1.0].into_iter().enumerate() {
                let at = begun + Duration::from_secs(second as u64);
                decisions.frame(&rules, at, Timestamp::now(), &CLEAR, &[score(probability)]);
            }
            decisions.follow(1, begun + Duration::from_secs(3));
            decisions.follow(1, begun + Duration::from_secs(4));
            let told: Vec<_> = std::iter::from_fn(|| decisions.take()).collect();
            let kinds: Vec<_> = told.iter().map(|told| (told.change.kind, told.change.reason)).collect();
            let (start, end) = (ChangeKind::Start, ChangeKind::End);
            let expected = [(start, None), (end, None), (start, None), (end, Some(Reason::SourceLost))];
            assert_eq!(kinds, expected);
            assert_eq!((&told[0].id, &told[2].id), (&told[1].id, &told[3].id));
            ids.extend(told.into_iter().map(|told| told.id));
        }
        assert_eq!(ids.len(), 4, "{ids:?}");
    }

    #[test]
    fn events_that_are_not_taken_are_bounded_and_the_newest_stay() {
        let (rules, begun) = (rules(0.5), Instant::now());
        let mut decisions = Decisions::new(&rules, begun);
        for number in 0..=WAITING_MAX as u64 {
            let at = begun + Duration::from_millis(number);
            decisions.frame(&rules, at, Timestamp::now(), &CLEAR, &[score((number % 2) as f32)]);
        }
        // The first frame changes nothing.
        assert_eq!((decisions.waiting.len(), decisions.take_lost(), decisions.take_lost()), (WAITING_MAX, 0, 0));
        let at = begun + Duration::from_secs(9);
        decisions.frame(&rules, at, Timestamp::now(), &CLEAR, &[score(1.0)]);
        assert_eq!((decisions.waiting.len(), decisions.take_lost()), (WAITING_MAX, 1));
        let first = decisions.take().unwrap();
        assert_eq!(first.change.kind, ChangeKind::End);
        decisions.put_back(first.clone());
        assert_eq!(decisions.take().unwrap().id, first.id);
    }
}
