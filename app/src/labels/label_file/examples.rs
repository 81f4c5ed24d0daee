//! Example pictures of labels: which files they are.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use spotter_engine::picture::{IMAGE_EXTENSIONS, has_image_extension};
use spotter_engine::printable::printable_path;

/// Maximum number of pictures in a folder. More change the label hardly any further, and each costs a pass through the image
/// tower once.
const PICTURES_MAX: usize = 50;

/// Maximum number of entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// The example pictures of a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Examples {
    /// Pictures that show it.
    pub shown: Vec<ExamplePicture>,
    /// Pictures that do not.
    pub not_shown: Vec<ExamplePicture>,
}

/// A picture, with what changes when its content does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExamplePicture {
    /// The file.
    pub path: PathBuf,
    bytes: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// Finds the pictures of a folder, sorted by name, without those of subfolders.
///
/// # Errors
/// The folder cannot be read, or has not 1 to 50 pictures; the message follows the key.
pub(super) fn find(folder: &Path) -> Result<Vec<ExamplePicture>, String> {
    let shown = printable_path(folder);
    let unreadable = |error: std::io::Error| format!("{shown}: cannot be read: {error}");
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)?.take(ENTRIES_MAX) {
        let path = entry.map_err(unreadable)?.path();
        // Folders, pipes and devices are no pictures; a broken link may become one.
        let Some(data) = fs::metadata(&path).ok().filter(|data| data.is_file() && has_image_extension(&path)) else {
            continue;
        };
        if pictures.len() == PICTURES_MAX {
            return Err(format!("{shown}: expected at most {PICTURES_MAX} pictures, found more"));
        }
        let modified = (data.mtime(), data.mtime_nsec());
        pictures.push(ExamplePicture { path, bytes: data.len(), inode: data.ino(), modified });
    }
    if pictures.is_empty() {
        let expected = IMAGE_EXTENSIONS.join(", ");
        return Err(format!("{shown}: expected 1 to {PICTURES_MAX} pictures ({expected}), found none"));
    }
    pictures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pictures)
}
