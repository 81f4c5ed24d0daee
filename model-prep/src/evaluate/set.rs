//! Sets of images: a folder per class, or images with a file of captions; in a folder or a zip archive.

mod captions;
mod classes;
mod layout;
mod lines;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spotter_engine::picture::MAX_FILE_BYTES;

use self::layout::{CAPTIONS_FILES, Found};
pub use self::layout::{Caption, Class, LeftOut, Question};
use self::lines::Lines;
pub(crate) use self::lines::read_templates;
use self::place::Place;
use super::error::EvaluateError;

/// Size limit of an image file in bytes: above what cameras write, and one per thread must fit in memory.
const IMAGE_BYTES_MAX: u64 = MAX_FILE_BYTES;

/// A set of images with their ground truth.
#[derive(Debug, Clone)]
pub struct ImageSet {
    place: Arc<Place>,
    /// Paths of the images, relative to the place.
    images: Vec<PathBuf>,
    question: Question,
    left_out: Vec<LeftOut>,
    bad_rows: Vec<String>,
}

/// What happens to lines of a file of captions that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRows {
    /// The first one is an error.
    Refused,
    /// They are left out and listed.
    LeftOut,
}

/// Files of names or captions that are not in the folder itself.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Names of the classes: one line per class with its folder, a tab, and its names, separated by commas.
    pub labels: Option<PathBuf>,
    /// Captions: one line per caption with the image's file, a tab, and the sentence.
    pub captions: Option<PathBuf>,
}

impl ImageSet {
    /// Opens the set in `folder`, a folder or a zip archive of one: with captions if there is a file of them, else by
    /// class.
    pub fn open(folder: &Path, places: &Places) -> Result<Self, EvaluateError> {
        Self::open_with(folder, places, BadRows::Refused)
    }

    /// Opens a set as [`Self::open`] does, with a choice of what happens to bad lines.
    pub(crate) fn open_with(folder: &Path, places: &Places, bad_rows: BadRows) -> Result<Self, EvaluateError> {
        if places.captions.is_some() && places.labels.is_some() {
            let why = "a set has either classes or captions, and --captions is given too";
            return Err(EvaluateError::Misplaced { option: "--labels", why });
        }
        let (place, listing) = Place::open(folder)?;
        let inside = || CAPTIONS_FILES.into_iter().map(Path::new).find(|name| listing.files.iter().any(|f| f == name));
        let captions = match (&places.captions, &places.labels) {
            (Some(path), _) => Some(Lines::read(path)?),
            (None, Some(_)) => None,
            (None, None) => inside().map(|name| Lines::inside(&place, name)).transpose()?,
        };
        let Found { images, question, left_out, bad_rows } = match captions {
            Some(lines) => captions::open(&place, &listing, &lines, bad_rows)?,
            None => classes::open(&place, listing, places.labels.as_deref())?,
        };
        Ok(Self { place: Arc::new(place), images, question, left_out, bad_rows })
    }

    /// Keeps at most `count` images, spread evenly over the set in its order, and their captions.
    pub fn limit(&mut self, count: usize) {
        let whole = self.images.len();
        if count >= whole {
            return;
        }
        // In 128 bits, since the product of two sizes may overflow.
        let at = |index: usize| (index as u128 * whole as u128 / count as u128) as usize;
        let kept: Vec<usize> = (0..count).map(at).collect();
        self.images = kept.iter().map(|image| self.images[*image].clone()).collect();
        match &mut self.question {
            Question::Classes { truths, .. } => *truths = kept.iter().map(|image| truths[*image]).collect(),
            Question::Captions(captions) => captions.retain_mut(|caption| match kept.binary_search(&caption.image) {
                Ok(image) => {
                    caption.image = image;
                    true
                }
                Err(_) => false,
            }),
        }
    }

    /// The folder or archive that holds the images.
    pub fn folder(&self) -> &Path {
        self.place.path()
    }

    /// Number of images; one or more.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Always false, since an empty set cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The ground truth.
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }

    /// Files in the folder that are not part of the set.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The lines of the file of captions that cannot be used, with the reason.
    pub(crate) fn bad_rows(&self) -> &[String] {
        &self.bad_rows
    }

    /// File of an image, relative to the folder.
    pub fn file(&self, image: usize) -> &Path {
        &self.images[image]
    }

    /// Name of a class, or text of a caption.
    pub(crate) fn text_name(&self, row: usize) -> String {
        match &self.question {
            Question::Classes { classes, .. } => classes[row].name.clone(),
            Question::Captions(captions) => captions[row].text.clone(),
        }
    }

    /// Reads the file of an image.
    pub(crate) fn read(&self, image: usize) -> std::io::Result<Vec<u8>> {
        self.place.read(&self.images[image], IMAGE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests;
