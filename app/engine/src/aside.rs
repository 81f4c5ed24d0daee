//! What is prepared beside its place, to be renamed into it whole, and what killed programs left of that, which is removed.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files;

/// Names that are tried; one is taken only by another writer of the same process to the same place.
const TRIES_MAX: usize = 100;

/// What is not whole yet is nobody else's business.
const MODE: u32 = 0o700;

/// A folder beside a place, on the same file system; dropping it removes it with all that is in it.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    /// Ends with this process, and tells others until then that the folder is in use. On a file system without locks they
    /// cannot tell, and leave it alone.
    _lock: File,
    is_kept: AtomicBool,
}

impl Aside {
    /// Makes a folder beside `out`, after what killed programs left there was removed; before that, `rescue` is called with
    /// each such folder, which stays where that fails.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(out: &Path, rescue: impl Fn(&Path) -> io::Result<()>) -> io::Result<Self> {
        let (parent, prefix) = (files::folder_of(out), prefix(out));
        let is_ours = |name: &OsStr, kind: FileType| {
            let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)).unwrap_or_default();
            let is_numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            is_numbered && kind.is_dir()
        };
        // What cannot be removed stays: it harms nobody.
        sweep(parent, is_ours, rescue);
        std::fs::create_dir_all(parent)?;
        Self::within(parent, &prefix)
    }

    /// Makes a folder in `parent` whose name begins with `prefix`; the process and a number follow. Only its owner may look
    /// into it.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn within(parent: &Path, prefix: &str) -> io::Result<Self> {
        let process = std::process::id();
        for number in 0..TRIES_MAX {
            let path = parent.join(format!("{prefix}{process}-{number}"));
            match DirBuilder::new().mode(MODE).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Another program may take it for a leftover until it is locked.
            let Ok(lock) = files::open_any(&path) else { continue };
            let _ = lock.try_lock();
            if path.exists() {
                return Ok(Self { path, _lock: lock, is_kept: AtomicBool::new(false) });
            }
        }
        Err(io::Error::new(ErrorKind::AlreadyExists, format!("{TRIES_MAX} folders {prefix}{process}-… are in the way")))
    }

    /// The folder, empty at first.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what has the folder's name stays when this is dropped: while something is in it that is nowhere else, which
    /// the next writer rescues, or once the folder was renamed.
    pub fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Relaxed);
    }

    /// Removes the folder with all that is in it.
    ///
    /// # Errors
    /// The system's; what is left is removed by the next writer.
    pub fn close(self) -> io::Result<()> {
        self.keep(true);
        std::fs::remove_dir_all(&self.path)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes files and folders of `folder` that `is_ours` knows by name and kind, and that no living process holds locked;
/// before that, `rescue` is called with each, which stays where that fails. Gives those that stay, and why.
pub fn sweep(
    folder: &Path,
    is_ours: impl Fn(&OsStr, FileType) -> bool,
    rescue: impl Fn(&Path) -> io::Result<()>,
) -> Vec<(PathBuf, io::Error)> {
    let mut stay = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if !is_ours(&entry.file_name(), kind) {
            continue;
        }
        // Gone already where another program has just removed its own. The lock is held until the name is gone.
        let Ok(lock) = files::open_any(&path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let removed = rescue(&path)
            .and_then(|()| if kind.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) });
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            stay.push((path, error));
        }
    }
    stay
}

/// Start of the names of folders beside `out`; the process and a number follow.
fn prefix(out: &Path) -> String {
    format!(".{}.new-", out.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = folder.read_dir().expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_go_and_what_is_in_use_or_foreign_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let foreign = [".other.new-7-0", ".out.new-", ".out.new-7-0.x", ".out.new-backup", "out.new-7-0"];
        for name in foreign.into_iter().chain([".out.new-7-0", ".out.new-12", ".out.new-8-0"]) {
            std::fs::create_dir(at(name)).expect("a folder");
            std::fs::write(at(name).join("half"), "half").expect("a file");
        }
        std::fs::write(at(".out.new-9-0"), "a file").expect("a file");
        std::os::unix::fs::symlink(".other.new-7-0", at(".out.new-10-0")).expect("a link");
        let busy = File::open(at(".out.new-8-0")).expect("a folder");
        busy.lock().expect("a lock");

        let first = Aside::new(&at("out"), |_| Ok(())).expect("a folder");
        let second = Aside::new(&at("out"), |_| Ok(())).expect("another, beside one in use");
        assert!(first.path() != second.path() && names(first.path()).is_empty());
        assert_eq!(first.path().metadata().expect("a folder").permissions().mode() & 0o777, MODE);
        std::fs::write(first.path().join("part"), "part").expect("a file");
        second.keep(true);
        second.keep(false);
        drop((first, second));
        let mut stay: Vec<String> = foreign.map(str::to_owned).to_vec();
        stay.extend([".out.new-10-0", ".out.new-8-0", ".out.new-9-0"].map(str::to_owned));
        stay.sort();
        assert_eq!(names(folder.path()), stay);

        drop(busy);
        drop(Aside::new(&at("out"), |_| Err(ErrorKind::Other.into())).expect("a folder"));
        assert!(at(".out.new-8-0/half").exists(), "what could not be rescued stays");
        let kept = Aside::new(&at("out"), |_| Ok(())).expect("a folder");
        assert!(!at(".out.new-8-0").exists());
        kept.keep(true);
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists(), "what is nowhere else stays");
        drop(Aside::new(&at("out"), |_| Ok(())).expect("a folder"));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_swept_is_known_by_name_and_kind_and_what_stays_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let other = tempfile::tempdir().expect("a folder");
        std::fs::write(other.path().join("precious"), "precious").expect("a file");
        for name in [".cache.killed", ".cache.busy", ".cache.dear", "cache"] {
            std::fs::write(at(name), "half").expect("a file");
        }
        std::fs::create_dir(at(".cache.folder")).expect("a folder");
        std::os::unix::fs::symlink(other.path().join("precious"), at(".cache.link")).expect("a link");
        let busy = File::open(at(".cache.busy")).expect("a file");
        busy.lock().expect("a lock");
        let is_ours = |name: &OsStr, kind: FileType| name.to_string_lossy().starts_with(".cache.") && !kind.is_dir();
        let rescue = |path: &Path| match path.ends_with(".cache.dear") {
            true => Err(io::Error::other("dear")),
            false => Ok(()),
        };
        let stay = sweep(folder.path(), is_ours, rescue);
        assert!(matches!(&stay[..], [(path, error)] if *path == at(".cache.dear") && error.to_string() == "dear"));
        assert_eq!(names(folder.path()), [".cache.busy", ".cache.dear", ".cache.folder", ".cache.link", "cache"]);
        assert!(other.path().join("precious").exists());
        assert!(sweep(&at("nothing"), is_ours, rescue).is_empty());
    }

    #[test]
    fn a_folder_is_closed_or_taken_away_under_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = || Aside::within(folder.path(), ".aside-").expect("a folder");
        let first = make();
        std::fs::write(first.path().join("part"), "part").expect("a file");
        let second = make();
        std::fs::rename(second.path(), folder.path().join("place")).expect("renames");
        second.keep(true);
        // The name is free for another one, which is none of its business.
        let third = make();
        assert_eq!(third.path(), second.path());
        drop(second);
        assert!(third.path().exists());
        first.close().expect("removes");
        std::fs::remove_dir(third.path()).expect("removes");
        assert_eq!(third.close().expect_err("gone already").kind(), ErrorKind::NotFound);
        assert_eq!(names(folder.path()), ["place"]);
        assert!(Aside::within(&folder.path().join("nothing"), ".aside-").is_err());
    }
}
