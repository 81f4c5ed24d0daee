//! Marked images: which of them reach the threshold of their label, before and after.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use spotter_engine::decide::Rules;
use spotter_engine::decide::calibrate::Fitted;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::files;
use spotter_engine::picture::MAX_FILE_BYTES;

use crate::labels::label_file::LabelFile;
use crate::recognizer::{Latency, Recognizer};
use crate::source::Frame;

/// Maximum number of images of a label.
const IMAGES_MAX: usize = 10_000;

/// The images of a label.
pub(super) struct Marked {
    label: usize,
    images: Vec<PathBuf>,
}

/// How many images of a label are missed.
pub(super) struct Missed {
    pub(super) label: usize,
    pub(super) images: usize,
    /// Below the threshold as it was, and as it is now.
    pub(super) before: usize,
    pub(super) after: usize,
}

/// Finds the images: each folder in `folder` is called like a label, those of a question lie in a folder that is called like
/// the question.
///
/// # Errors
/// It cannot be read, a folder is called like no label, or there is no image.
pub(super) fn find(folder: &Path, file: &LabelFile) -> Result<Vec<Marked>> {
    let competition = &file.competition;
    let mut found = Vec::new();
    for name in folders(folder)? {
        let question = competition.questions().iter().find(|question| question.name == name);
        let (labels, inside) = match question {
            Some(question) => (question.labels.clone(), folders(&folder.join(&name))?),
            None => (0..competition.labels(), vec![name.clone()]),
        };
        let place = if question.is_some() { folder.join(&name) } else { folder.to_owned() };
        for name in inside {
            let Some(label) = labels.clone().find(|&label| file.rows[label].name == name) else {
                let names: Vec<_> = labels.clone().map(|label| format!("`{}`", file.rows[label].name)).collect();
                bail!("{}: expected a label, one of {}", place.join(&name).display(), names.join(", "));
            };
            let images = images(&place.join(&name))?;
            found.push(Marked { label, images });
        }
    }
    if found.iter().all(|marked| marked.images.is_empty()) {
        bail!("{}: expected folders called like labels, with images in them; found no image", folder.display());
    }
    found.sort_by_key(|marked| marked.label);
    Ok(found)
}

/// Counts the images whose probability does not reach the threshold. Something that stays as it is in an image is told if it
/// does.
pub(super) fn count(
    marked: &[Marked],
    recognizer: &mut Recognizer,
    labels: &LabelEmbeddings,
    rules: &Rules,
    fitted: &Fitted,
) -> Result<Vec<Missed>> {
    let mut frame = Frame::default();
    let mut count = |Marked { label, images }: &Marked| {
        let mut missed = Missed { label: *label, images: images.len(), before: 0, after: 0 };
        for path in images {
            frame.path = Some(path.clone());
            frame.bytes = files::read(path, MAX_FILE_BYTES).with_context(|| path.display().to_string())?;
            let mut latency = Latency::of(&frame);
            recognizer.decode(&frame, &mut latency)?;
            let scores = recognizer.recognize(labels, &mut latency).with_context(|| path.display().to_string())?;
            let probability = scores.iter().find(|score| score.label == *label).map_or(0.0, |score| score.probability);
            missed.before += usize::from(probability < rules.labels[*label].threshold);
            missed.after += usize::from(probability < fitted.labels[*label].threshold);
        }
        Ok(missed)
    };
    marked.iter().map(&mut count).collect()
}

/// Names of the folders in a folder, sorted.
fn folders(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The files in a folder whose names do not begin with a dot, sorted.
fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if entry.path().is_file() && !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
        if paths.len() > IMAGES_MAX {
            bail!("{}: expected at most {IMAGES_MAX} images", folder.display());
        }
    }
    paths.sort();
    Ok(paths)
}
