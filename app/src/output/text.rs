//! For people: a table that is redrawn in place on a terminal, else a line a frame.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::{Output, Report};
use crate::output::json::ms;

/// Redraws closer together than this cannot be read, and cost the board time.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Widest name shown whole; with bar and figures the table then fits 80 columns.
const NAME_COLUMNS: usize = 32;

const BAR_COLUMNS: usize = 24;

/// The best labels with bars, redrawn in place.
pub(super) struct Table {
    out: Box<dyn Write + Send>,
    lines: usize,
    drawn: Option<Instant>,
    /// The last report's table, where it came too soon to be drawn.
    pending: Option<String>,
}

impl Table {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, lines: 0, drawn: None, pending: None }
    }

    fn draw(&mut self, table: &str) -> io::Result<()> {
        if self.lines > 0 {
            // Back to the table's first line; what is below is cleared, for a shorter set of labels.
            write!(self.out, "\x1b[{}A\r\x1b[J", self.lines)?;
        }
        self.lines = table.lines().count();
        self.drawn = Some(Instant::now());
        self.out.write_all(table.as_bytes())?;
        self.out.flush()
    }
}

impl Output for Table {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        let table = table(report);
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW_EVERY) {
            self.pending = Some(table);
            return Ok(());
        }
        self.pending = None;
        self.draw(&table)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.pending.take().map_or(Ok(()), |table| self.draw(&table))
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, score) in report.named() {
        let filled = (score.probability * BAR_COLUMNS as f32).round() as usize;
        let bar = "█".repeat(filled.min(BAR_COLUMNS));
        let name = shortened(name);
        let _ = writeln!(text, "{name:NAME_COLUMNS$} {bar:░<BAR_COLUMNS$} {:5.1}%", score.probability * 100.0);
    }
    let latency = ms(report.latency.total());
    let _ = write!(text, "{:.1} frames/s, {latency:.1} ms a frame, frame {}", report.rate_hz, report.frame);
    if let Some(truth) = &report.truth {
        let _ = write!(text, ", drawn: {truth}");
    }
    if let Some(path) = &report.path {
        let _ = write!(text, ", {}", shortened(&path.display().to_string()));
    }
    text.push('\n');
    text
}

/// A line a frame, for logs and pipes.
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
        for (index, (name, score)) in report.named().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(line, "{comma} {name} {:.1}%", score.probability * 100.0);
        }
        if let Some(truth) = &report.truth {
            let _ = write!(line, " (drawn: {truth})");
        }
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        self.out.flush()
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_COLUMNS {
        return name.to_owned();
    }
    name.chars().take(NAME_COLUMNS - 1).chain(['…']).collect()
}
