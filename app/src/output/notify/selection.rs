//! Which changes a receiver is told.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use spotter_engine::decide::{Change, ChangeKind};

use crate::config::notify::{EventChoice, Notify};

use super::super::full_name;

/// Maximum number of labels and questions whose last telling is remembered: more than a file has.
const REMEMBERED_MAX: usize = 4096;

/// Chooses by label, kind and time.
#[derive(Debug)]
pub(super) struct Selection {
    labels: Option<Vec<String>>,
    events: Vec<EventChoice>,
    min_interval: Duration,
    /// When a label's start, or a question's state, was told last, since the start of the program.
    told: HashMap<(Subject, String), Duration>,
    /// Starts that were left out and have not ended.
    left_out: BTreeSet<u64>,
}

/// What an interval is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Label,
    Question,
}

impl Selection {
    pub(super) fn new(notify: &Notify) -> Self {
        let Notify { labels, events, min_interval, .. } = notify.clone();
        Self { labels, events, min_interval, told: HashMap::new(), left_out: BTreeSet::new() }
    }

    /// Returns whether the receiver is told; if so, the time counts as told. Call it for every change, in order.
    pub(super) fn takes(&mut self, change: &Change) -> bool {
        if !self.is_named(change) {
            return false;
        }
        let has = |event| self.events.contains(&event);
        let (is_chosen, key) = match change.kind {
            // An end belongs to its start: it is told if that was, so that nothing seems to last for ever.
            ChangeKind::End if has(EventChoice::Start) => {
                return !self.left_out.remove(&change.number) && has(EventChoice::End);
            }
            ChangeKind::End => (has(EventChoice::End), Subject::Label),
            ChangeKind::Start => (has(EventChoice::Start), Subject::Label),
            ChangeKind::State => (has(EventChoice::State), Subject::Question),
        };
        if !is_chosen {
            return false;
        } else if self.min_interval.is_zero() {
            return true;
        }
        let name = match key {
            Subject::Label => full_name(change.question.as_deref(), change.label.as_deref().unwrap_or_default()),
            Subject::Question => change.question.as_deref().unwrap_or_default().to_owned(),
        };
        let (now, interval) = (change.at.elapsed, self.min_interval);
        let is_due = |last: &Duration| now.saturating_sub(*last) >= interval;
        let key = (key, name);
        if self.told.get(&key).is_some_and(|last| !is_due(last)) {
            if change.kind == ChangeKind::Start {
                self.left_out.insert(change.number);
            }
            return false;
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.retain(|_, last| !is_due(last));
        }
        if self.told.len() < REMEMBERED_MAX || self.told.contains_key(&key) {
            self.told.insert(key, now);
        }
        true
    }

    /// Returns whether the change is about a label or question that was chosen.
    fn is_named(&self, change: &Change) -> bool {
        let Some(chosen) = &self.labels else { return true };
        let (question, label) = (change.question.as_deref(), change.label.as_deref());
        chosen.iter().any(|name| {
            let name = name.as_str();
            question == Some(name)
                || label == Some(name)
                || label.is_some_and(|label| full_name(question, label) == name)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Position;
    use crate::config::notify::Receiver;

    use super::super::super::notice::tests::notice;
    use super::*;

    fn selection(labels: Option<&[&str]>, events: &[EventChoice], seconds: u64) -> Selection {
        Selection::new(&Notify {
            receiver: Receiver::Command(vec!["x".to_owned()]),
            labels: labels.map(|labels| labels.iter().map(|label| (*label).to_owned()).collect()),
            events: events.to_vec(),
            min_interval: Duration::from_secs(seconds),
            timeout: Duration::from_secs(1),
            position: Position { line: 1, column: 1 },
        })
    }

    const ALL: [EventChoice; 3] = [EventChoice::Start, EventChoice::End, EventChoice::State];

    type Told = (ChangeKind, u64, Option<&'static str>, Option<&'static str>, u64);

    fn takes(selection: &mut Selection, (kind, number, question, label, second): Told) -> bool {
        selection.takes(&notice(kind, number, question, label, second).decision.change)
    }

    #[test]
    fn labels_and_questions_are_chosen_by_name() {
        let open = (ChangeKind::Start, 0, Some("door"), Some("open"), 10);
        let state = (ChangeKind::State, 1, Some("door"), Some("open"), 10);
        let unknown = (ChangeKind::State, 2, Some("door"), None, 10);
        let cat = (ChangeKind::Start, 3, None, Some("cat"), 10);
        for (labels, expected) in [
            (None, [true; 4]),
            (Some(&["cat"][..]), [false, false, false, true]),
            (Some(&["door"]), [true, true, true, false]),
            (Some(&["open"]), [true, true, false, false]),
            (Some(&["door: open", "cat"]), [true, true, false, true]),
            (Some(&["gate: open", "dog"]), [false; 4]),
        ] {
            let found = [open, state, unknown, cat].map(|change| takes(&mut selection(labels, &ALL, 0), change));
            assert_eq!(found, expected, "{labels:?}");
        }
    }

    #[test]
    fn kinds_are_chosen() {
        let changes = [ChangeKind::Start, ChangeKind::End, ChangeKind::State];
        for (events, expected) in [
            (&ALL[..], [true, true, true]),
            (&[EventChoice::Start], [true, false, false]),
            (&[EventChoice::End], [false, true, false]),
            (&[EventChoice::State], [false, false, true]),
        ] {
            let mut selection = selection(None, events, 0);
            let found = changes.map(|kind| takes(&mut selection, (kind, 0, Some("door"), Some("open"), 10)));
            assert_eq!(found, expected, "{events:?}");
        }
    }

    #[test]
    fn what_comes_too_soon_is_left_out_with_its_end() {
        let mut selection = selection(None, &ALL, 60);
        let cat = |kind, number, second| (kind, number, None, Some("cat"), second);
        for (change, expected) in [
            (cat(ChangeKind::Start, 0, 10), true),
            (cat(ChangeKind::End, 0, 12), true),
            (cat(ChangeKind::Start, 1, 20), false),
            ((ChangeKind::Start, 2, None, Some("dog"), 21), true),
            (cat(ChangeKind::End, 1, 100), false),
            (cat(ChangeKind::Start, 3, 101), true),
            (cat(ChangeKind::End, 3, 102), true),
            // A question's states have an interval of their own.
            ((ChangeKind::State, 4, Some("cat"), None, 103), true),
            ((ChangeKind::State, 5, Some("cat"), None, 162), false),
            ((ChangeKind::State, 6, Some("cat"), None, 163), true),
        ] {
            assert_eq!(takes(&mut selection, change), expected, "{change:?}");
        }
        assert!(selection.left_out.is_empty());
    }

    #[test]
    fn ends_alone_have_the_interval() {
        let mut selection = selection(None, &[EventChoice::End], 60);
        let found =
            [10, 69, 70].map(|second| takes(&mut selection, (ChangeKind::End, second, None, Some("cat"), second)));
        assert_eq!(found, [true, false, true]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut selection = selection(None, &ALL, 86_400);
        let mut change = notice(ChangeKind::Start, 0, None, Some("cat"), 10).decision.change;
        for number in 0..2 * REMEMBERED_MAX {
            change.label = Some(number.to_string().into());
            assert!(selection.takes(&change), "{number}");
        }
        assert_eq!(selection.told.len(), REMEMBERED_MAX);
    }
}
