//! The layout of a folder per class.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use spotter_engine::picture::{IMAGE_EXTENSIONS, has_image_extension};

use super::layout::{CAPTIONS_FILES, CLASSES_FILE, Class, Found, Question, left_out};
use super::lines::Lines;
use super::place::{Listing, Place};
use crate::evaluate::error::EvaluateError;

/// Lists the images by class; `labels` is the file of names if it is not in the folder.
pub(super) fn open(place: &Place, listing: Listing, labels: Option<&Path>) -> Result<Found, EvaluateError> {
    let Listing { folders, files } = listing;
    let inside = Path::new(CLASSES_FILE);
    let (labels, inside) = match labels {
        Some(path) => (Some(Lines::read(path)?), None),
        None if files.iter().any(|file| file == inside) => (Some(Lines::inside(place, inside)?), Some(inside)),
        None => (None, None),
    };
    let (images, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| has_image_extension(file));
    let others = others.iter().filter(|file| Some(file.as_path()) != inside).count();
    let refused = |path: PathBuf, expected: String, found: String| Err(EvaluateError::Folder { path, expected, found });
    let root = || place.path().to_owned();
    if folders.is_empty() {
        let names = CAPTIONS_FILES.join(", ");
        let expected = format!("a folder per class with its images, or a file of captions ({names})");
        return refused(root(), expected, format!("{} images and no folder", images.len()));
    }
    let keys: Vec<String> = folders.iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
    let classes = match &labels {
        Some(lines) => named(place, lines, &keys)?,
        None => keys.iter().map(|folder| unnamed(folder)).collect(),
    };
    if classes.len() < 2 {
        let found = format!("one, {:?}", classes[0].name);
        return refused(root(), "two classes or more, since a choice of one is always right".to_owned(), found);
    }
    let index: HashMap<&str, usize> = classes.iter().enumerate().map(|(i, class)| (&*class.folder, i)).collect();
    let class_of = |image: &Path| {
        let mut parts = image.components();
        let first = parts.next()?.as_os_str().to_string_lossy();
        // An image outside of all folders has no class.
        parts.next().and(index.get(&*first).copied())
    };
    let all = images.len();
    let (images, truths): (Vec<_>, Vec<_>) =
        images.into_iter().filter_map(|image| class_of(&image).map(|class| (image, class))).unzip();
    for (folder, key) in folders.iter().zip(&keys) {
        if !truths.iter().any(|class| index.get(key.as_str()) == Some(class)) {
            let expected = format!("images of this class, with the extension {}", IMAGE_EXTENSIONS.join(", "));
            return refused(place.path().join(folder), expected, "none; add images or remove the folder".to_owned());
        }
    }
    let outside = ("images outside of the classes' folders", all - images.len());
    let left_out = left_out([outside, ("files without an image's extension", others)]);
    Ok(Found { images, question: Question::Classes { classes, truths }, left_out, bad_rows: Vec::new() })
}

/// A class named after its folder, with underscores replaced by spaces.
fn unnamed(folder: &str) -> Class {
    let name = folder.replace('_', " ");
    Class { folder: folder.to_owned(), prompts: vec![name.clone()], name }
}

/// The classes that a file names, sorted by folder. Classes without a folder are candidates too.
fn named(place: &Place, lines: &Lines, folders: &[String]) -> Result<Vec<Class>, EvaluateError> {
    let expected = "a class's folder, a tab, and its names, separated by commas";
    let mut classes: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for pair in lines.pairs(expected) {
        let (number, folder, names) = pair?;
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let prompts: Vec<String> = names.map(str::to_owned).collect();
        if prompts.is_empty() {
            return Err(lines.wrong(number, expected, "commas only".to_owned()));
        }
        if let Some((first, _)) = classes.insert(folder, (number, prompts)) {
            return Err(lines.wrong(number, "one line per class", format!("{folder:?} again, after line {first}")));
        }
    }
    if let Some(folder) = folders.iter().find(|folder| !classes.contains_key(folder.as_str())) {
        let expected = format!("a line for it in {}", lines.path.display());
        let found = "none; add its folder, a tab, and its names".to_owned();
        return Err(EvaluateError::Folder { path: place.path().join(folder), expected, found });
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (_, prompts) in classes.values() {
        *uses.entry(prompts[0].clone()).or_default() += 1;
    }
    let class = |(folder, (_, prompts)): (&str, (usize, Vec<String>))| {
        let first = &prompts[0];
        let unique = uses.get(first) == Some(&1);
        let name = if unique { first.clone() } else { format!("{first} ({folder})") };
        Class { name, folder: folder.to_owned(), prompts }
    };
    Ok(classes.into_iter().map(class).collect())
}
