//! JSON output: one object a line.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spotter_engine::printable::serialize_path;

use super::{Event, EventKind, Output, Report};

/// A label in JSON.
#[derive(Debug, Serialize)]
pub struct LabelScore<'a> {
    /// Name of the label.
    pub name: &'a str,
    /// Cosine between image and label, -1 to 1.
    pub cosine: f32,
    /// Cosine times `exp(logit_scale)`, plus the bundle's bias if it has one.
    pub logit: f32,
    /// Softmax over the label set or sigmoid of the label, by the bundle's scoring.
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
}

impl Json {
    /// An output that writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }
}

impl Output for Json {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        let latency = &report.latency;
        let line = Line {
            time: format!("{:.6}", report.time),
            frame: report.frame,
            path: report.path.as_deref(),
            truth: report.truth.as_deref(),
            labels: report.named().map(|(name, score)| LabelScore::new(name, score)).collect(),
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
}

impl<'a> LabelScore<'a> {
    /// A label's name with its score.
    pub fn new(name: &'a str, score: &spotter_engine::score::Score) -> Self {
        Self { name, cosine: score.cosine, logit: score.logit, probability: score.probability }
    }
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
