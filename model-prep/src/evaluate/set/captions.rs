//! The layout of images with a file of captions.

use std::collections::HashMap;
use std::path::PathBuf;

use spotter_engine::picture::has_image_extension;

use super::layout::{Caption, Found, Question, left_out};
use super::lines::Lines;
use super::place::{Listing, Place};
use crate::evaluate::error::EvaluateError;

/// Lists the images in the order of their first captions. A missing file counts as one that cannot be read.
pub(super) fn open(place: &Place, listing: &Listing, lines: &Lines) -> Result<Found, EvaluateError> {
    let mut index: HashMap<PathBuf, usize> = HashMap::new();
    let (mut images, mut captions) = (Vec::new(), Vec::new());
    for pair in lines.pairs("an image's file, a tab, and a caption") {
        let (_, file, text) = pair?;
        let image = *index.entry(PathBuf::from(without_number(file))).or_insert_with_key(|file| {
            images.push(file.clone());
            images.len() - 1
        });
        captions.push(Caption { image, text: text.to_owned() });
    }
    if images.len() < 2 {
        let expected = "captions of two images or more, since a choice of one is always right".to_owned();
        return Err(EvaluateError::Folder { path: lines.path.clone(), expected, found: images.len().to_string() });
    }
    let is_other = |file: &&PathBuf| place.path().join(file) != lines.path && !index.contains_key(*file);
    let (without, others): (Vec<_>, Vec<_>) =
        listing.files.iter().filter(is_other).partition(|file| has_image_extension(file));
    let without = ("images without a caption", without.len());
    let left_out = left_out([without, ("files without an image's extension", others.len())]);
    Ok(Found { images, question: Question::Captions(captions), left_out })
}

/// Strips the caption's number that Flickr8k appends to a file name, as in `1000268201_693b08cb0e.jpg#0`.
fn without_number(file: &str) -> &str {
    match file.rsplit_once('#') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => file,
    }
}
