//! The slots of the state folder: which there are, which is active, what is in them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotter_engine::bundle::Bundle;
use spotter_engine::files;

use super::error::{NAME_BYTES_MAX, SlotError};
use super::signature::{SignatureError, SignatureFile, Signed};
use super::state::{BUILT_IN, State};
use crate::config::SigningKey;
use crate::bundles::demo;
use crate::store;

/// Folder of the slots in the state folder.
pub const FOLDER: &str = "bundles";

/// Says which slot is active; in the state folder.
pub const STATE_FILE: &str = "bundles.json";

/// The archive, as it was installed; in the slot. Its signature, if it has one, lies beside it.
pub(super) const ARCHIVE_FILE: &str = "bundle.tar";

/// What is noted of a slot, for people; in the slot. It is no evidence of anything.
pub(super) const SLOT_FILE: &str = "slot.json";

/// Both files take some hundred bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Whoever holds the lock needs it for some milliseconds, on a slow card for a second.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What is noted of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFile {
    /// When it was installed.
    pub installed: String,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub archive_sha256: String,
}

/// A slot's bundle, with what its signature says.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) bundle: Bundle,
    /// `None` where no key is configured, and for the bundle inside the program.
    pub(super) signed: Option<Signed>,
}

/// The slots of one state folder. Nothing is made before something is installed.
#[derive(Debug, Clone)]
pub struct Slots {
    state_dir: PathBuf,
    pub(super) key: Option<SigningKey>,
    /// The longest time that the lock is waited for.
    pub(super) lock_wait: Duration,
}

impl Slots {
    /// The slots of that state folder. With a `key`, only what it signed is installed, or opened once it is.
    pub fn new(state_dir: &Path, key: Option<SigningKey>) -> Self {
        Self { state_dir: state_dir.to_owned(), key, lock_wait: LOCK_WAIT }
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The file that changes when another slot becomes active.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join(STATE_FILE)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.state_dir.join(FOLDER)
    }

    /// The folder of a slot.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Which slot is active; the one inside the program where nobody chose any yet.
    pub fn state(&self) -> Result<State, SlotError> {
        let path = self.state_file();
        match files::read_contained(&path, STATE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| SlotError::State { path, source }),
            Err(error) if is_missing(&error) => Ok(State::default()),
            Err(source) => Err(SlotError::Io { path, action: "cannot be read", source }),
        }
    }

    /// Puts `after` in the place of `before`. `false`: somebody else was faster, nothing was changed.
    pub fn replace(&self, before: &State, after: &State) -> Result<bool, SlotError> {
        let _lock = self.lock()?;
        if self.state()? != *before {
            return Ok(false);
        }
        self.write_state(after)?;
        Ok(true)
    }

    /// To be called with the lock held.
    pub(super) fn write_state(&self, state: &State) -> Result<(), SlotError> {
        let path = self.state_file();
        let write = || store::replace_state_file(&path, &serde_json::to_vec_pretty(state)?);
        write().map_err(|source| SlotError::Io { path: path.clone(), action: "cannot be written", source })
    }

    /// Changes the state, however many others do so too; gives what it was and what it is.
    pub fn change<E: From<SlotError>>(&self, change: impl Fn(&State) -> Result<State, E>) -> Result<(State, State), E> {
        loop {
            let before = self.state()?;
            let after = change(&before)?;
            if after == before || self.replace(&before, &after)? {
                return Ok((before, after));
            }
        }
    }

    /// Opens the bundle of a slot. With a key, its archive must be what the key signed, to the last byte, which is checked
    /// now: what was found when it was installed, or is noted in the slot, does not count.
    pub fn open(&self, name: &str) -> Result<Bundle, SlotError> {
        Ok(self.open_signed(name)?.bundle)
    }

    /// The same, with what the signature says.
    pub(super) fn open_signed(&self, name: &str) -> Result<Opened, SlotError> {
        if name == BUILT_IN {
            return Ok(Opened { bundle: demo::bundle()?, signed: None });
        }
        self.check(name)?;
        let slot = self.path(name);
        let archive = slot.join(ARCHIVE_FILE);
        let Some(key) = &self.key else {
            // A slot may hold the files of a bundle unpacked; then there is nothing that was signed.
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

    /// What is noted of a slot.
    pub fn about(&self, name: &str) -> Result<SlotFile, SlotError> {
        let path = self.path(name).join(SLOT_FILE);
        let bytes = files::read_contained(&path, STATE_BYTES_MAX).map_err(|source| SlotError::Io {
            path: path.clone(),
            action: "cannot be read",
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| SlotError::State { path, source })
    }

    /// Names of all slots, in alphabetical order.
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

    /// Removes a slot that is neither active nor the one before.
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
        // Out of sight in one step; what a power cut leaves of it is swept up later.
        fs::rename(&place, aside.path().join("old")).map_err(io)?;
        store::sync_folder(&self.folder()).map_err(io)?;
        drop(lock);
        aside.close().map_err(io)
    }
}

/// Refuses what is signed with an older release than the newest that was taken, or with none, unless `older` is wanted.
/// `what` names it in messages.
pub(super) fn check_release(what: &str, signed: Option<&Signed>, state: &State, older: bool) -> Result<(), SlotError> {
    let (Some(signed), Some(newest)) = (signed, state.release) else { return Ok(()) };
    if older || signed.release >= Some(newest) {
        return Ok(());
    }
    let found = match signed.release {
        Some(release) => release.to_string(),
        None => format!("signed with a comment without a release ({:?})", signed.trusted_comment),
    };
    Err(SlotError::Older { what: what.to_owned(), found, newest: newest.to_string() })
}

/// Whether there is nothing, not even a state folder; a file in its place cannot hold anything either.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The name that was given, else that of the archive without its ending, in small letters.
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
    fn names() {
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
    fn only_the_state_that_was_seen_is_replaced() {
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
    fn a_change_is_made_of_what_somebody_else_made_meanwhile() {
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
