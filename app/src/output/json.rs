//! JSON output: one object a line, for each frame and for each event.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spotter_engine::decide::{ChangeKind, Moment, Reason, State};
use spotter_engine::printable::serialize_path;

use super::{Decision, Event, EventKind, Output, Report, timestamp};

/// A label in JSON.
#[derive(Debug, Serialize)]
pub struct LabelScore<'a> {
    /// Question of the label, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<&'a str>,
    /// Name of the label.
    pub name: &'a str,
    /// Cosine between image and label, -1 to 1.
    pub cosine: f32,
    /// Cosine times `exp(logit_scale)`, plus the bundle's bias if it has one.
    pub logit: f32,
    /// Softmax over what the label competes with, or its sigmoid, by the bundle's scoring.
    pub probability: f32,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    frame: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_path")]
    path: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truth: Option<&'a str>,
    labels: Vec<LabelScore<'a>>,
    states: Vec<StateLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<Reason>,
    latency_ms: LatencyMs,
    dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
}

#[derive(Serialize)]
struct EventLine<'a> {
    time: String,
    event: EventKind,
    message: &'a str,
}

/// A state; its label is null while it is unknown.
#[derive(Serialize)]
struct StateLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f32>,
}

/// A change of a state; its label is null where a question becomes unknown.
#[derive(Serialize)]
struct DecisionLine<'a> {
    time: String,
    event: ChangeKind,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    since: String,
    duration_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f32>,
}

#[derive(Serialize)]
struct LatencyMs {
    capture: f64,
    decode: f64,
    preprocess: f64,
    tower: f64,
    score: f64,
    total: f64,
}

/// Writes reports as lines of JSON.
pub struct Json {
    out: Box<dyn Write + Send>,
    events_only: bool,
}

impl Json {
    /// An output that writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, events_only: false }
    }

    /// An output that writes events to `out`, and no frames.
    pub fn events_only(out: Box<dyn Write + Send>) -> Self {
        Self { out, events_only: true }
    }
}

impl Output for Json {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        if self.events_only {
            return Ok(());
        }
        let latency = &report.latency;
        let line = Line {
            time: format!("{:.6}", report.time),
            frame: report.frame,
            path: report.path.as_deref(),
            truth: report.truth.as_deref(),
            labels: report.named().map(|(question, name, score)| LabelScore::new(question, name, score)).collect(),
            states: report.states.iter().map(StateLine::new).collect(),
            view: report.view,
            latency_ms: LatencyMs {
                capture: ms(latency.capture),
                decode: ms(latency.decode),
                preprocess: ms(latency.preprocess),
                tower: ms(latency.tower),
                score: ms(latency.score),
                total: ms(latency.total()),
            },
            dropped: report.dropped,
            unchanged: report.unchanged,
        };
        write_line(&mut self.out, &line)
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let line = EventLine { time: format!("{:.6}", event.time), event: event.kind, message: &event.message };
        write_line(&mut self.out, &line)
    }

    fn decision(&mut self, decision: &Decision) -> io::Result<()> {
        write_line(&mut self.out, &DecisionLine::new(decision))
    }
}

impl<'a> StateLine<'a> {
    fn new(state: &'a State) -> Self {
        let State { question, label, last, reason, since, probability } = state;
        Self {
            question: question.as_deref(),
            label: label.as_deref(),
            last: last.as_deref(),
            reason: *reason,
            since: time(*since),
            probability: *probability,
        }
    }
}

impl<'a> DecisionLine<'a> {
    fn new(decision: &'a Decision) -> Self {
        let change = &decision.change;
        Self {
            time: time(change.at),
            event: change.kind,
            id: &decision.id,
            question: change.question.as_deref(),
            label: change.label.as_deref(),
            last: change.last.as_deref(),
            reason: change.reason,
            since: time(change.since),
            duration_s: change.at.since(change.since).as_micros() as f64 / 1e6,
            probability: change.figures.map(|figures| figures.probability),
            peak: change.figures.map(|figures| figures.peak),
            mean: change.figures.map(|figures| figures.mean),
        }
    }
}

fn time(moment: Moment) -> String {
    format!("{:.6}", timestamp(moment))
}

impl<'a> LabelScore<'a> {
    /// A label's question and name with its score.
    pub fn new(question: Option<&'a str>, name: &'a str, score: &spotter_engine::score::Score) -> Self {
        Self { question, name, cosine: score.cosine, logit: score.logit, probability: score.probability }
    }
}

/// A change of a state as one object, without a line end.
///
/// # Errors
/// Those of serde_json.
pub(crate) fn decision(decision: &Decision) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&DecisionLine::new(decision))
}

/// Writes one object and a line end with one call, so that readers never see half a line.
pub fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Milliseconds, rounded to microseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
