//! The slots of the state folder: installed, listed, chosen, removed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spotter_engine::bundle::{Bundle, BundleError};

use super::archive::{self, ArchiveError};
use super::signature::{self, SignatureError};
use super::state::{BUILT_IN, State};
use crate::config::SigningKey;
use crate::demo::{self, DemoError};
use crate::store;

/// Folder of the slots in the state folder.
pub const FOLDER: &str = "bundles";

/// Says which slot is active; in the state folder.
pub const STATE_FILE: &str = "bundles.json";

/// What is known of a slot beside its manifest; in the slot.
pub(super) const SLOT_FILE: &str = "slot.json";

/// Both files take some hundred bytes.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Names of folders that are being filled or emptied begin so; names of slots do not.
const ASIDE: &str = ".aside-";

/// Longest name of a slot: it stands in tables and in messages.
const NAME_BYTES_MAX: usize = 64;

/// What an installation needs beside the bytes of the archive: folders, the slot's file, the state.
const SPARE_BYTES: u64 = 256 << 10;

/// Why a slot could not be made, chosen or removed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file could not be read or written.
    #[error("{}: {action}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file that says which slot is active is not one.
    #[error(
        "{}: expected the state of the bundles, found something else; remove the file and activate a bundle again",
        .path.display()
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The name cannot be a slot's.
    #[error(
        "slot name {name:?}: expected 1 to {NAME_BYTES_MAX} small letters, digits, `.`, `_` and `-`, the first a letter or \
         digit, and not {BUILT_IN:?}; choose one with --name"
    )]
    Name {
        /// What was given, or made of the file's name.
        name: String,
    },
    /// There is no slot of that name.
    #[error("no slot {name:?}: there are {known}; `spotter bundle install FILE.tar` makes one")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The slot is taken by another bundle.
    #[error("slot {name:?} holds another bundle already; choose another name with --name, or remove that one first")]
    Taken {
        /// The slot.
        name: String,
    },
    /// The slot is still needed.
    #[error("slot {name:?} is the {role} one and stays; activate others first")]
    InUse {
        /// The slot.
        name: String,
        /// `active` or `previous`.
        role: &'static str,
    },
    /// There is no slot before the active one.
    #[error(
        "nothing to go back to: {active:?} is active, and no other was before it; name one with `spotter bundle activate`"
    )]
    NothingBefore {
        /// The active slot.
        active: String,
    },
    /// The file system has no room.
    #[error("{}: {free} bytes free, expected {needed}; remove a slot with `spotter bundle remove`", .path.display())]
    Full {
        /// A folder of the file system.
        path: PathBuf,
        /// Bytes wanted.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The slot's archive was not signed by the key.
    #[error(
        "slot {name:?}: {why}: expected the key that the configuration names (bundles.public_key); sign its archive with \
         `minisign -Sm FILE.tar` and install it again"
    )]
    Untrusted {
        /// The slot.
        name: String,
        /// What was found.
        why: &'static str,
    },
    /// The signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The archive is damaged, malicious or too large.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What was in the archive is no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle that stands for no slot cannot be used.
    #[error(transparent)]
    Demo(#[from] DemoError),
}

/// What is known of a slot beside its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotFile {
    /// When it was installed.
    pub installed: String,
    /// SHA-256 of the archive, in hexadecimal digits.
    pub archive_sha256: String,
    /// What the signature's trusted comment says, where one was checked.
    pub signed: Option<String>,
    /// The public key that it was checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// How an installation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The slot.
    pub name: String,
    /// Whether it was there before, with the same content.
    pub before: bool,
}

/// What an archive has to fulfil.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The most bytes that it may take, packed or not.
    pub bytes_max: u64,
    /// What is noted as the time of the installation.
    pub now: jiff::Timestamp,
}

/// The slots of one state folder. Nothing is made before something is installed.
#[derive(Debug, Clone)]
pub struct Slots {
    state_dir: PathBuf,
    key: Option<SigningKey>,
}

impl Slots {
    /// The slots of that state folder. With a `key`, only what it signed is installed, or opened once it is.
    pub fn new(state_dir: &Path, key: Option<SigningKey>) -> Self {
        Self { state_dir: state_dir.to_owned(), key }
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The file that changes when another slot becomes active.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join(STATE_FILE)
    }

    fn folder(&self) -> PathBuf {
        self.state_dir.join(FOLDER)
    }

    /// The folder of a slot.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Which slot is active; the one inside the program where nobody chose any yet.
    pub fn state(&self) -> Result<State, SlotError> {
        let path = self.state_file();
        match store::read_bounded(&path, STATE_BYTES_MAX) {
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
        let path = self.state_file();
        let write = || store::replace_state_file(&path, &serde_json::to_vec_pretty(after)?);
        write().map_err(|source| SlotError::Io { path: path.clone(), action: "cannot be written", source })?;
        Ok(true)
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

    /// Opens the bundle of a slot.
    pub fn open(&self, name: &str) -> Result<Bundle, SlotError> {
        if name == BUILT_IN {
            return Ok(demo::bundle()?);
        }
        self.check(name)?;
        self.check_key(name)?;
        Ok(Bundle::open(&self.path(name))?)
    }

    /// Refuses a slot whose archive the key, if there is one, has not signed: it was installed before the key was named,
    /// or under another one.
    fn check_key(&self, name: &str) -> Result<(), SlotError> {
        let Some(key) = &self.key else { return Ok(()) };
        let why = match self.about(name)?.key {
            Some(found) if found == key.text => return Ok(()),
            Some(_) => "signed by another key",
            None => "not signed when it was installed",
        };
        Err(SlotError::Untrusted { name: name.to_owned(), why })
    }

    /// What is known of a slot.
    pub fn about(&self, name: &str) -> Result<SlotFile, SlotError> {
        let path = self.path(name).join(SLOT_FILE);
        let bytes = store::read_bounded(&path, STATE_BYTES_MAX).map_err(|source| SlotError::Io {
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

    /// Makes a slot of an archive: checks its signature, unpacks it aside, checks every hash, and puts it into its place
    /// whole. Without a `name` it is the archive's, without its ending.
    pub fn install(&self, archive: &Path, name: Option<&str>, terms: Terms) -> Result<Installed, SlotError> {
        let name = slot_name(archive, name)?;
        let io = |action| move |source| SlotError::Io { path: archive.to_owned(), action, source };
        let mut file = File::open(archive).map_err(io("cannot be opened"))?;
        archive::check_size(archive, &file, terms.bytes_max)?;
        let signed = match &self.key {
            Some(key) => Some((signature::check(archive, &mut file, &key.key)?, key)),
            None => None,
        };
        let _lock = self.lock()?;
        self.sweep()?;
        self.check_room(file.metadata().map_err(io("cannot be read"))?.len())?;
        let aside = self.aside()?;
        let archive_sha256 = archive::unpack(archive, &mut file, aside.path(), terms.bytes_max)?;
        if signed.as_ref().is_some_and(|(signed, _)| signed.sha256 != archive_sha256) {
            return Err(SignatureError::Changed { path: archive.to_owned() }.into());
        }
        let bundle = Bundle::open(aside.path())?;
        bundle.verify()?;
        keep_only(aside.path(), bundle.manifest().files().map(|file| file.name.as_str()))?;
        let about = SlotFile {
            installed: format!("{:.0}", terms.now),
            archive_sha256,
            key: signed.as_ref().map(|(_, key)| key.text.clone()),
            signed: signed.map(|(signed, _)| signed.trusted_comment),
        };
        let place = self.path(&name);
        let io = |source| SlotError::Io { path: place.clone(), action: "cannot be put into its place", source };
        if place.exists() {
            let found = self.about(&name).ok().filter(|found| found.archive_sha256 == about.archive_sha256);
            let Some(found) = found else { return Err(SlotError::Taken { name }) };
            // What was taken on trust before a key was named is not any more.
            if about.key.is_some() && found.key != about.key {
                write_about(&place, &about).map_err(io)?;
            }
            return Ok(Installed { name, before: true });
        }
        let write = |path: &Path| -> io::Result<()> {
            write_about(path, &about)?;
            fs::set_permissions(path, Permissions::from_mode(store::FOLDER_MODE))?;
            store::sync_folder(path)?;
            fs::rename(path, &place)?;
            store::sync_folder(&self.folder())
        };
        write(aside.path()).map_err(io)?;
        // Renamed, so there is nothing left to remove.
        let _ = aside.keep();
        Ok(Installed { name, before: false })
    }

    /// Removes a slot that is neither active nor the one before.
    pub fn remove(&self, name: &str) -> Result<(), SlotError> {
        let _lock = self.lock()?;
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
        let place = self.path(name);
        let io = |source| SlotError::Io { path: place.clone(), action: "cannot be removed", source };
        // Out of sight in one step; what a power cut leaves of it is swept up later.
        let aside = self.aside()?;
        fs::rename(&place, aside.path().join("old")).map_err(io)?;
        store::sync_folder(&self.folder()).map_err(io)?;
        aside.close().map_err(io)
    }

    /// Held while slots are made or removed and while the state changes, for an instant each time.
    fn lock(&self) -> Result<File, SlotError> {
        let folder = self.folder();
        let io = |source| SlotError::Io { path: folder.clone(), action: "cannot be written", source };
        store::make_state_folder(&folder).map_err(io)?;
        let path = folder.join(".lock");
        // Whoever may read it may lock it, so that a service and its administrator share it.
        let open = || match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = File::options().read(true).append(true).create(true).open(&path)?;
                file.set_permissions(Permissions::from_mode(store::FILE_MODE))?;
                Ok(file)
            }
            opened => opened,
        };
        let file = open().map_err(io)?;
        file.lock().map_err(io)?;
        Ok(file)
    }

    /// A new folder that becomes a slot, or takes one that goes.
    fn aside(&self) -> Result<tempfile::TempDir, SlotError> {
        let folder = self.folder();
        tempfile::Builder::new().prefix(ASIDE).tempdir_in(&folder).map_err(|source| SlotError::Io {
            path: folder,
            action: "cannot be written",
            source,
        })
    }

    /// Removes what killed installations left behind; the lock is held, so nobody is at work on it.
    fn sweep(&self) -> Result<(), SlotError> {
        let folder = self.folder();
        let io = |source| SlotError::Io { path: folder.clone(), action: "cannot be cleared of leftovers", source };
        for entry in folder.read_dir().map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    fn check_room(&self, archive_bytes: u64) -> Result<(), SlotError> {
        let path = self.folder();
        // Where the system does not tell, writing will.
        let Ok(found) = rustix::fs::statvfs(&path) else { return Ok(()) };
        let (free, needed) = (found.f_bavail.saturating_mul(found.f_frsize), archive_bytes + SPARE_BYTES);
        if free < needed { Err(SlotError::Full { path, needed, free }) } else { Ok(()) }
    }
}

fn write_about(slot: &Path, about: &SlotFile) -> io::Result<()> {
    store::replace_state_file(&slot.join(SLOT_FILE), &serde_json::to_vec_pretty(about)?)
}

/// Removes the files of a bundle's folder that its manifest does not name, such as label files.
fn keep_only<'a>(folder: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<(), SlotError> {
    let mut kept: Vec<&OsStr> = names.into_iter().map(OsStr::new).collect();
    kept.push(OsStr::new(spotter_engine::bundle::MANIFEST_FILE));
    let io = |source| SlotError::Io { path: folder.to_owned(), action: "cannot be tidied up", source };
    for entry in folder.read_dir().map_err(io)? {
        let entry = entry.map_err(io)?;
        if !kept.contains(&entry.file_name().as_os_str()) {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// Whether there is nothing, not even a state folder; a file in its place cannot hold anything either.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The name that was given, else that of the archive without its ending, in small letters.
fn slot_name(archive: &Path, given: Option<&str>) -> Result<String, SlotError> {
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
}
