//! Pictures with a file of captions.

use std::collections::HashMap;
use std::path::PathBuf;

use spotter_engine::picture::has_known_ending;

use super::lines::Lines;
use super::place::{Listing, Place};
use super::{Caption, Found, Question, left_out};
use crate::evaluate::EvaluateError;

/// Pictures in the order of their first captions; a file that is missing is one that cannot be read.
pub(super) fn open(place: &Place, listing: &Listing, lines: &Lines) -> Result<Found, EvaluateError> {
    let mut index: HashMap<PathBuf, usize> = HashMap::new();
    let (mut pictures, mut captions) = (Vec::new(), Vec::new());
    for pair in lines.pairs("a picture's file, a tab, and a caption") {
        let (_, file, text) = pair?;
        let picture = *index.entry(PathBuf::from(without_number(file))).or_insert_with_key(|file| {
            pictures.push(file.clone());
            pictures.len() - 1
        });
        captions.push(Caption { picture, text: text.to_owned() });
    }
    if pictures.len() < 2 {
        let expected = "captions of two pictures or more, since a choice of one is always right".to_owned();
        return Err(EvaluateError::Folder { path: lines.path.clone(), expected, found: pictures.len().to_string() });
    }
    let is_other = |file: &&PathBuf| place.path().join(file) != lines.path && !index.contains_key(*file);
    let (without, others): (Vec<_>, Vec<_>) =
        listing.files.iter().filter(is_other).partition(|file| has_known_ending(file));
    let without = ("pictures without a caption", without.len());
    let left_out = left_out([without, ("files without a picture's ending", others.len())]);
    Ok(Found { pictures, question: Question::Captions(captions), left_out })
}

/// A file's name without the caption's number that Flickr8k puts after it: `1000268201_693b08cb0e.jpg#0`.
fn without_number(file: &str) -> &str {
    match file.rsplit_once('#') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => file,
    }
}
