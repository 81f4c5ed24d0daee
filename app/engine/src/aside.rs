//! Folders in which something is prepared beside its place, to be renamed into it whole. What killed programs left of them
//! is removed.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names that are tried; one is taken only by another writer of the same process to the same place.
const TRIES_MAX: usize = 100;

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
        remove_leftovers(out, rescue);
        let parent = folder_of(out);
        std::fs::create_dir_all(parent)?;
        let (prefix, process) = (prefix(out), std::process::id());
        for number in 0..TRIES_MAX {
            let path = parent.join(format!("{prefix}{process}-{number}"));
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            // Another program may take it for a leftover until it is locked.
            let Ok(lock) = File::open(&path) else { continue };
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

    /// Whether the folder stays when this is dropped, for the next writer to rescue: while something is in it that is nowhere
    /// else.
    pub fn keep(&self, is_kept: bool) {
        self.is_kept.store(is_kept, Ordering::Relaxed);
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn folder_of(out: &Path) -> &Path {
    out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Start of the names of folders beside `out`; the process and a number follow.
fn prefix(out: &Path) -> String {
    format!(".{}.new-", out.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes folders that no living process holds locked. What cannot be removed stays: it harms nobody.
fn remove_leftovers(out: &Path, rescue: impl Fn(&Path) -> io::Result<()>) {
    let (prefix, Ok(entries)) = (prefix(out), folder_of(out).read_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)).unwrap_or_default();
        let is_ours = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(lock) = File::open(entry.path())
            && lock.try_lock().is_ok()
            && rescue(&entry.path()).is_ok()
        {
            // The lock is held until the name is gone.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
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
}
