//! The lock of the slots, and the temporary folders in which slots are prepared.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use spotter_engine::files;
use spotter_engine::printable::printable_path;
use spotter_engine::staging::{self, StagingDir};

use super::error::SlotError;
use super::slots::Slots;
use crate::store;

/// Prefix of temporary folders; names of slots do not begin with it.
const ASIDE: &str = ".aside-";

/// The lock file in the folder of the slots.
const LOCK_FILE: &str = ".lock";

/// Mode of the lock: only the owner of the slots and root may open it, since everybody who can open it can hold it.
const LOCK_MODE: u32 = 0o600;

/// Poll interval for the lock: file locks cannot be waited for with a time limit.
const LOCK_POLL: Duration = Duration::from_millis(5);

impl Slots {
    /// Takes the lock, which is held for an instant while the state or the list of slots changes, never while files are copied
    /// or checked. Waits for another holder, for a limited time.
    pub(super) fn lock(&self) -> Result<File, SlotError> {
        let folder = self.folder();
        let path = folder.join(LOCK_FILE);
        let io = |source| SlotError::Io { path: path.clone(), action: "cannot be locked", source };
        store::make_state_folder(&folder).map_err(|source| SlotError::Io {
            path: folder.clone(),
            action: "cannot be written",
            source,
        })?;
        let file = open_lock(&path).map_err(io)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() < self.lock_wait => std::thread::sleep(LOCK_POLL),
                Err(TryLockError::WouldBlock) => {
                    return Err(SlotError::Locked { path, seconds: self.lock_wait.as_secs() });
                }
            }
        }
    }

    /// Creates a temporary folder beside the slots, which becomes a slot or takes a removed one. Removes temporary folders that
    /// killed programs left behind.
    pub(super) fn aside(&self) -> Result<StagingDir, SlotError> {
        let folder = self.folder();
        // Locked so that nobody removes the new folder as a leftover before it has its own lock.
        let _lock = self.lock()?;
        let left = staging::sweep(
            &folder,
            |name, kind| kind.is_dir() && name.to_string_lossy().starts_with(ASIDE),
            |_: &Path| Ok(()),
        );
        for (path, error) in left {
            let path = printable_path(&path);
            log::warn!("{path}: left behind by a killed program and cannot be removed: {error}");
        }
        StagingDir::within(&folder, ASIDE).map_err(|source| SlotError::Io {
            path: folder.clone(),
            action: "cannot be written",
            source,
        })
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let file = files::open_or_make(path, LOCK_MODE)?;
    if file.metadata()?.permissions().mode() & 0o777 != LOCK_MODE {
        file.set_permissions(Permissions::from_mode(LOCK_MODE))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bundles::State;

    /// A child process of another thread inherits the lock until it executes its program.
    fn patient(folder: &Path) -> Slots {
        let mut slots = Slots::new(folder, None);
        slots.lock_wait = Duration::from_secs(300);
        slots
    }

    #[test]
    fn the_wait_for_the_lock_is_limited() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut slots = patient(folder.path());
        let patient = slots.clone();
        slots.lock_wait = Duration::from_millis(30);
        let change = || slots.replace(&State::default(), &State::default().activated("a"));
        let held = slots.lock().expect("a lock");
        for (what, error) in
            [("the state", change().err()), ("a new slot", slots.aside().err()), ("removal", slots.remove("a").err())]
        {
            assert!(matches!(error, Some(SlotError::Locked { .. })), "{what}: {error:?}");
        }
        assert_eq!(slots.state().expect("reading needs no lock"), State::default());
        drop(held);
        let changed = patient.replace(&State::default(), &State::default().activated("a"));
        assert!(changed.expect("a state"));
    }

    #[test]
    fn nobody_else_can_open_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let slots = patient(folder.path());
        let path = slots.folder().join(LOCK_FILE);
        let mode = || path.metadata().expect("a file").permissions().mode() & 0o777;
        drop(slots.lock().expect("a lock"));
        assert_eq!(mode(), LOCK_MODE);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
        drop(slots.lock().expect("a lock"));
        assert_eq!(mode(), LOCK_MODE);
        // Something else in its place.
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink("/dev/null", &path).expect("a link");
        assert!(matches!(slots.lock(), Err(SlotError::Io { .. })));
        fs::remove_file(&path).expect("removes");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        assert!(matches!(slots.lock(), Err(SlotError::Io { .. })));
    }

    #[test]
    fn leftovers_are_removed_and_folders_in_use_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let slots = patient(folder.path());
        let used = slots.aside().expect("a folder");
        fs::write(used.path().join("half"), "half").expect("a file");
        let leftover = slots.folder().join(".aside-killed");
        fs::create_dir(&leftover).expect("a folder");
        fs::write(leftover.join("half"), "half").expect("a file");
        fs::create_dir(slots.folder().join("slot")).expect("a folder");
        let other = slots.aside().expect("a folder");
        assert!(!leftover.exists());
        assert!(used.path().join("half").exists() && slots.folder().join("slot").exists());
        // The lock is free while the folders exist.
        drop(slots.lock().expect("a lock"));
        let path = used.path().to_owned();
        drop((used, other));
        assert!(!path.exists());
    }
}
