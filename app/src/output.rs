//! Outputs of the loop, one file per kind.

#[cfg(feature = "http")]
mod apprise;
mod command;
#[cfg(feature = "http")]
mod http;
pub mod json;
mod notice;
pub(crate) mod notify;
#[cfg(feature = "http")]
mod ntfy;
pub(crate) mod prometheus;
mod text;
#[cfg(feature = "http")]
mod webhook;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use spotter_engine::decide::{Change, Moment, Reason, Rules, State};
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::score::Score;

use crate::config;
use crate::recognizer::Latency;

/// One labelled frame.
#[derive(Debug, Clone)]
pub struct Report {
    /// When the frame was captured.
    pub time: jiff::Timestamp,
    /// Number of the captured frame, from 0; a gap means dropped frames.
    pub frame: u64,
    /// The file that the frame came from, if any.
    pub path: Option<PathBuf>,
    /// Label of the frame, if the source knows it.
    pub truth: Option<String>,
    /// The label set that the scores belong to.
    pub labels: Arc<LabelEmbeddings>,
    /// How the labels are decided about.
    pub rules: Arc<Rules>,
    /// The best labels, best first.
    pub scores: Vec<Score>,
    /// The states: of every question, then of the labels outside of questions that have started.
    pub states: Vec<State>,
    /// Why the view lets nothing be judged, if it does not.
    pub view: Option<Reason>,
    /// Times of the stages.
    pub latency: Latency,
    /// Labelled frames per second, smoothed.
    pub rate_hz: f32,
    /// Frames dropped so far in favour of newer ones.
    pub dropped: u64,
    /// Frames so far that got the scores of an earlier frame, since they showed the same; `None` if that is off.
    pub unchanged: Option<u64>,
}

impl Report {
    /// Question, name and score of each shown label.
    pub fn named(&self) -> impl Iterator<Item = (Option<&str>, &str, &Score)> {
        let labels = &self.labels;
        self.scores.iter().map(|score| (labels.question(score.label), labels.names()[score.label].as_str(), score))
    }
}

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The source failed and is being reopened.
    SourceLost,
    /// A lost source gives frames again.
    SourceBack,
    /// The view is dark, covered, blurred or frozen, so that nothing is judged.
    ViewLost,
    /// The view can be judged again.
    ViewBack,
    /// Broken frames were skipped.
    FramesSkipped,
    /// Reports were lost because the output was too slow.
    ReportsLost,
    /// Notices to a receiver were lost.
    NoticesLost,
    /// Another bundle was loaded and is used from the next frame on.
    BundleLoaded,
    /// The activated bundle cannot be loaded.
    BundleRefused,
    /// The governor changed the frame rate.
    Rate,
}

/// An event beside the labelled frames, for programs that read the output. It is in the log as well.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it happened.
    pub time: jiff::Timestamp,
    /// Its kind.
    pub kind: EventKind,
    /// Details for people.
    pub message: String,
}

impl Event {
    /// An event with the current time.
    pub fn now(kind: EventKind, message: String) -> Self {
        Event { time: jiff::Timestamp::now(), kind, message }
    }
}

/// A change of a state.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The same for start and end of a label, and for nothing else, however often the program is started.
    pub id: String,
    /// The change.
    pub change: Change,
}

/// An item for an output.
#[derive(Debug)]
pub enum Item {
    /// A labelled frame.
    Report(Report),
    /// An event.
    Event(Event),
    /// A change of a state.
    Decision(Decision),
}

/// Name of a label for people, after the question's if it has one.
pub(crate) fn full_name(question: Option<&str>, name: &str) -> String {
    question.map_or_else(|| name.to_owned(), |question| format!("{question}: {name}"))
}

/// What is wrong with the view, for people; `None` if the reason is another.
pub(crate) fn flaw_of_view(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Dark => Some("the view is dark"),
        Reason::Covered => Some("the view is covered"),
        Reason::Blurred => Some("the view is blurred"),
        Reason::Frozen => Some("the view is frozen"),
        Reason::BelowThreshold | Reason::SourceLost | Reason::LabelsChanged => None,
    }
}

/// The time of a moment.
pub(crate) fn timestamp(moment: Moment) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(moment.unix_us).unwrap_or_default()
}

pub(crate) use self::notice::NoticePicture;

/// An output, which runs on a thread of its own.
pub trait Output: Send {
    /// Writes one report.
    fn write(&mut self, report: &Report) -> io::Result<()>;
    /// Writes an event; outputs for people leave events to the log.
    fn event(&mut self, _event: &Event) -> io::Result<()> {
        Ok(())
    }
    /// Writes a change of a state; outputs for people show the states of each report.
    fn decision(&mut self, _decision: &Decision) -> io::Result<()> {
        Ok(())
    }
    /// Writes what is pending; called once, at the end.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens an output of that kind on standard output; `terminal` says whether that is a terminal with a movable cursor.
pub fn open(kind: config::Output, terminal: bool) -> Box<dyn Output> {
    let out: Box<dyn Write + Send> = Box::new(io::stdout());
    match (kind, terminal) {
        (config::Output::Json, _) => Box::new(json::Json::new(out)),
        (config::Output::Events, _) => Box::new(json::Json::events_only(out)),
        (config::Output::Text, true) => Box::new(text::Table::new(out, text::terminal_size)),
        (config::Output::Text, false) => Box::new(text::Lines::new(out)),
    }
}
