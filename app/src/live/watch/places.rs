//! Resolves the symbolic links on a file's path, and watches all folders in which a change concerns the file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// Maximum number of symbolic links on a path, as in Linux.
const LINKS_MAX: usize = 40;

/// Identifies the content of a file without reading it: device and inode, modification and change time (each in seconds and
/// nanoseconds), size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

/// Device, inode and creation time of a folder: a new folder often gets the inode of one that was just removed.
type FolderIdentity = ((u64, u64), Option<SystemTime>);

/// The folders that are watched for one file.
#[derive(Debug)]
pub(super) struct Places {
    file: PathBuf,
    notifier: Option<RecommendedWatcher>,
    /// The watched folders, with their identities, since another folder may take over the name.
    watched: BTreeMap<PathBuf, FolderIdentity>,
}

impl Places {
    /// `file` must be absolute; without a `notifier` no events come.
    pub(super) fn new(file: PathBuf, notifier: Option<RecommendedWatcher>) -> Self {
        Self { file, notifier, watched: BTreeMap::new() }
    }

    /// The file's current stamp; `None` if it does not exist.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.file.metadata().ok().map(|metadata| Stamp {
            file: identity(&metadata),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
        })
    }

    /// Watches exactly the folders in which a change can concern the file now. Returns the file and every symbolic link on its
    /// path, by the names that events use.
    pub(super) fn refresh(&mut self) -> Vec<PathBuf> {
        let steps = steps(&self.file);
        let Some(notifier) = &mut self.notifier else { return steps };
        let folders = steps.iter().filter_map(|step| step.parent());
        let wanted: BTreeMap<PathBuf, FolderIdentity> =
            folders.filter_map(|folder| Some((folder.to_owned(), folder_identity(&folder.metadata().ok()?)))).collect();
        self.watched.retain(|folder, identity| {
            let stays = wanted.get(folder) == Some(identity);
            if !stays {
                // Fails if the folder is gone together with its watch.
                let _ = notifier.unwatch(folder);
            }
            stays
        });
        for (folder, identity) in wanted {
            if let Entry::Vacant(place) = self.watched.entry(folder) {
                match notifier.watch(place.key(), RecursiveMode::NonRecursive) {
                    Ok(()) => drop(place.insert(identity)),
                    Err(error) => log::debug!("{} cannot be watched: {error}", place.key().display()),
                }
            }
        }
        steps
    }
}

/// The symbolic links on the path to `file`, in order, and the file that they lead to.
fn steps(file: &Path) -> Vec<PathBuf> {
    let mut steps = Vec::new();
    let mut at = PathBuf::from("/");
    // The rest of the path, the next part last.
    let mut ahead: Vec<OsString> = parts(file);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part);
        match next.read_link() {
            Ok(target) if steps.len() < LINKS_MAX => {
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                ahead.extend(parts(&target));
                steps.push(next);
            }
            _ => at = next,
        }
    }
    steps.push(at);
    steps
}

/// The components of a path, in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).rev().collect()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn folder_identity(metadata: &Metadata) -> FolderIdentity {
    // Some file systems keep no creation time.
    (identity(metadata), metadata.created().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_path_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("a path without links");
        let at = |name: &str| root.join(name);
        std::fs::create_dir(at("..v1")).expect("a folder");
        std::fs::write(at("..v1/f"), "").expect("a file");
        symlink("..v1", at("..data")).expect("a link");
        symlink("..data/f", at("f")).expect("a link");
        symlink(at("f"), at("absolute")).expect("a link");
        symlink("./..v1/../f", at("winding")).expect("a link");
        symlink("nothing", at("dangling")).expect("a link");
        symlink("loop", at("loop")).expect("a link");
        let check = |name: &str, expected: &[&str]| {
            assert_eq!(steps(&at(name)), expected.iter().map(|name| at(name)).collect::<Vec<_>>(), "{name}");
        };
        check("..v1/f", &["..v1/f"]);
        check("f", &["f", "..data", "..v1/f"]);
        check("absolute", &["absolute", "f", "..data", "..v1/f"]);
        check("winding", &["winding", "f", "..data", "..v1/f"]);
        check("dangling", &["dangling", "nothing"]);
        check("missing/f", &["missing/f"]);
        assert_eq!(steps(&at("loop")).len(), LINKS_MAX + 1);
    }
}
