//! A folder per class.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use spotter_engine::picture::{ENDINGS, has_known_ending};

use super::lines::Lines;
use super::place::{Listing, Place};
use super::{CAPTIONS_FILES, CLASSES_FILE, Class, Found, Question, left_out};
use crate::evaluate::EvaluateError;

pub(super) fn open(place: &Place, listing: Listing, labels: Option<&Path>) -> Result<Found, EvaluateError> {
    let Listing { folders, files } = listing;
    let inside = Path::new(CLASSES_FILE);
    let (labels, inside) = match labels {
        Some(path) => (Some(Lines::read(path)?), None),
        None if files.iter().any(|file| file == inside) => (Some(Lines::inside(place, inside)?), Some(inside)),
        None => (None, None),
    };
    let (pictures, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| has_known_ending(file));
    let others = others.iter().filter(|file| Some(file.as_path()) != inside).count();
    let refused = |path: PathBuf, expected: String, found: String| Err(EvaluateError::Folder { path, expected, found });
    let root = || place.path().to_owned();
    if folders.is_empty() {
        let [tsv, txt] = CAPTIONS_FILES;
        let expected = format!("a folder for each class with its pictures, or a file of captions ({tsv} or {txt})");
        return refused(root(), expected, format!("{} pictures and no folder", pictures.len()));
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
    let class_of = |picture: &Path| {
        let mut parts = picture.components();
        let first = parts.next()?.as_os_str().to_string_lossy();
        // A picture that lies in no folder has no class.
        parts.next().and(index.get(&*first).copied())
    };
    let all = pictures.len();
    let (pictures, truths): (Vec<_>, Vec<_>) =
        pictures.into_iter().filter_map(|picture| class_of(&picture).map(|class| (picture, class))).unzip();
    for (folder, key) in folders.iter().zip(&keys) {
        if !truths.iter().any(|class| index.get(key.as_str()) == Some(class)) {
            let expected = format!("pictures of this class, ending in {}", ENDINGS.join(", "));
            return refused(place.path().join(folder), expected, "none; add pictures or remove the folder".to_owned());
        }
    }
    let outside = ("pictures outside of classes' folders", all - pictures.len());
    let left_out = left_out([outside, ("files without a picture's ending", others)]);
    Ok(Found { pictures, question: Question::Classes { classes, truths }, left_out })
}

/// A class that goes by the name of its folder, in which underscores stand for blanks.
fn unnamed(folder: &str) -> Class {
    let name = folder.replace('_', " ");
    Class { folder: folder.to_owned(), prompts: vec![name.clone()], name }
}

/// The classes that a file names, sorted by folder; those without a folder are candidates all the same.
fn named(place: &Place, lines: &Lines, folders: &[String]) -> Result<Vec<Class>, EvaluateError> {
    let expected = "a class's folder, a tab, and the names it goes by, separated by commas";
    let mut classes: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for pair in lines.pairs(expected) {
        let (number, folder, names) = pair?;
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let prompts: Vec<String> = names.map(str::to_owned).collect();
        if prompts.is_empty() {
            return Err(lines.wrong(number, expected, "commas only".to_owned()));
        }
        if let Some((first, _)) = classes.insert(folder, (number, prompts)) {
            return Err(lines.wrong(number, "one line a class", format!("{folder:?} again, after line {first}")));
        }
    }
    if let Some(folder) = folders.iter().find(|folder| !classes.contains_key(folder.as_str())) {
        let expected = format!("a line for it in {}", lines.path.display());
        let found = "none; add its name, a tab, and the words for it".to_owned();
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
