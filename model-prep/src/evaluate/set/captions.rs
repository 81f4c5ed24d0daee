//! A folder of pictures with a file of captions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::files::{pictures_in, read_text, split_line};
use super::{Caption, PictureSet, Question, left_out};
use crate::evaluate::EvaluateError;

/// Pictures in the order of their first captions; a file that is missing is one that cannot be read.
pub(super) fn open(folder: &Path, captions_path: &Path) -> Result<PictureSet, EvaluateError> {
    let mut index: HashMap<PathBuf, usize> = HashMap::new();
    let (mut pictures, mut captions) = (Vec::new(), Vec::new());
    for line in read_text(captions_path)? {
        let (file, text) = split_line(captions_path, &line, "a picture's file, a tab, and a caption")?;
        let file = PathBuf::from(without_number(file));
        let picture = *index.entry(file).or_insert_with_key(|file| {
            pictures.push(file.clone());
            pictures.len() - 1
        });
        captions.push(Caption { picture, text: text.to_owned() });
    }
    if pictures.len() < 2 {
        let path = captions_path.to_owned();
        let expected = "captions of two pictures or more, since a choice of one is always right".to_owned();
        return Err(EvaluateError::Folder { path, expected, found: pictures.len().to_string() });
    }
    let (present, others) = pictures_in(folder)?;
    let has_caption = |path: &&PathBuf| index.contains_key(path.strip_prefix(folder).unwrap_or(path));
    let without = present.len() - present.iter().filter(has_caption).count();
    // The captions' file is where it belongs.
    let others = others - usize::from(others > 0 && captions_path.starts_with(folder));
    let left_out = left_out([("pictures without a caption", without), ("files without a picture's ending", others)]);
    Ok(PictureSet { folder: folder.to_owned(), pictures, question: Question::Captions(captions), left_out })
}

/// A file's name without the caption's number that Flickr8k puts after it: `1000268201_693b08cb0e.jpg#0`.
fn without_number(file: &str) -> &str {
    match file.rsplit_once('#') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => file,
    }
}
