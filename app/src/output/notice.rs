//! A notice: a change of a state that a receiver is told, with the frame if it takes pictures.

mod picture;

use std::sync::Arc;
use std::time::Duration;

use spotter_engine::decide::{ChangeKind, Reason};

use super::{Decision, flaw_of_view, full_name};
use crate::process::Stop;

pub(crate) use self::picture::NoticePicture;

/// What a receiver is told.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    /// The change.
    pub(crate) decision: Decision,
    /// The frame that the change was decided at; not for every receiver.
    pub(crate) picture: Option<Arc<NoticePicture>>,
}

/// Why a notice did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The message: lower case, no full stop, no secrets.
    pub(crate) message: String,
    /// True if another attempt may succeed.
    pub(crate) is_transient: bool,
}

impl Failure {
    /// A failure that another attempt would not change.
    pub(crate) fn lasting(message: String) -> Self {
        Self { message, is_transient: false }
    }
}

/// Tells a receiver.
pub(crate) trait Sender: Send {
    /// Tells one notice. It returns within [`Self::step_max`], and soon once `stop` is set if it can.
    fn send(&mut self, notice: &Notice, stop: &Stop) -> Result<(), Failure>;

    /// Longest time that one attempt takes.
    fn step_max(&self) -> Duration;
}

#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only servers are told in words"))]
impl Notice {
    /// One line for people, such as "garage door: open (87 %)".
    pub(crate) fn text(&self) -> String {
        let change = &self.decision.change;
        let (question, label) = (change.question.as_deref(), change.label.as_deref());
        let Some(label) = label else {
            let why = match change.reason {
                Some(Reason::SourceLost) => "the camera is lost",
                Some(Reason::LabelsChanged) => "its labels were changed",
                other => other.and_then(flaw_of_view).unwrap_or("no answer is likely enough"),
            };
            return format!("{}: unknown, {why}", question.unwrap_or_default());
        };
        let name = full_name(question, label);
        if change.kind == ChangeKind::End {
            let lasted = change.at.since(change.since).as_secs_f64();
            let why = match change.reason {
                Some(Reason::SourceLost) => Some("the camera is lost"),
                Some(Reason::LabelsChanged) => Some("its label was changed"),
                other => other.and_then(flaw_of_view),
            };
            let why = why.map_or_else(String::new, |why| format!(", {why}"));
            return format!("{name}: over after {lasted:.0} s{why}");
        }
        let percent = change.figures.map(|figures| format!(" ({:.0} %)", figures.probability * 100.0));
        format!("{name}{}", percent.unwrap_or_default())
    }

    /// Returns whether somebody should look after it.
    pub(crate) fn is_warning(&self) -> bool {
        // Darkness is most often the night.
        let broken = [Reason::SourceLost, Reason::Covered, Reason::Blurred, Reason::Frozen];
        self.decision.change.reason.is_some_and(|reason| broken.contains(&reason))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use spotter_engine::decide::{Change, Figures, Moment};

    use super::*;

    /// A change at `second`, which began four seconds before.
    pub(crate) fn notice(
        kind: ChangeKind,
        number: u64,
        question: Option<&str>,
        label: Option<&str>,
        second: u64,
    ) -> Notice {
        let moment = |second: u64| Moment { elapsed: Duration::from_secs(second), unix_us: second as i64 * 1_000_000 };
        let figures = Figures { probability: 0.874, peak: 0.9, mean: 0.8 };
        let change = Change {
            kind,
            number,
            question: question.map(Into::into),
            label: label.map(Into::into),
            last: None,
            reason: None,
            at: moment(second),
            since: moment(second.saturating_sub(4)),
            figures: label.map(|_| figures),
        };
        Notice { decision: Decision { id: format!("run-{number}"), change }, picture: None }
    }

    #[test]
    fn people_are_told_in_one_line() {
        for (kind, question, label, reason, expected) in [
            (ChangeKind::Start, None, Some("cat"), None, "cat (87 %)"),
            (ChangeKind::State, Some("door"), Some("open"), None, "door: open (87 %)"),
            (ChangeKind::End, Some("door"), Some("open"), None, "door: open: over after 4 s"),
            (ChangeKind::End, None, Some("cat"), Some(Reason::SourceLost), "cat: over after 4 s, the camera is lost"),
            (
                ChangeKind::State,
                Some("door"),
                None,
                Some(Reason::BelowThreshold),
                "door: unknown, no answer is likely enough",
            ),
            (ChangeKind::State, Some("door"), None, Some(Reason::SourceLost), "door: unknown, the camera is lost"),
            (ChangeKind::State, Some("door"), None, Some(Reason::Dark), "door: unknown, the view is dark"),
            (ChangeKind::End, None, Some("cat"), Some(Reason::Frozen), "cat: over after 4 s, the view is frozen"),
        ] {
            let mut notice = notice(kind, 0, question, label, 10);
            notice.decision.change.reason = reason;
            assert_eq!(notice.text(), expected);
            assert_eq!(notice.is_warning(), matches!(reason, Some(Reason::SourceLost | Reason::Frozen)));
        }
    }
}
