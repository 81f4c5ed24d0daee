//! Reading what a set is made of.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use spotter_engine::picture;

use crate::evaluate::EvaluateError;

/// Larger picture files are refused: no camera writes them, and one for each thread must fit the memory.
const PICTURE_BYTES_MAX: u64 = 256 << 20;

/// Larger texts are refused; the captions of COCO, a large set, are 50 MB.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Folders in folders are entered so often; more means a link that leads back.
const DEPTH_MAX: usize = 16;

/// What lies in a folder.
pub(super) struct Entries {
    pub(super) folders: Vec<PathBuf>,
    pub(super) pictures: Vec<PathBuf>,
    /// Files without the ending of a picture.
    pub(super) others: usize,
}

impl Entries {
    /// By name; what begins with a dot is hidden and does not count.
    pub(super) fn read(folder: &Path) -> Result<Self, EvaluateError> {
        let error = |source| EvaluateError::Io { path: folder.to_owned(), source };
        let mut entries = Self { folders: Vec::new(), pictures: Vec::new(), others: 0 };
        for entry in std::fs::read_dir(folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            // Links are followed; a broken one is a picture that cannot be read.
            if path.is_dir() {
                entries.folders.push(path);
            } else if picture::has_known_ending(&path) {
                entries.pictures.push(path);
            } else {
                entries.others += 1;
            }
        }
        entries.folders.sort();
        entries.pictures.sort();
        Ok(entries)
    }
}

/// All pictures in `folder` and in the folders in it, in the order of names; and how many other files there are.
pub(super) fn pictures_in(folder: &Path) -> Result<(Vec<PathBuf>, usize), EvaluateError> {
    fn walk(folder: &Path, depth: usize, pictures: &mut Vec<PathBuf>) -> Result<usize, EvaluateError> {
        if depth > DEPTH_MAX {
            let expected = format!("folders in folders {DEPTH_MAX} deep at most");
            let found = "one more; remove a link that leads back".to_owned();
            return Err(EvaluateError::Folder { path: folder.to_owned(), expected, found });
        }
        let mut entries = Entries::read(folder)?;
        pictures.append(&mut entries.pictures);
        let inner = entries.folders.iter().map(|folder| walk(folder, depth + 1, pictures));
        Ok(entries.others + inner.sum::<Result<usize, _>>()?)
    }
    let mut pictures = Vec::new();
    let others = walk(folder, 1, &mut pictures)?;
    Ok((pictures, others))
}

/// The content of a picture's file.
pub(super) fn read_picture(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a file"));
    }
    read(file, PICTURE_BYTES_MAX)
}

/// The lines of a text file, numbered from 1, without those that are blank.
pub(super) fn read_text(path: &Path) -> Result<Vec<(usize, String)>, EvaluateError> {
    let text = File::open(path).and_then(|file| read(file, TEXT_BYTES_MAX)).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
    });
    let text = text.map_err(|source| EvaluateError::Io { path: path.to_owned(), source })?;
    // A byte order mark is no part of the first line.
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    Ok(lines.filter(|(_, line)| !line.trim().is_empty()).map(|(index, line)| (index + 1, line.to_owned())).collect())
}

/// The templates in a file: one a line, with one `{}` in each.
pub(in crate::evaluate) fn templates(path: &Path) -> Result<Vec<String>, EvaluateError> {
    let lines = read_text(path)?;
    for (line, template) in &lines {
        let found = template.matches("{}").count();
        if found != 1 {
            let expected = "a template with one {}, where a name goes".to_owned();
            let found = format!("{found} in {:?}", shortened(template));
            return Err(EvaluateError::Line { path: path.to_owned(), line: *line, expected, found });
        }
    }
    if lines.is_empty() {
        let (expected, found) = ("a template with one {}, where a name goes".to_owned(), "no lines".to_owned());
        return Err(EvaluateError::Line { path: path.to_owned(), line: 1, expected, found });
    }
    Ok(lines.into_iter().map(|(_, template)| template.trim().to_owned()).collect())
}

/// A line's two parts, before and after its first tab, without blanks around them.
pub(super) fn split_line<'a>(
    path: &Path,
    (line, text): &'a (usize, String),
    expected: &str,
) -> Result<(&'a str, &'a str), EvaluateError> {
    let parts = text.split_once('\t').map(|(key, value)| (key.trim(), value.trim()));
    match parts {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key, value)),
        _ => {
            let (expected, found) = (expected.to_owned(), format!("{:?}", shortened(text)));
            Err(EvaluateError::Line { path: path.to_owned(), line: *line, expected, found })
        }
    }
}

/// As much of a line as fits a message.
fn shortened(line: &str) -> String {
    const CHARACTERS: usize = 60;
    if line.chars().count() <= CHARACTERS {
        return line.to_owned();
    }
    line.chars().take(CHARACTERS - 1).chain(['…']).collect()
}

fn read(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}
