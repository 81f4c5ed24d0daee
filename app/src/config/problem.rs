//! Problems of a configuration or label file, with their positions.

use std::cell::RefCell;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use spotter_engine::files;

/// Largest configuration or label file that is read. A thousand labels with ten prompts each stay far below.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Maximum number of reported problems per file: nobody reads more, and a file of another kind has one on every line.
const PROBLEMS_MAX: usize = 50;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub path: String,
    /// Position in the file; `None` for a problem of the whole file.
    pub position: Option<Position>,
    /// The message: lower case, no full stop.
    pub message: String,
}

/// A position in a text; both numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(Position { line, column }) => write!(f, "{}:{line}:{column}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// All problems of a file, as one error.
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Problems {}

/// One error with every problem of a file; `console` prints one line for each.
pub(crate) fn all_of(problems: &[Problem]) -> anyhow::Error {
    Problems(problems.iter().map(Problem::to_string).collect()).into()
}

/// Reads a configuration or label file.
pub fn read_text(path: &Path) -> Result<String, Problem> {
    let problem = |position, message| Problem { path: path.display().to_string(), position, message };
    let bytes = files::read(path, FILE_BYTES_MAX).map_err(|error| {
        let message = match error.kind() {
            ErrorKind::NotFound => "no such file".to_owned(),
            ErrorKind::PermissionDenied => "no permission to read it".to_owned(),
            ErrorKind::IsADirectory => "expected a file, found a directory".to_owned(),
            ErrorKind::FileTooLarge => format!("larger than {} KiB", FILE_BYTES_MAX / 1024),
            _ => format!("cannot be read: {error}"),
        };
        problem(None, message)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        problem(Some(position(&good, good.len())), "not UTF-8 text".to_owned())
    })
}

/// Position of the byte `offset` in `text`; the end of the text if it lies beyond.
fn position(text: &str, offset: usize) -> Position {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position { line: 1 + before.matches('\n').count(), column: 1 + before[line_start..].chars().count() }
}

/// Collects the problems of one text.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    path: &'a str,
    text: &'a str,
    syntax: RefCell<Vec<(Position, String)>>,
    meaning: RefCell<Vec<(Position, String)>>,
    left_out: RefCell<usize>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let (syntax, meaning) = Default::default();
        Self { path, text, syntax, meaning, left_out: RefCell::new(0) }
    }

    /// Notes that the text is not TOML at the byte `offset`.
    pub(crate) fn syntax(&self, offset: usize, message: String) {
        self.note(&self.syntax, offset, message);
    }

    /// Notes that the value at the byte `offset` is valid TOML, but not what is expected there.
    pub(crate) fn meaning(&self, offset: usize, message: String) {
        self.note(&self.meaning, offset, message);
    }

    /// Returns whether the whole text is valid TOML, so that a missing key is really missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.syntax.borrow().is_empty()
    }

    /// Returns whether a line that should begin a table could not be parsed.
    pub(crate) fn has_broken_header(&self) -> bool {
        let is_header = |line: usize| self.text.lines().nth(line - 1).is_some_and(|l| l.trim_start().starts_with('['));
        self.syntax.borrow().iter().any(|(position, _)| is_header(position.line))
    }

    /// Line and column of the byte `offset`.
    pub(crate) fn position(&self, offset: usize) -> Position {
        position(self.text, offset)
    }

    fn note(&self, list: &RefCell<Vec<(Position, String)>>, offset: usize, message: String) {
        if list.borrow().len() < PROBLEMS_MAX {
            list.borrow_mut().push((self.position(offset), message));
        } else {
            *self.left_out.borrow_mut() += 1;
        }
    }

    /// `value` if nothing was noted, else the problems in the text's order.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        let mut notes = self.syntax.into_inner();
        // The parser's guess about a line that it could not read is not worth a second problem.
        let mut lines: Vec<usize> = notes.iter().map(|(position, _)| position.line).collect();
        lines.dedup();
        notes.extend(self.meaning.into_inner().into_iter().filter(|(p, _)| !lines.contains(&p.line)));
        if notes.is_empty() {
            return Ok(value);
        }
        notes.sort_by_key(|&(position, _)| position);
        let left_out = self.left_out.into_inner() + notes.len().saturating_sub(PROBLEMS_MAX);
        notes.truncate(PROBLEMS_MAX);
        let problem = |position, message| Problem { path: self.path.to_owned(), position, message };
        let mut problems: Vec<Problem> = notes.into_iter().map(|(at, message)| problem(Some(at), message)).collect();
        if left_out > 0 {
            problems.push(problem(None, format!("{left_out} more problems")));
        }
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let check = |text: &str, offset: usize, line: usize, column: usize| {
            assert_eq!(position(text, offset), Position { line, column }, "{text:?} at {offset}");
        };
        check("", 0, 1, 1);
        check("", 7, 1, 1);
        check("ab", 1, 1, 2);
        check("ab\n", 3, 2, 1);
        check("ab\r\ncd", 5, 2, 2);
        check("ä = 1", 3, 1, 3);
        check("ä", 1, 1, 1);
        check("a\n\u{1f408}\u{1f408}x", 10, 2, 3);
    }

    #[test]
    fn unreadable_files_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |name: &str, content: Option<&[u8]>, expected: &str| {
            let path = folder.path().join(name);
            if let Some(content) = content {
                std::fs::write(&path, content).expect("a file");
            }
            let message = read_text(&path).expect_err(name).to_string();
            assert_eq!(message, format!("{}{expected}", path.display()));
        };
        check("missing.toml", None, ": no such file");
        check("", None, ": expected a file, found a directory");
        check("latin1.toml", Some(b"a = 1\nb = \"caf\xe9\""), ":2:9: not UTF-8 text");
        check("cut.toml", Some(b"b = \"\xc3"), ":1:6: not UTF-8 text");
        check("large.toml", Some(&[b'#'; (1 << 20) + 1]), ": larger than 1024 KiB");
        let path = folder.path().join("just.toml");
        std::fs::write(&path, [b'#'; 1 << 20]).expect("a file");
        assert_eq!(read_text(&path).map(|t| t.len()), Ok(1 << 20));
    }
}
