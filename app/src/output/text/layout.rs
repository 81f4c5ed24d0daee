//! Lays out the table for a window of any size.

use spotter_engine::printable::printable;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Widest name that is shown whole; the table with bar and probability then fits 80 columns.
pub(super) const NAME_COLUMNS: usize = 32;

/// Widest bar.
const BAR_COLUMNS: usize = 24;

/// Shortest bar that is useful; otherwise the name gets the space.
const BAR_COLUMNS_MIN: usize = 4;

/// Columns of a space and a probability, as in ` 100.0%`.
const FIGURE_COLUMNS: usize = 7;

/// Narrowest name beside a probability.
const NAME_COLUMNS_MIN: usize = 4;

/// The size of a window in characters; both 1 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// A label and its probability.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) probability: f32,
    /// The probability that is marked on the bar, if any.
    pub(super) threshold: Option<f32>,
}

/// The best labels that fit, and as many of the last lines of `below` as there is room for beside one label. The last row
/// stays free for the cursor.
pub(super) fn lines(rows: &[Row], below: &[&str], size: Size) -> Vec<String> {
    let room = size.rows.saturating_sub(1).max(1);
    let below = &below[below.len().saturating_sub(room - 1)..];
    let names: Vec<_> = rows.iter().take(room - below.len()).map(|row| printable(&row.name)).collect();
    let longest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    let (name_columns, bar_columns) = columns(longest, size.columns);
    let mut lines: Vec<_> =
        names.iter().zip(rows).map(|(name, row)| line(name, row, name_columns, bar_columns, size.columns)).collect();
    lines.extend(below.iter().map(|text| cut(&printable(text), size.columns)));
    lines
}

/// Columns of the name and of the bar; 0 for a bar that would be too short.
fn columns(longest: usize, columns: usize) -> (usize, usize) {
    if columns > NAME_COLUMNS + BAR_COLUMNS + FIGURE_COLUMNS {
        return (NAME_COLUMNS, BAR_COLUMNS);
    }
    let name = longest.min(NAME_COLUMNS);
    let bar = columns.saturating_sub(name + 1 + FIGURE_COLUMNS).min(BAR_COLUMNS);
    if bar >= BAR_COLUMNS_MIN {
        return (name, bar);
    }
    (columns.saturating_sub(FIGURE_COLUMNS).min(name), 0)
}

fn line(name: &str, row: &Row, name_columns: usize, bar_columns: usize, columns: usize) -> String {
    if columns < NAME_COLUMNS_MIN + FIGURE_COLUMNS {
        return cut(name, columns);
    }
    let mut line = cut(name, name_columns);
    let blanks = name_columns - width(&line);
    line.extend(std::iter::repeat_n(' ', blanks));
    if !line.is_ascii() {
        // Terminals disagree on the width of some characters; this puts the rest in its column anyway.
        line.push_str(&format!("\x1b[{}G", name_columns + 1));
    }
    if bar_columns > 0 {
        let column = |share: f32| ((share * bar_columns as f32).round() as usize).min(bar_columns);
        let (filled, mark) = (column(row.probability), row.threshold.map(column));
        line.push(' ');
        line.extend((0..bar_columns).map(|index| match index {
            _ if mark == Some(index) => '│',
            _ if index < filled => '█',
            _ => '░',
        }));
    }
    line.push_str(&format!(" {:5.1}%", row.probability * 100.0));
    line
}

/// `text` if it fits, else its start and `…`. Never splits what a terminal shows as one character.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let (mut out, mut taken) = (String::new(), 0);
    for cluster in text.graphemes(true) {
        let wide = width(cluster);
        if taken + wide + 1 > columns {
            break;
        }
        out.push_str(cluster);
        taken += wide;
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Maximum number of columns that `text` takes: terminals show joined emoji as one or side by side.
fn width(text: &str) -> usize {
    let apart = |cluster: &str| cluster.chars().map(|c| c.width().unwrap_or(0)).sum::<usize>();
    text.graphemes(true).map(|cluster| cluster.width().max(apart(cluster))).sum()
}

/// Rows that a line takes if it was drawn when the window had another size.
pub(super) fn rows_taken(line: &str, size: Size) -> usize {
    let shown = line.split("\x1b[").enumerate().map(|(index, part)| match index {
        0 => width(part),
        // The column number and the letter of the escape sequence.
        _ => width(part.trim_start_matches(|c: char| c.is_ascii_digit())).saturating_sub(1),
    });
    shown.sum::<usize>().div_ceil(size.columns).max(1)
}
