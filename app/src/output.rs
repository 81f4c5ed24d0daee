//! What becomes of the scores: one file per kind of output.

pub mod json;
mod text;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use spotter_engine::labels::LabelEmbeddings;
use spotter_engine::score::Score;

use crate::config;
use crate::recognizer::Latency;

/// What is known of one labelled frame.
#[derive(Debug, Clone)]
pub struct Report {
    /// When the frame was captured.
    pub time: jiff::Timestamp,
    /// Counts the captured frames, from 0; a gap means dropped frames.
    pub frame: u64,
    /// The file that the frame came from.
    pub path: Option<PathBuf>,
    /// What the frame shows, where the source knows it.
    pub truth: Option<String>,
    /// The label set that the scores belong to.
    pub labels: Arc<LabelEmbeddings>,
    /// The best labels, best first.
    pub scores: Vec<Score>,
    /// Times of the stages.
    pub latency: Latency,
    /// Labelled frames per second, smoothed.
    pub rate_hz: f32,
    /// Frames dropped so far because a newer one came first.
    pub dropped: u64,
    /// Frames so far that got the scores of one before, since they showed the same; `None` where that is off.
    pub unchanged: Option<u64>,
}

impl Report {
    /// Name, score of each shown label.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Score)> {
        self.scores.iter().map(|score| (self.labels.names()[score.label].as_str(), score))
    }
}

/// What happened beside the labelled frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The source failed and is opened again until it works.
    SourceLost,
    /// A lost source gives frames again.
    SourceBack,
    /// Frames were broken and left out.
    FramesSkipped,
    /// Reports were lost because the output was too slow.
    ReportsLost,
    /// A bundle was loaded and runs from the next frame on.
    BundleLoaded,
    /// The bundle that was activated cannot be loaded.
    BundleRefused,
    /// The rate of frames is held down, or no more.
    Rate,
}

/// One thing that happened, for programs that follow the output; the log says it as well.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it happened.
    pub time: jiff::Timestamp,
    /// What it is.
    pub kind: EventKind,
    /// What exactly, for people.
    pub message: String,
}

impl Event {
    /// An event that happens now.
    pub fn now(kind: EventKind, message: String) -> Self {
        Event { time: jiff::Timestamp::now(), kind, message }
    }
}

/// What goes to an output.
#[derive(Debug)]
pub enum Item {
    /// A labelled frame.
    Report(Report),
    /// Anything else.
    Event(Event),
}

/// Takes reports, one after the other, on a thread of its own.
pub trait Output: Send {
    /// Writes one report.
    fn write(&mut self, report: &Report) -> io::Result<()>;
    /// Writes what happened; outputs for people leave that to the log.
    fn event(&mut self, _event: &Event) -> io::Result<()> {
        Ok(())
    }
    /// Writes what is still to be written; called once, at the end.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a terminal of that type (`$TERM`) can move its cursor.
pub fn is_smart(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The output of that kind on standard output; `terminal` says whether that is one
/// whose cursor can be moved.
pub fn open(kind: config::Output, terminal: bool) -> Box<dyn Output> {
    let out: Box<dyn Write + Send> = Box::new(io::stdout());
    match (kind, terminal) {
        (config::Output::Json, _) => Box::new(json::Json::new(out)),
        (config::Output::Text, true) => Box::new(text::Table::new(out, text::terminal_size)),
        (config::Output::Text, false) => Box::new(text::Lines::new(out)),
    }
}
