//! Pictures and prompts to calibrate on.

use std::path::{Path, PathBuf};

use spotter_engine::bundle::Manifest;
use spotter_engine::files;
use spotter_engine::picture::{MAX_FILE_BYTES, decode};

use super::{PICTURES, PIXELS_BYTES_MAX, Settings};
use crate::error::Error;
use crate::probes;

/// Ends of names of what may be a picture.
const SUFFIXES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Folders within folders are looked into this deep; a link that leads upwards ends here.
const DEPTH_MAX: usize = 4;

/// Pictures as the image tower takes them, and sentences.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Values of [3, height, width] for each picture.
    pub pixels: Vec<Vec<f32>>,
    /// At least two.
    pub prompts: Vec<String>,
}

impl Inputs {
    /// Reads up to [`PICTURES`] pictures, evenly spaced over the sorted names in the folder and the folders in it; fewer
    /// of large ones.
    pub fn read(settings: &Settings, manifest: &Manifest) -> Result<Self, Error> {
        let folder = &settings.folder;
        let refused =
            |expected: &'static str, found: String| Error::Calibration { path: folder.clone(), expected, found };
        let mut paths = Vec::new();
        pictures_in(folder, 0, &mut paths)?;
        paths.sort();
        let picture_bytes = 3 * size_of::<f32>() * manifest.image_size().iter().product::<usize>();
        let count = paths.len().min(PICTURES).min((PIXELS_BYTES_MAX / picture_bytes.max(1)).max(1));
        let chosen: Vec<&PathBuf> = (0..count).map(|index| &paths[index * paths.len() / count]).collect();
        let mut preprocessor = manifest.preprocessor()?;
        let mut pixels = Vec::with_capacity(count);
        for path in chosen {
            let mut values = Vec::new();
            let read = files::read(path, MAX_FILE_BYTES).map_err(|error| error.to_string());
            let read = read.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
            let read = read.and_then(|picture| {
                preprocessor.run(&picture, &mut values).map(|_| ()).map_err(|error| error.to_string())
            });
            match read {
                Ok(()) => pixels.push(values),
                Err(why) => log::warn!("{}: left out: {why}", path.display()),
            }
        }
        if pixels.is_empty() {
            let found = format!("{} files that may be pictures, none of them readable", paths.len());
            return Err(refused("pictures", found));
        }
        let mut prompts = settings.prompts.clone();
        if prompts.is_empty() {
            prompts = class_prompts(folder, &paths, &manifest.templates[0]);
        }
        if settings.prompts.is_empty() && prompts.len() < 2 {
            prompts = probes::prompts().into_iter().map(str::to_owned).collect();
        }
        if prompts.len() < 2 {
            return Err(refused("two prompts or more to choose among", format!("{}", prompts.len())));
        }
        Ok(Self { pixels, prompts })
    }
}

fn pictures_in(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), Error> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        if path.is_dir() {
            if depth < DEPTH_MAX {
                pictures_in(&path, depth + 1, paths)?;
            }
        } else if suffix.is_some_and(|suffix| SUFFIXES.contains(&&*suffix)) {
            paths.push(path);
        }
    }
    Ok(())
}

/// A sentence for each folder in `folder` that has pictures.
fn class_prompts(folder: &Path, paths: &[PathBuf], template: &str) -> Vec<String> {
    let class = |path: &PathBuf| {
        let mut inner = path.strip_prefix(folder).ok()?.components();
        let (first, rest) = (inner.next()?, inner.next());
        rest.map(|_| first.as_os_str().to_string_lossy().replace(['_', '-'], " "))
    };
    let mut classes: Vec<String> = paths.iter().filter_map(class).collect();
    classes.dedup();
    classes.iter().map(|class| template.replace("{}", class)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::class_prompts;

    #[test]
    fn folders_are_classes() {
        let check = |paths: &[&str], expected: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| Path::new("/pictures").join(path)).collect();
            assert_eq!(class_prompts(Path::new("/pictures"), &paths, "a {}."), expected, "{paths:?}");
        };
        check(&["a.jpg", "b.jpg"], &[]);
        check(&["cat/1.jpg", "cat/2.jpg", "red_fox/deep/1.jpg"], &["a cat.", "a red fox."]);
    }
}
