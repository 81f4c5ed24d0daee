//! An image file, or all images of a folder sorted by name.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use spotter_engine::files::{self, Refusal};
use spotter_engine::picture;

use super::error::MJPEG;
use super::{Frame, PixelFormat, Source, SourceError};
use crate::process::Stop;

/// Larger files are refused: no camera writes them, and they would fill a small board's memory.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Image files, one after the other.
pub(super) struct Images {
    name: PathBuf,
    is_folder: bool,
    paths: Vec<PathBuf>,
    next: usize,
    /// Count of unreadable files that were not reported yet, and the error of the last.
    skipped: Option<(u64, String)>,
}

impl Images {
    /// Opens an image file, or a folder, whose images come sorted by name.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let kind = fs::metadata(path).map_err(|e| SourceError::of_file(path, e))?;
        let is_folder = kind.is_dir();
        // Not a pipe: bytes read from it would be lost.
        if kind.is_file()
            && let Some(what) = video(path)
        {
            return Err(SourceError::of_video(path, what));
        }
        let paths = if is_folder { folder(path)? } else { vec![path.to_path_buf()] };
        Ok(Images { name: path.to_path_buf(), is_folder, paths, next: 0, skipped: None })
    }
}

/// The kind of video that a file is, if it is one.
fn video(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    files::open(path).and_then(|file| file.take(picture::START_BYTES).read_to_end(&mut start)).ok()?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    // The first frame of an MJPEG file looks like an image.
    if start.starts_with(b"\xff\xd8") && ["mjpeg", "mjpg"].iter().any(|known| known.eq_ignore_ascii_case(ending)) {
        return Some(MJPEG);
    }
    picture::unsupported_format(&start).filter(|foreign| foreign.is_video).map(|foreign| foreign.what)
}

/// The images of a folder, sorted by name, without those of subfolders.
fn folder(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let read = |e| SourceError::of_file(path, e);
    let mut first_video = None;
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(read)? {
        let path = entry.map_err(read)?.path();
        // Folders, pipes and devices are skipped; a broken link is reported when its turn comes.
        let special = fs::metadata(&path).is_ok_and(|data| !data.is_file());
        if !special && picture::has_image_extension(&path) {
            paths.push(path);
        } else if !special && first_video.is_none() {
            first_video = video(&path).map(|what| SourceError::of_video(&path, what));
        }
    }
    paths.sort();
    if let (true, Some(error)) = (paths.is_empty(), first_video) {
        return Err(error);
    }
    if paths.is_empty() {
        return Err(SourceError::EmptyFolder {
            path: path.to_path_buf(),
            expected: picture::IMAGE_EXTENSIONS.join(", "),
        });
    }
    Ok(paths)
}

/// Reads a file into `bytes`, which keeps its capacity.
fn read(path: &Path, bytes: &mut Vec<u8>) -> Result<(), SourceError> {
    let read = files::open(path).and_then(|file| files::read_into(&file, MAX_FILE_BYTES, bytes));
    read.map_err(|error| match Refusal::of(&error) {
        Some(&Refusal::TooLarge { bytes_max, found }) => {
            SourceError::TooLarge { path: path.to_path_buf(), found_bytes: found, limit_bytes: bytes_max }
        }
        _ => SourceError::of_file(path, error),
    })
}

impl Source for Images {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        while let Some(path) = self.paths.get(self.next) {
            if stop.is_set() {
                return Ok(false);
            }
            self.next += 1;
            let start = Instant::now();
            match read(path, &mut frame.bytes) {
                Ok(()) => {}
                Err(error) if self.is_folder => {
                    let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
                    let before = self.skipped.take().map_or(0, |(count, _)| count);
                    self.skipped = Some((before + 1, format!("{error}{cause}")));
                    continue;
                }
                Err(error) => return Err(error),
            }
            frame.set_encoded(PixelFormat::Encoded);
            frame.path = Some(path.clone());
            frame.captured = Instant::now();
            frame.capture_time = start.elapsed();
            return Ok(true);
        }
        Ok(false)
    }

    fn skipped(&mut self) -> Option<String> {
        self.skipped.take().map(|(count, last)| format!("{count} files that cannot be read, the last {last}"))
    }

    fn is_live(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        match self.is_folder {
            true => format!("{}: {} images", self.name.display(), self.paths.len()),
            false => self.name.display().to_string(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(source: &mut Images) -> Vec<(String, Vec<u8>)> {
        let (mut frame, stop, mut all) = (Frame::default(), Stop::new(), Vec::new());
        while source.next(&mut frame, &stop).unwrap() {
            let name = frame.path.as_ref().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            all.push((name, frame.bytes.clone()));
        }
        all
    }

    #[test]
    fn a_folder_is_sorted_and_unreadable_files_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.JPG", "a.png", "notes.txt", "c.webp", "none"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("folder.jpg")).unwrap();
        symlink("missing", dir.path().join("aa.jpg")).unwrap();
        let large = File::create(dir.path().join("ab.jpg")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();

        let mut source = Images::open(dir.path()).unwrap();
        let frame = |name: &str| (name.to_string(), name.as_bytes().to_vec());
        assert_eq!(names(&mut source), [frame("a.png"), frame("b.JPG"), frame("c.webp")]);
        assert!(source.describe().ends_with(": 5 images"));
    }

    #[test]
    fn one_image_of_any_extension() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture");
        fs::write(&path, "x").unwrap();
        let mut source = Images::open(&path).unwrap();
        assert_eq!(names(&mut source), [("picture".into(), b"x".to_vec())]);
        assert!(!source.is_live());
    }

    #[test]
    fn videos_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mp4");
        fs::write(&path, b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2mp41").unwrap();
        let error = |path: &Path| Images::open(path).err().unwrap().to_string();
        for path in [&path, dir.path()] {
            assert!(error(path).contains("x.mp4: found an MP4 or QuickTime video"), "{}", error(path));
        }
        // Beside images it is just another file.
        fs::write(dir.path().join("a.png"), "a.png").unwrap();
        assert_eq!(names(&mut Images::open(dir.path()).unwrap()).len(), 1);
        let frames = dir.path().join("x.MJPEG");
        fs::write(&frames, b"\xff\xd8\xff\xe0").unwrap();
        assert!(
            error(&frames).contains("an MJPEG video") && error(&frames).contains("--source - < "),
            "{}",
            error(&frames)
        );
    }

    #[test]
    fn unreadable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |path: &Path| Images::open(path).err().unwrap().to_string();
        assert!(error(dir.path()).contains("no images in this folder"));
        assert!(error(&dir.path().join("none.jpg")).ends_with("none.jpg: not found"));

        let path = dir.path().join("x.jpg");
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let mut source = Images::open(&path).unwrap();
        let error = source.next(&mut Frame::default(), &Stop::new()).unwrap_err().to_string();
        assert!(error.ends_with("x.jpg: 67108865 bytes, expected at most 67108864"), "{error}");
    }
}
