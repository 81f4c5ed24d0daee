//! One model's folder in the hub's cache, in the layout of `huggingface_hub`:
//!
//! ```text
//! models--OWNER--NAME/blobs/HASH             contents
//! models--OWNER--NAME/snapshots/COMMIT/FILE  links to them
//! models--OWNER--NAME/refs/REVISION          commit of a branch or tag
//! .locks/models--OWNER--NAME/HASH.lock       held while a blob is downloaded
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use spotter_engine::files;

use super::HubError;

/// Size limit of a ref, which holds a commit.
const REF_BYTES_MAX: u64 = 1 << 10;

/// Permissions of new files, less the umask.
const MODE: u32 = 0o666;

/// One model's folder in the cache.
#[derive(Debug)]
pub(super) struct Repo {
    root: PathBuf,
    locks: PathBuf,
}

impl Repo {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let folder = format!("models--{}", repo.replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    pub(super) fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The folder of a snapshot that is there.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let commit = || {
            let text = files::read(&self.root.join("refs").join(revision), REF_BYTES_MAX).ok()?;
            Some(String::from_utf8(text).ok()?.trim().to_owned()).filter(|commit| is_hash(commit))
        };
        let of = |commit: &str| Some(self.snapshot_folder(commit)).filter(|folder| folder.is_dir());
        if is_hash(revision) { of(revision) } else { of(&commit()?) }
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    /// Records which commit a branch or tag is; a commit needs no record.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        make_parent(&path)?;
        let aside = aside(&path);
        let written = std::fs::write(&aside, commit).and_then(|()| std::fs::rename(&aside, &path));
        written.map_err(|source| HubError::file(&path, source))
    }

    /// Makes `file` of a snapshot a link to a blob.
    pub(super) fn link(&self, commit: &str, file: &str, hash: &str) -> Result<(), HubError> {
        let path = self.snapshot_folder(commit).join(file);
        make_parent(&path)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{hash}"));
        if std::fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let aside = aside(&path);
        let made = std::fs::remove_file(&aside).or_else(absent_is_fine).and_then(|()| symlink(&target, &aside));
        made.and_then(|()| std::fs::rename(&aside, &path)).map_err(|source| HubError::file(&path, source))
    }

    /// Waits until no other program downloads this blob.
    pub(super) fn lock(&self, hash: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{hash}.lock"));
        make_parent(&path)?;
        let locked = files::open_or_make(&path, MODE).and_then(|file| {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    log::warn!("waiting for another program, which downloads the same file ({})", path.display());
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(file)
        });
        locked.map_err(|source| HubError::file(&path, source))
    }

    /// Opens the part of a blob that was downloaded so far, at its end.
    pub(super) fn part(&self, hash: &str) -> Result<(PathBuf, File), HubError> {
        let path = self.blob(&format!("{hash}.incomplete"));
        make_parent(&path)?;
        let file = files::open_or_make(&path, MODE).map_err(|source| HubError::file(&path, source))?;
        Ok((path, file))
    }
}

/// Where a file is made before it takes its place: beside it, with the number of this process.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Makes the folder of a file.
pub(super) fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = files::folder_of(path);
    std::fs::create_dir_all(parent).map_err(|source| HubError::file(parent, source))
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Returns whether this is a hash of git (40 digits) or SHA-256 (64), which can be the name of a file.
pub(super) fn is_hash(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
