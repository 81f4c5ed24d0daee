//! A folder per class.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use spotter_engine::picture::ENDINGS;

use super::files::{Entries, pictures_in, read_text, split_line};
use super::{CAPTIONS_FILES, CLASSES_FILE, Class, PictureSet, Question, left_out};
use crate::evaluate::EvaluateError;

pub(super) fn open(folder: &Path, labels: Option<&Path>) -> Result<PictureSet, EvaluateError> {
    let entries = Entries::read(folder)?;
    let inside = folder.join(CLASSES_FILE);
    let labels = labels.map(Path::to_owned).or_else(|| inside.is_file().then(|| inside.clone()));
    let refused =
        |expected: String, found: String| Err(EvaluateError::Folder { path: folder.to_owned(), expected, found });
    if entries.folders.is_empty() {
        let [tsv, txt] = CAPTIONS_FILES;
        let expected = format!("a folder for each class with its pictures, or a file of captions ({tsv} or {txt})");
        return refused(expected, format!("{} pictures and no folder", entries.pictures.len()));
    }
    let classes = match &labels {
        Some(path) => named(path, &entries.folders)?,
        None => entries.folders.iter().map(|folder| unnamed(&file_name(folder))).collect(),
    };
    if classes.len() < 2 {
        let found = format!("one, {:?}", classes[0].name);
        return refused("two classes or more, since a choice of one is always right".to_owned(), found);
    }
    let index: HashMap<&str, usize> = classes.iter().enumerate().map(|(i, class)| (&*class.folder, i)).collect();
    let (mut pictures, mut truths, mut others) = (Vec::new(), Vec::new(), entries.others);
    for class in &entries.folders {
        let (found, others_there) = pictures_in(class)?;
        if found.is_empty() {
            let expected = format!("pictures of this class, ending in {}", ENDINGS.join(", "));
            let found = format!("{others_there} other files; add pictures or remove the folder");
            return Err(EvaluateError::Folder { path: class.clone(), expected, found });
        }
        others += others_there;
        if let Some(class) = index.get(&*file_name(class)) {
            truths.extend(std::iter::repeat_n(*class, found.len()));
        }
        pictures.extend(found.iter().map(|path| path.strip_prefix(folder).unwrap_or(path).to_owned()));
    }
    // The file of names is where it belongs.
    others -= usize::from(labels.as_deref().is_some_and(|path| path == inside));
    let left_out = left_out([
        ("pictures outside of classes' folders", entries.pictures.len()),
        ("files without a picture's ending", others),
    ]);
    Ok(PictureSet { folder: folder.to_owned(), pictures, question: Question::Classes { classes, truths }, left_out })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A class that goes by the name of its folder, in which underscores stand for blanks.
fn unnamed(folder: &str) -> Class {
    let name = folder.replace('_', " ");
    Class { folder: folder.to_owned(), prompts: vec![name.clone()], name }
}

/// The classes that a file names, sorted by folder; those without a folder are candidates all the same.
fn named(path: &Path, folders: &[PathBuf]) -> Result<Vec<Class>, EvaluateError> {
    let mut classes: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for line in read_text(path)? {
        let expected = "a class's folder, a tab, and the names it goes by, separated by commas";
        let (folder, names) = split_line(path, &line, expected)?;
        let prompts: Vec<String> =
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if let Some((first, _)) = classes.get(folder) {
            let (expected, found) = ("one line a class".to_owned(), format!("{folder:?} again, after line {first}"));
            return Err(EvaluateError::Line { path: path.to_owned(), line: line.0, expected, found });
        }
        if prompts.is_empty() {
            let (expected, found) = (expected.to_owned(), "commas only".to_owned());
            return Err(EvaluateError::Line { path: path.to_owned(), line: line.0, expected, found });
        }
        classes.insert(folder.to_owned(), (line.0, prompts));
    }
    for folder in folders {
        let name = file_name(folder);
        if !classes.contains_key(&name) {
            let expected = format!("a line for it in {}", path.display());
            let found = "none; add its name, a tab, and the words for it".to_owned();
            return Err(EvaluateError::Folder { path: folder.clone(), expected, found });
        }
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (_, prompts) in classes.values() {
        *uses.entry(prompts[0].clone()).or_default() += 1;
    }
    let class = |(folder, (_, prompts)): (String, (usize, Vec<String>))| {
        let first = &prompts[0];
        let unique = uses.get(first) == Some(&1);
        Class { name: if unique { first.clone() } else { format!("{first} ({folder})") }, folder, prompts }
    };
    Ok(classes.into_iter().map(class).collect())
}
