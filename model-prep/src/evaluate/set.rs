//! Sets of pictures: a folder per class, or pictures with a file of captions; in a folder or a zip archive.

mod captions;
mod classes;
mod lines;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use spotter_engine::labels::Label;
use spotter_engine::picture::MAX_FILE_BYTES;

use super::EvaluateError;

use self::lines::Lines;
pub(crate) use self::lines::read_templates;
use self::place::Place;

/// Larger picture files are refused: no camera writes them, and one for each thread must fit the memory.
const PICTURE_BYTES_MAX: u64 = MAX_FILE_BYTES;

/// Name of the file in the folder that tells the names of classes.
const CLASSES_FILE: &str = "classes.tsv";

/// Names of the file in the folder that holds captions.
const CAPTIONS_FILES: [&str; 2] = ["captions.tsv", "captions.txt"];

/// Pictures, and what there is to be known of them.
#[derive(Debug, Clone)]
pub struct PictureSet {
    place: Arc<Place>,
    /// Relative to the place.
    pictures: Vec<PathBuf>,
    question: Question,
    left_out: Vec<LeftOut>,
}

/// What a model is asked about the pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Which class each picture is of.
    Classes {
        /// The classes, two or more.
        classes: Vec<Class>,
        /// The class of each picture.
        truths: Vec<usize>,
    },
    /// Which caption belongs to which picture.
    Captions(Vec<Caption>),
}

/// A class of pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Name of its folder; the same word for a class that has none, as the file of names has it.
    pub folder: String,
    /// Its name for people, unlike all others.
    pub name: String,
    /// What fills the templates: the names that it goes by, one or more.
    pub prompts: Vec<String>,
}

/// A sentence about a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// The picture.
    pub picture: usize,
    /// The sentence.
    pub text: String,
}

/// Files in the folder that are not part of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What they are, and why they are left out.
    pub what: &'static str,
    /// How many.
    pub count: usize,
}

/// Where names or captions are, when not in the folder itself.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The names of classes: a line for each with its folder, a tab, and the names it goes by, separated by commas.
    pub labels: Option<PathBuf>,
    /// Captions: a line for each with the picture's file, a tab, and a sentence.
    pub captions: Option<PathBuf>,
}

/// What a way of laying out pictures gives.
struct Found {
    pictures: Vec<PathBuf>,
    question: Question,
    left_out: Vec<LeftOut>,
}

impl PictureSet {
    /// Finds the pictures in `folder`, a folder or a zip archive of one: by captions where there is a file of them, else
    /// by class.
    pub fn open(folder: &Path, places: &Places) -> Result<Self, EvaluateError> {
        if places.captions.is_some() && places.labels.is_some() {
            let why = "--captions is there too, and a set has either classes or captions";
            return Err(EvaluateError::Misplaced { option: "--labels", why });
        }
        let (place, listing) = Place::open(folder)?;
        let inside = || CAPTIONS_FILES.into_iter().map(Path::new).find(|name| listing.files.iter().any(|f| f == name));
        let captions = match (&places.captions, &places.labels) {
            (Some(path), _) => Some(Lines::read(path)?),
            (None, Some(_)) => None,
            (None, None) => inside().map(|name| Lines::inside(&place, name)).transpose()?,
        };
        let Found { pictures, question, left_out } = match captions {
            Some(lines) => captions::open(&place, &listing, &lines)?,
            None => classes::open(&place, listing, places.labels.as_deref())?,
        };
        Ok(Self { place: Arc::new(place), pictures, question, left_out })
    }

    /// Keeps `count` pictures where there are more, spread evenly over the set in its order, with what belongs to them.
    pub fn limit(&mut self, count: usize) {
        let whole = self.pictures.len();
        if count >= whole {
            return;
        }
        // In 128 bits: neither number is bounded.
        let at = |index: usize| (index as u128 * whole as u128 / count as u128) as usize;
        let kept: Vec<usize> = (0..count).map(at).collect();
        self.pictures = kept.iter().map(|picture| self.pictures[*picture].clone()).collect();
        match &mut self.question {
            Question::Classes { truths, .. } => *truths = kept.iter().map(|picture| truths[*picture]).collect(),
            Question::Captions(captions) => captions.retain_mut(|caption| match kept.binary_search(&caption.picture) {
                Ok(picture) => {
                    caption.picture = picture;
                    true
                }
                Err(_) => false,
            }),
        }
    }

    /// The folder or archive that the pictures are in.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    /// How many pictures there are; one or more.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Never; an empty set is refused when it is opened.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// What is asked about the pictures.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// What the folder holds besides.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// A picture's file, relative to the folder.
    pub fn file(&self, picture: usize) -> &Path {
        &self.pictures[picture]
    }

    /// A class or a caption in words.
    pub fn text_name(&self, row: usize) -> String {
        match &self.question {
            Question::Classes { classes, .. } => classes[row].name.clone(),
            Question::Captions(captions) => captions[row].text.clone(),
        }
    }

    /// The content of a picture's file.
    pub(super) fn read(&self, picture: usize) -> std::io::Result<Vec<u8>> {
        self.place.read(&self.pictures[picture], PICTURE_BYTES_MAX)
    }
}

impl Class {
    /// The class as a label with these templates.
    pub(super) fn label(&self, templates: &[String]) -> Label {
        Label { name: self.name.clone(), prompts: self.prompts.clone(), templates: templates.to_vec() }
    }
}

/// `what` has been left out so often, if at all.
fn left_out(counts: [(&'static str, usize); 2]) -> Vec<LeftOut> {
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| LeftOut { what, count }).collect()
}

#[cfg(test)]
mod tests;
