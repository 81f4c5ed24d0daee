//! The layouts of a set: a folder per class, or images with a file of captions.

use std::path::PathBuf;

use serde::Serialize;
use spotter_engine::labels::Label;

/// File in the folder with the names of the classes.
pub(super) const CLASSES_FILE: &str = "classes.tsv";

/// Possible names of the file of captions in the folder.
pub(super) const CAPTIONS_FILES: [&str; 4] = ["captions.tsv", "captions.txt", "captions.jsonl", "captions.csv"];

/// The ground truth of a set, and thus what a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// The class of each image.
    Classes {
        /// The classes, two or more.
        classes: Vec<Class>,
        /// Index of each image's class.
        truths: Vec<usize>,
    },
    /// Captions of the images.
    Captions(Vec<Caption>),
}

/// A class of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Name of its folder, or for a class without images, the folder in the file of names.
    pub folder: String,
    /// Its display name, unique in the set.
    pub name: String,
    /// Its names, one or more, which are put into the templates.
    pub prompts: Vec<String>,
}

/// A caption of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Index of the image.
    pub image: usize,
    /// The sentence.
    pub text: String,
}

/// Files in the folder that are not part of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Their kind.
    pub what: &'static str,
    /// Number of files.
    pub count: usize,
}

/// The images of a folder in one of the two layouts.
pub(super) struct Found {
    pub(super) images: Vec<PathBuf>,
    pub(super) question: Question,
    pub(super) left_out: Vec<LeftOut>,
    /// Lines that cannot be used, with the reason.
    pub(super) bad_rows: Vec<String>,
}

impl Class {
    /// The class as a label with these templates.
    pub(crate) fn label(&self, templates: &[String]) -> Label {
        Label { name: self.name.clone(), prompts: self.prompts.clone(), templates: templates.to_vec() }
    }
}

/// Builds the list of files that are not part of the set from their counts.
pub(super) fn left_out(counts: [(&'static str, usize); 2]) -> Vec<LeftOut> {
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| LeftOut { what, count }).collect()
}
