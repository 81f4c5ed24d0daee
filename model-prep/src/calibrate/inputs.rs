//! Images and prompts to calibrate on.

use std::path::{Path, PathBuf};

use spotter_engine::bundle::Manifest;
use spotter_engine::files;
use spotter_engine::picture::{MAX_FILE_BYTES, decode, has_image_extension};

use crate::error::Error;
use crate::probes;

/// Largest number of images that a choice as a whole is measured on: one of them is 0.25%.
pub const IMAGES: usize = 400;

/// Number of images among them that each layer is measured on. The mean cosine hardly changes with more.
pub const IMAGES_PER_LAYER: usize = 16;

/// Memory limit for preprocessed images, in bytes: 400 images of 224 x 224 take 241 MB.
const PIXELS_BYTES_MAX: usize = 256 << 20;

/// Deepest nesting of folders that is searched; also stops at symbolic links that form a cycle.
const DEPTH_MAX: usize = 4;

/// Input and settings of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Folder of images, in subfolders or not.
    pub folder: PathBuf,
    /// Candidate prompts for each image. If empty, the names of the subfolders in `folder` are used, and if there are
    /// none either, the built-in prompts of [`crate::probes`].
    pub prompts: Vec<String>,
    /// Percentage of images whose top-1 label may differ from that of float weights, 0 to 100.
    pub max_drop: f32,
}

/// Inputs of both towers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inputs {
    /// Preprocessed pixels [3, height, width] of each image.
    pub(super) pixels: Vec<Vec<f32>>,
    /// Two or more.
    pub(super) prompts: Vec<String>,
}

impl Inputs {
    /// The built-in images and texts of a verification.
    pub(super) fn built_in(manifest: &Manifest) -> Result<Self, Error> {
        let mut preprocessor = manifest.preprocessor()?;
        let mut pixels = Vec::new();
        for image in &probes::verification_images(manifest.image_size()) {
            let mut values = Vec::new();
            preprocessor.run(image, &mut values)?;
            pixels.push(values);
        }
        Ok(Self { pixels, prompts: probes::verification_texts(manifest.tokenizer.max_length) })
    }

    /// Reads up to [`IMAGES`] images, evenly spaced over the sorted paths in the folder; fewer if they are large.
    pub(super) fn read(settings: &Settings, manifest: &Manifest) -> Result<Self, Error> {
        let folder = &settings.folder;
        let refused =
            |expected: &'static str, found: String| Error::Calibration { path: folder.clone(), expected, found };
        let mut paths = Vec::new();
        images_in(folder, 0, &mut paths)?;
        paths.sort();
        let image_bytes = 3 * size_of::<f32>() * manifest.image_size().iter().product::<usize>();
        let count = paths.len().min(IMAGES).min((PIXELS_BYTES_MAX / image_bytes.max(1)).max(1));
        let chosen: Vec<&PathBuf> = (0..count).map(|index| &paths[index * paths.len() / count]).collect();
        let mut preprocessor = manifest.preprocessor()?;
        let mut pixels = Vec::with_capacity(count);
        for path in chosen {
            let mut values = Vec::new();
            let read = files::read(path, MAX_FILE_BYTES).map_err(|error| error.to_string());
            let read = read.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
            let read = read
                .and_then(|image| preprocessor.run(&image, &mut values).map(|_| ()).map_err(|error| error.to_string()));
            match read {
                Ok(()) => pixels.push(values),
                Err(why) => log::warn!("{}: skipped: {why}", path.display()),
            }
        }
        if pixels.is_empty() {
            let found = format!("{} files with an image's extension, none of them readable", paths.len());
            return Err(refused("images", found));
        }
        let mut prompts = settings.prompts.clone();
        if prompts.is_empty() {
            prompts = class_prompts(folder, &paths, &manifest.templates[0]);
        }
        if settings.prompts.is_empty() && prompts.len() < 2 {
            prompts = probes::prompts().into_iter().map(str::to_owned).collect();
        }
        if prompts.len() < 2 {
            return Err(refused("two prompts or more to choose from", prompts.len().to_string()));
        }
        Ok(Self { pixels, prompts })
    }
}

/// Collects the image files in `folder` and its subfolders, by their extensions.
fn images_in(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), Error> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            if depth < DEPTH_MAX {
                images_in(&path, depth + 1, paths)?;
            }
        } else if has_image_extension(&path) {
            paths.push(path);
        }
    }
    Ok(())
}

/// One prompt per subfolder of `folder` that has images, in the order of `paths`.
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

    use spotter_engine::picture::IMAGE_EXTENSIONS;

    use super::{class_prompts, images_in};

    #[test]
    fn every_known_image_extension_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = IMAGE_EXTENSIONS
            .iter()
            .flat_map(|extension| [format!("a.{extension}"), format!("B.{}", extension.to_uppercase())]);
        let mut expected: Vec<PathBuf> = names.map(|name| folder.path().join("class").join(name)).collect();
        std::fs::create_dir(folder.path().join("class")).expect("a folder");
        for path in &expected {
            std::fs::write(path, "").expect("a file");
        }
        for other in ["notes.txt", "jpg", "a.jpg.part", "README"] {
            std::fs::write(folder.path().join(other), "").expect("a file");
        }
        let mut found = Vec::new();
        images_in(folder.path(), 0, &mut found).expect("a listing");
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn folders_are_classes() {
        let check = |paths: &[&str], expected: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| Path::new("/images").join(path)).collect();
            assert_eq!(class_prompts(Path::new("/images"), &paths, "a {}."), expected, "{paths:?}");
        };
        check(&["a.jpg", "b.jpg"], &[]);
        check(&["cat/1.jpg", "cat/2.jpg", "red_fox/deep/1.jpg"], &["a cat.", "a red fox."]);
    }
}
