//! Text files with one entry per line: names of classes, captions, templates.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use spotter_engine::files;

use super::place::Place;
use crate::evaluate::error::EvaluateError;

/// Size limit of a text file in bytes; the captions of COCO, a large set, have 50 MB.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// The non-blank lines of a file.
pub(super) struct Lines {
    pub(super) path: PathBuf,
    /// The lines with their numbers, from 1.
    pub(super) lines: Vec<(usize, String)>,
}

impl Lines {
    /// Reads the file `path`.
    pub(super) fn read(path: &Path) -> Result<Self, EvaluateError> {
        Self::of(path.to_owned(), files::read(path, TEXT_BYTES_MAX))
    }

    /// Reads a file inside the set.
    pub(super) fn inside(place: &Place, name: &Path) -> Result<Self, EvaluateError> {
        Self::of(place.path().join(name), place.read(name, TEXT_BYTES_MAX))
    }

    fn of(path: PathBuf, bytes: io::Result<Vec<u8>>) -> Result<Self, EvaluateError> {
        let text = bytes.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
        });
        let text = match text {
            Ok(text) => text,
            Err(source) => return Err(EvaluateError::Io { path, source }),
        };
        // A byte order mark is not part of the first line.
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        Ok(Self { path, lines: lines.map(|(index, line)| (index + 1, line.to_owned())).collect() })
    }

    /// The error for line number `line`.
    pub(super) fn wrong(&self, line: usize, expected: &str, found: String) -> EvaluateError {
        EvaluateError::Line { path: self.path.clone(), line, expected: expected.to_owned(), found }
    }

    /// Splits each line at its first tab: its number and both parts, trimmed.
    pub(super) fn pairs<'a>(
        &'a self,
        expected: &'a str,
    ) -> impl Iterator<Item = Result<(usize, &'a str, &'a str), EvaluateError>> {
        self.lines.iter().map(move |(number, line)| {
            match line.split_once('\t').map(|(key, value)| (key.trim(), value.trim())) {
                Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((*number, key, value)),
                _ => Err(self.wrong(*number, expected, format!("{:?}", shortened(line)))),
            }
        })
    }
}

/// Reads a file of prompt templates: one per line, each with one `{}`.
pub(crate) fn read_templates(path: &Path) -> Result<Vec<String>, EvaluateError> {
    const EXPECTED: &str = "a template with one {} for the name";
    let file = Lines::read(path)?;
    for (number, template) in &file.lines {
        let found = template.matches("{}").count();
        if found != 1 {
            return Err(file.wrong(*number, EXPECTED, format!("{found} in {:?}", shortened(template))));
        }
    }
    if file.lines.is_empty() {
        return Err(file.wrong(1, EXPECTED, "no lines".to_owned()));
    }
    Ok(file.lines.into_iter().map(|(_, template)| template.trim().to_owned()).collect())
}

/// Shortens a line for a message.
fn shortened(line: &str) -> String {
    const CHARACTERS: usize = 60;
    if line.chars().count() <= CHARACTERS {
        return line.to_owned();
    }
    line.chars().take(CHARACTERS - 1).chain(['…']).collect()
}
