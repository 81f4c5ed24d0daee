//! The slots of a state folder.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use spotter_engine::bundle::Bundle;
use spotter_engine::files;

use super::demo;
use super::error::{NAME_BYTES_MAX, SlotError};
use super::signature::{SignatureError, SignatureFile, Signed};
use super::state::{BUILT_IN, SLOT_FILE, SlotFile, State};
use crate::config::SigningKey;
use crate::store;

/// Folder of the slots, in the state folder.
pub const FOLDER: &str = "bundles";

/// File that names the active slot, in the state folder.
const STATE_FILE: &str = "bundles.json";

/// The installed archive, in the slot. Its signature, if any, lies beside it.
pub(super) const ARCHIVE_FILE: &str = "bundle.tar";

/// Largest state file or slot file; both take some hundred bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Longest wait for the lock. Its holder needs it for some milliseconds, on a slow card for a second.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A slot's bundle and signature.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) bundle: Bundle,
    /// `None` if no key is configured, and for the demo bundle.
    pub(crate) signed: Option<Signed>,
}

/// The slots of one state folder. Folders are created by the first installation.
#[derive(Debug, Clone)]
pub struct Slots {
    state_dir: PathBuf,
    pub(super) key: Option<SigningKey>,
    /// Longest wait for the lock.
    pub(super) lock_wait: Duration,
}

impl Slots {
    /// The slots of that state folder. With a `key`, only bundles that it signed are installed or opened.
    pub fn new(state_dir: &Path, key: Option<SigningKey>) -> Self {
        Self { state_dir: state_dir.to_owned(), key, lock_wait: LOCK_WAIT }
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The file that changes when another slot is activated.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.state_dir.join(STATE_FILE)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.state_dir.join(FOLDER)
    }

    /// The folder of a slot.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Reads the state; the demo bundle is active if nothing was activated yet.
    pub fn state(&self) -> Result<State, SlotError> {
        let path = self.state_file();
        match files::read_contained(&path, STATE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| SlotError::State { path, source }),
            Err(error) if is_missing(&error) => Ok(State::default()),
            Err(source) => Err(SlotError::Io { path, action: "cannot be read", source }),
        }
    }

    /// Replaces the state if it is still `before`. `false`: another program was faster, and nothing was changed.
    pub fn replace(&self, before: &State, after: &State) -> Result<bool, SlotError> {
        let _lock = self.lock()?;
        if self.state()? != *before {
            return Ok(false);
        }
        self.write_state(after)?;
        Ok(true)
    }

    /// Writes the state. Call it with the lock held.
    pub(super) fn write_state(&self, state: &State) -> Result<(), SlotError> {
        let path = self.state_file();
        let write = || store::replace_state_file(&path, &serde_json::to_vec_pretty(state)?);
        write().map_err(|source| SlotError::Io { path: path.clone(), action: "cannot be written", source })
    }

    /// Changes the state, also if other programs do so at the same time; returns the state before and after.
    pub fn change<E: From<SlotError>>(&self, change: impl Fn(&State) -> Result<State, E>) -> Result<(State, State), E> {
        loop {
            let before = self.state()?;
            let after = change(&before)?;
            if after == before || self.replace(&before, &after)? {
                return Ok((before, after));
            }
        }
    }

    /// Opens the bundle of a slot. With a key, the signature over the whole archive is checked now, whatever was found when it
    /// was installed.
    pub fn open(&self, name: &str) -> Result<Bundle, SlotError> {
        Ok(self.open_signed(name)?.bundle)
    }

    /// As [`Self::open`], with the signature.
    pub(crate) fn open_signed(&self, name: &str) -> Result<Opened, SlotError> {
        if name == BUILT_IN {
            return Ok(Opened { bundle: demo::bundle()?, signed: None });
        }
        self.check(name)?;
        let slot = self.path(name);
        let archive = slot.join(ARCHIVE_FILE);
        let Some(key) = &self.key else {
            // A slot may hold the unpacked files of a bundle, which cannot be signed.
            let path = if archive.symlink_metadata().is_ok() { archive } else { slot };
            return Ok(Opened { bundle: Bundle::open(&path)?, signed: None });
        };
        let untrusted = |why| SlotError::Untrusted { name: name.to_owned(), why };
        let checked = SignatureFile::beside(&archive).and_then(|signature| {
            let file =
                files::open_no_link(&archive).map_err(|source| SignatureError::Io { path: archive.clone(), source })?;
            signature.check(&archive, file, &key.key)
        });
        let (archive, signed) = checked.map_err(|error| match error {
            SignatureError::Missing { .. } => untrusted("not signed when it was installed"),
            SignatureError::OtherKey { .. } => untrusted("signed by another key"),
            SignatureError::Wrong { .. } => untrusted("changed after it was signed"),
            other => other.into(),
        })?;
        Ok(Opened { bundle: archive.open()?, signed: Some(signed) })
    }

    /// Reads the slot file of a slot.
    pub fn about(&self, name: &str) -> Result<SlotFile, SlotError> {
        let path = self.path(name).join(SLOT_FILE);
        let bytes = files::read_contained(&path, STATE_BYTES_MAX).map_err(|source| SlotError::Io {
            path: path.clone(),
            action: "cannot be read",
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| SlotError::State { path, source })
    }

    /// Names of all slots in alphabetical order.
    pub fn names(&self) -> Result<Vec<String>, SlotError> {
        let folder = self.folder();
        let io = |source| SlotError::Io { path: folder.clone(), action: "cannot be read", source };
        let entries = match folder.read_dir() {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io)?;
            let is_folder = entry.file_type().map_err(io)?.is_dir();
            names.extend(entry.file_name().into_string().ok().filter(|name| is_folder && is_name(name)));
        }
        names.sort();
        Ok(names)
    }

    /// Refuses a name that no slot has.
    pub fn check(&self, name: &str) -> Result<(), SlotError> {
        let names = self.names()?;
        if name == BUILT_IN || names.iter().any(|known| known == name) {
            return Ok(());
        }
        let known = names.iter().map(String::as_str).chain([BUILT_IN]).collect::<Vec<_>>().join(", ");
        Err(SlotError::Unknown { name: name.to_owned(), known })
    }

    /// Removes a slot that is neither active nor previous.
    pub fn remove(&self, name: &str) -> Result<(), SlotError> {
        let place = self.path(name);
        let io = |source| SlotError::Io { path: place.clone(), action: "cannot be removed", source };
        let aside = self.aside()?;
        let lock = self.lock()?;
        self.check(name)?;
        let state = self.state()?;
        for (role, used) in [("active", Some(state.active.as_str())), ("previous", state.previous.as_deref())] {
            if used == Some(name) {
                return Err(SlotError::InUse { name: name.to_owned(), role });
            }
        }
        if name == BUILT_IN {
            return Err(SlotError::InUse { name: name.to_owned(), role: "built-in" });
        }
        // Removed by one rename; what a power cut leaves behind is removed later.
        fs::rename(&place, aside.path().join("old")).map_err(io)?;
        store::sync_folder(&self.folder()).map_err(io)?;
        drop(lock);
        aside.close().map_err(io)
    }
}

/// Refuses a bundle whose signed release is older than the newest accepted one, or missing, unless `older` is set. `what` names
/// it in messages.
pub(crate) fn check_release(what: &str, signed: Option<&Signed>, state: &State, older: bool) -> Result<(), SlotError> {
    let (Some(signed), Some(newest)) = (signed, state.release) else { return Ok(()) };
    if older || signed.release >= Some(newest) {
        return Ok(());
    }
    let found = match signed.release {
        Some(release) => release.to_string(),
        None => format!("signed without a release ({:?})", signed.trusted_comment),
    };
    Err(SlotError::Older { what: what.to_owned(), found, newest: newest.to_string() })
}

/// Returns whether the path does not exist; a file in place of the state folder counts as well.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The given name, else the archive's without its extension, in lower case.
pub(super) fn slot_name(archive: &Path, given: Option<&str>) -> Result<String, SlotError> {
    let name = match given {
        Some(given) => given.to_owned(),
        None => archive.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase(),
    };
    if is_name(&name) { Ok(name) } else { Err(SlotError::Name { name }) }
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name != BUILT_IN
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(good)
        && name.bytes().all(|byte| good(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for (name, expected) in [
            ("a", true),
            ("clip-b32_int8.v2", true),
            ("2026", true),
            ("", false),
            (".aside-x", false),
            ("-x", false),
            ("A", false),
            ("a b", false),
            ("a/b", false),
            ("..", false),
            ("ä", false),
            ("built-in", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(is_name(name), expected, "{name}");
        }
        let named = |archive: &str, given| slot_name(Path::new(archive), given).ok();
        assert_eq!(named("/x/Cats-v2.tar", None).as_deref(), Some("cats-v2"));
        assert_eq!(named("/x/Cats v2.tar", None), None);
        assert_eq!(named("/x/Cats v2.tar", Some("cats")).as_deref(), Some("cats"));
    }

    #[test]
    fn only_the_expected_state_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let slots = Slots::new(folder.path(), None);
        let (first, one, two) =
            (State::default(), State::default().activated("one"), State::default().activated("two"));
        for (what, before, after, is_replaced, found) in [
            ("nothing was chosen yet", &first, &one, true, &one),
            ("somebody was faster", &first, &two, false, &one),
            ("somebody was faster, with the same", &first, &one, false, &one),
            ("another detail", &State { tries: 1, ..one.clone() }, &two, false, &one),
            ("as it was seen", &one, &two, true, &two),
        ] {
            assert_eq!(slots.replace(before, after).expect("a state"), is_replaced, "{what}");
            assert_eq!(slots.state().expect("a state"), *found, "{what}");
        }
    }

    #[test]
    fn a_change_starts_from_the_latest_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let slots = Slots::new(folder.path(), None);
        let calls = std::cell::Cell::new(0);
        let changed = slots.change(|state| {
            calls.set(calls.get() + 1);
            if calls.get() == 1 {
                assert!(slots.replace(state, &state.activated("other"))?);
            }
            Ok::<State, SlotError>(state.activated("mine"))
        });
        let (before, after) = changed.expect("changes");
        assert_eq!((before.active.as_str(), after.active.as_str(), calls.get()), ("other", "mine", 2));
        assert_eq!(after.previous.as_deref(), Some("other"));
        assert_eq!(slots.state().expect("a state"), after);
    }
}
