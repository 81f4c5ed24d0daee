//! Errors of slots.

use std::io;
use std::path::PathBuf;

use spotter_engine::bundle::BundleError;
use spotter_engine::printable::printable_path;

use super::archive::ArchiveError;
use super::demo::DemoError;
use super::signature::SignatureError;
use super::state::BUILT_IN;

/// Longest name of a slot, which appears in tables and messages.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Why a slot could not be installed, opened, activated or removed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file could not be read or written.
    #[error("{}: {action}", printable_path(.path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Another program holds the lock.
    #[error(
        "{}: held by another program for {seconds} s: expected it to be free within a moment; wait for the other \
         `spotter bundle`, or see who has it open (`fuser -v {}`)", printable_path(.path), printable_path(.path)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Seconds waited.
        seconds: u64,
    },
    /// The state file is invalid.
    #[error(
        "{}: expected the state of the bundles, found something else; remove the file and activate a bundle again",
        printable_path(.path)
    )]
    State {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The name is no valid slot name.
    #[error(
        "slot name {name:?}: expected 1 to {NAME_BYTES_MAX} lower-case letters, digits, `.`, `_` and `-`, the first a letter or \
         digit, and not {BUILT_IN:?}; choose one with --name"
    )]
    Name {
        /// The name that was given, or derived from the file's name.
        name: String,
    },
    /// There is no slot with that name.
    #[error("no slot {name:?}: there are {known}; `spotter bundle install FILE.tar` installs one")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The existing slots.
        known: String,
    },
    /// The slot holds another bundle.
    #[error("slot {name:?} already holds another bundle; choose another name with --name, or remove that one first")]
    Taken {
        /// The slot.
        name: String,
    },
    /// The slot is in use.
    #[error("slot {name:?} is the {role} one and cannot be removed; activate others first")]
    InUse {
        /// The slot.
        name: String,
        /// `active` or `previous`.
        role: &'static str,
    },
    /// There is no previous slot.
    #[error(
        "nothing to roll back to: {active:?} is active and there is no previous one; choose one with `spotter bundle activate`"
    )]
    NothingBefore {
        /// The active slot.
        active: String,
    },
    /// The file system is full.
    #[error("{}: {free} bytes free, expected {needed}; remove a slot with `spotter bundle remove`", printable_path(.path))]
    Full {
        /// A folder of the file system.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The slot's content is not signed by the configured key.
    #[error(
        "slot {name:?}: {why}: expected an archive that is signed by the configured key \
         (bundles.public_key); sign it with `minisign -Sm FILE.tar` and install it again"
    )]
    Untrusted {
        /// The slot.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// The signed release is older than the newest accepted one.
    #[error(
        "{what}: {found}: expected {newest} or newer, since this board has accepted that one; \
         add --older to `install` or `activate` to use it anyway"
    )]
    Older {
        /// The archive or the slot.
        what: String,
        /// Its release.
        found: String,
        /// The newest accepted release.
        newest: String,
    },
    /// The signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The archive is damaged, malicious or too large.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive is no valid bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The demo bundle cannot be used.
    #[error(transparent)]
    Demo(#[from] DemoError),
}
