//! Why a model could not be had by its name.

use std::io;
use std::path::{Path, PathBuf};

use spotter_engine::printable::{printable, printable_path};
use thiserror::Error;

use super::name::{Name, NotAName};
use crate::checkpoint::CheckpointError;

/// Why a model could not be had by its name.
#[derive(Debug, Error)]
pub(crate) enum HubError {
    /// What follows `hf:` is no name.
    #[error(transparent)]
    NotAName(#[from] NotAName),
    /// A variable of the environment cannot be used.
    #[error("{key}: expected {expected}, found `{}`", printable(.found))]
    Setting { key: &'static str, expected: &'static str, found: String },
    /// Nothing may be downloaded, and the cache does not have it.
    #[error(
        "{name}: not in the cache, {}, and HF_HUB_OFFLINE forbids downloads: unset it, or copy the model's folder there",
        printable_path(.cache)
    )]
    Offline { name: Name, cache: PathBuf },
    /// The hub has no such model, or shows it only to some.
    #[error(
        "{name}: there is no such folder here, and {host} has no such model, or it is private: check the name; for a private \
         model set HF_TOKEN to a token of an account that may read it{}",
        if *.has_token { " (the one that is set may not)" } else { "" }
    )]
    NoModel { name: Name, host: String, has_token: bool },
    /// The model has no such branch, tag or commit.
    #[error("{}: the model has no branch, tag or commit `{}`", .name.repo, .name.revision)]
    NoRevision { name: Name },
    /// The model is only given to those who accept its conditions.
    #[error(
        "{name} is gated: accept its conditions at {address}, then set HF_TOKEN to a token of that account{}",
        if *.has_token { " (the account of the one that is set has not been given access)" } else { "" }
    )]
    Gated { name: Name, address: String, has_token: bool },
    /// The token is not known.
    #[error(
        "{host} does not accept the token: make a new one, and set HF_TOKEN to it, or unset HF_TOKEN for public models"
    )]
    BadToken { host: String },
    /// The hub, or where it keeps its files, cannot be reached.
    #[error("{host} cannot be reached: {why}; check the network, the proxy (HTTPS_PROXY), or HF_ENDPOINT")]
    Unreachable { host: String, why: String },
    /// The hub asks to wait, again and again.
    #[error(
        "{host} has had too many requests from this address: wait some minutes, or set HF_TOKEN, which allows more"
    )]
    TooMany { host: String },
    /// Any other answer.
    #[error("{host}: expected {expected}, found {found}")]
    Answer { host: String, expected: String, found: String },
    /// A download was cut again and again.
    #[error(
        "{path}: the connection to {host} broke {count} times in a row ({why}); run it again, and it goes on from there"
    )]
    Cut { path: String, host: String, count: u32, why: String },
    /// What came is not what the hub announced.
    #[error("{path}: expected {expected}, found {found}: the download was damaged, and is removed; run it again")]
    Damaged { path: String, expected: String, found: String },
    /// The model has no file that is needed.
    #[error("{name}{}: {found}", if .folder.is_empty() { String::new() } else { format!(", in {}", printable(.folder)) })]
    NoFiles { name: Name, folder: String, found: String },
    /// A subfolder that is no folder of a model.
    #[error("--subfolder: expected a folder of the model, such as `text_encoder`, found `{}`", printable_path(.found))]
    Subfolder { found: PathBuf },
    /// The index of the shards is not one.
    #[error("the index of the weights' shards")]
    Index { source: Box<CheckpointError> },
    /// The disk has no room.
    #[error(
        "{}: {needed:.1} MB are to be downloaded and {free:.1} MB are free: make room, or set HF_HUB_CACHE to a folder on \
         another disk",
        printable_path(.cache)
    )]
    NoRoom { cache: PathBuf, needed: f64, free: f64 },
    /// The system has no certificates.
    #[error(
        "this system has no certificates to check the hub by: install them (`apt install ca-certificates`), or name a file of \
         them in SSL_CERT_FILE"
    )]
    NoCertificates,
    /// A file of certificates has none.
    #[error("{}: expected certificates (`BEGIN CERTIFICATE`), found none", printable_path(.path))]
    BadCertificates { path: PathBuf },
    /// A file of the cache cannot be read or written.
    #[error("{}", printable_path(.path))]
    File { path: PathBuf, source: io::Error },
}

impl HubError {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// Returns whether the hub could not be asked at all.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
