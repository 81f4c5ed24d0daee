//! Text output for people: on a terminal a table that is redrawn in place, else one line per frame.

mod layout;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use spotter_engine::console::write_line;
use spotter_engine::decide::{Reason, State};
use spotter_engine::printable::printable_path;

use self::layout::{Row, Size, lines, rows_taken};
use super::{Output, Report, flaw_of_view, full_name, timestamp};
use crate::output::json::ms;

/// Shortest time between two redraws: faster ones cannot be read and cost the board time.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// A table of the best labels with bars, redrawn in place.
pub(super) struct Table {
    out: Box<dyn Write + Send>,
    /// Called before each redraw, since windows change their size.
    size: fn() -> Size,
    shown: Vec<String>,
    drawn: Option<Instant>,
    /// The last report, if it came too soon to be drawn.
    pending: Option<Report>,
}

impl Table {
    pub(super) fn new(out: Box<dyn Write + Send>, size: fn() -> Size) -> Self {
        Self { out, size, shown: Vec::new(), drawn: None, pending: None }
    }

    fn draw(&mut self, report: &Report) -> io::Result<()> {
        let size = (self.size)();
        let named = report.named().map(|(question, name, score)| Row {
            name: full_name(question, name),
            probability: score.probability,
            threshold: Some(report.rules.labels[score.label].threshold),
        });
        let rows: Vec<_> = named.collect();
        let (text, lines) = redraw(&self.shown, &rows, &[&states(report), &status(report)], size);
        self.shown = lines;
        self.drawn = Some(Instant::now());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

/// Returns the text that replaces the lines `shown` on the terminal, and the new lines.
fn redraw(shown: &[String], rows: &[Row], below: &[&str], size: Size) -> (String, Vec<String>) {
    // Lines must not wrap, whatever width the terminal gives their characters.
    let mut text = String::from("\x1b[?7l");
    // In a window that became narrower the old lines take more rows; rows that have scrolled away cannot be reached.
    let taken: usize = shown.iter().map(|line| rows_taken(line, size)).sum();
    let up = if size.rows > 1 { taken.min(size.rows - 1) } else { 0 };
    // Moves to the table's first line and clears everything below, in case there are fewer labels now.
    if up > 0 {
        let _ = write!(text, "\x1b[{up}A");
    }
    if !shown.is_empty() {
        text.push_str("\r\x1b[J");
    }
    let lines = lines(rows, below, size);
    for line in &lines {
        text.push_str(line);
        // In a window of one row a line break would scroll the line away.
        text.push_str(if size.rows > 1 { "\n" } else { "" });
    }
    text.push_str("\x1b[?7h");
    (text, lines)
}

/// The size of the terminal at standard output; 80 columns and 24 rows if it does not know, as on a serial line.
pub(super) fn terminal_size() -> Size {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let side = |found: Option<u16>, default| found.filter(|side| *side > 0).map_or(default, usize::from);
    Size { columns: side(size.map(|size| size.ws_col), 80), rows: side(size.map(|size| size.ws_row), 24) }
}

impl Output for Table {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW_EVERY) {
            self.pending = Some(report.clone());
            return Ok(());
        }
        self.pending = None;
        self.draw(report)
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(report) = self.pending.take() {
            self.draw(&report)?;
        }
        if !self.shown.is_empty() && (self.size)().rows <= 1 {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// The line of states below the labels.
fn states(report: &Report) -> String {
    let shown: Vec<String> = report.states.iter().map(|state| describe(state, Some(report.time))).collect();
    match report.view.and_then(why) {
        _ if !shown.is_empty() => shown.join(", "),
        Some(why) => format!("nothing can be judged: {why}"),
        None => "nothing has reached its threshold".to_owned(),
    }
}

/// A reason for people; `None` if it goes without saying.
fn why(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::BelowThreshold => None,
        Reason::SourceLost => Some("source lost"),
        Reason::LabelsChanged => Some("labels changed"),
        other => flaw_of_view(other),
    }
}

/// A state, and for how long it has held if the time is given.
fn describe(state: &State, time: Option<Timestamp>) -> String {
    let name = match (&state.label, &state.question) {
        (Some(label), question) => full_name(question.as_deref(), label),
        (None, question) => {
            let why = state.reason.and_then(why).map_or_else(String::new, |why| format!(" ({why})"));
            full_name(question.as_deref(), &format!("unknown{why}"))
        }
    };
    let seconds = time.map(|time| time.duration_since(timestamp(state.since)).as_secs().max(0));
    seconds.map_or_else(|| name.clone(), |seconds| format!("{name} for {seconds} s"))
}

/// The status line below the labels.
fn status(report: &Report) -> String {
    let latency = ms(report.latency.total());
    let mut text = format!("{:.1} frames/s, {latency:.1} ms a frame, frame {}", report.rate_hz, report.frame);
    // Writing to a String cannot fail.
    if let Some(truth) = &report.truth {
        let _ = write!(text, ", drawn: {truth}");
    }
    if let Some(path) = &report.path {
        let _ = write!(text, ", {}", layout::cut(&printable_path(path), layout::NAME_COLUMNS));
    }
    text
}

/// One line per frame, for logs and pipes.
pub(super) struct Lines {
    out: Box<dyn Write + Send>,
}

impl Lines {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }
}

impl Output for Lines {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        let mut line = match &report.path {
            Some(path) => format!("{}:", path.display()),
            None => format!("frame {}:", report.frame),
        };
        for (index, (question, name, score)) in report.named().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(line, "{comma} {} {:.1}%", full_name(question, name), score.probability * 100.0);
        }
        if !report.states.is_empty() {
            let states: Vec<String> = report.states.iter().map(|state| describe(state, None)).collect();
            let _ = write!(line, " [{}]", states.join(", "));
        }
        if let Some(truth) = &report.truth {
            let _ = write!(line, " (drawn: {truth})");
        }
        write_line(&mut self.out, format_args!("{line}"))?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
