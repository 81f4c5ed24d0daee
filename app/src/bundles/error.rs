//! Why a slot could not be made, opened, chosen or removed.

use std::io;
use std::path::PathBuf;

use spotter_engine::bundle::BundleError;
use spotter_engine::printable::printable_path;

use super::archive::ArchiveError;
use super::signature::SignatureError;
use super::state::BUILT_IN;
use crate::bundles::demo::DemoError;

/// Longest name of a slot: it stands in tables and in messages.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Why a slot could not be made, opened, chosen or removed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file could not be read or written.
    #[error("{}: {action}", printable_path(.path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else changes the slots, or keeps others from it.
    #[error(
        "{}: held by another program for {seconds} s: expected it to be free within a moment; wait for the other \
         `spotter bundle`, or see who has it open (`fuser -v {}`)", printable_path(.path), printable_path(.path)
    )]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The file that says which slot is active is not one.
    #[error(
        "{}: expected the state of the bundles, found something else; remove the file and activate a bundle again",
        printable_path(.path)
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
    #[error("{}: {free} bytes free, expected {needed}; remove a slot with `spotter bundle remove`", printable_path(.path))]
    Full {
        /// A folder of the file system.
        path: PathBuf,
        /// Bytes wanted.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// What is in the slot is not what the key signed.
    #[error(
        "slot {name:?}: {why}: expected an archive that is signed by the key that the configuration names \
         (bundles.public_key); sign it with `minisign -Sm FILE.tar` and install it again"
    )]
    Untrusted {
        /// The slot.
        name: String,
        /// What was found.
        why: &'static str,
    },
    /// The signature is that of a release before the newest that was taken.
    #[error(
        "{what}: {found}: expected {newest} or newer, which this board has taken already; \
         add --older to `install` or `activate` to go back to it all the same"
    )]
    Older {
        /// The archive or the slot.
        what: String,
        /// The release that was found.
        found: String,
        /// The newest one.
        newest: String,
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
