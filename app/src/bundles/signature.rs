//! minisign signatures of archives: `FILE.tar.minisig` beside `FILE.tar`, as `minisign -S` writes it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};
use spotter_engine::bundle::{Archive, BundleError};
use spotter_engine::files;
use spotter_engine::printable::printable_path;

use super::release::Release;

/// Largest signature file: four lines, two of them comments.
const SIGNATURE_BYTES_MAX: u64 = 16 << 10;

/// Why an archive is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature, and the configuration requires one.
    #[error(
        "{}: not signed: expected its signature in {}; sign it with `minisign -Sm`, since the configuration names a \
         public key (bundles.public_key)", printable_path(.path), printable_path(.signature)
    )]
    Missing {
        /// The archive.
        path: PathBuf,
        /// Expected path of the signature.
        signature: PathBuf,
    },
    /// The signature was made with another key.
    #[error(
        "{}: made by another key: expected a signature of the archive by the key that the configuration names",
        printable_path(.path)
    )]
    OtherKey {
        /// The signature file.
        path: PathBuf,
    },
    /// The signature is invalid, or of another file.
    #[error(
        "{}: {why}: expected a signature of the archive by the key that the configuration names", printable_path(.path)
    )]
    Wrong {
        /// The signature file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A file could not be read.
    #[error("{}: cannot be read", printable_path(.path))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The archive could not be read.
    #[error(transparent)]
    Archive(#[from] BundleError),
}

/// Content of a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The signer's comment.
    pub(crate) trusted_comment: String,
    /// The release that the comment names, if any.
    pub(crate) release: Option<Release>,
}

/// A signature that is not trusted before [`Self::check`].
pub(super) struct SignatureFile {
    path: PathBuf,
    /// Content of the file.
    pub(super) text: String,
    signature: Signature,
}

impl SignatureFile {
    /// Reads the signature beside an archive.
    pub(super) fn beside(archive: &Path) -> Result<Self, SignatureError> {
        let path = signature_path(archive);
        let bytes = match files::read_contained(&path, SIGNATURE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SignatureError::Missing { path: archive.to_owned(), signature: path });
            }
            Err(source) => return Err(SignatureError::Io { path, source }),
        };
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(SignatureError::Wrong { path, why: "not a minisign signature".to_owned() });
        };
        match Signature::decode(&text) {
            Ok(signature) => Ok(Self { path, text, signature }),
            Err(error) => Err(SignatureError::Wrong { path, why: error.to_string() }),
        }
    }

    /// Checks that `key` signed every byte of `file`. `archive` names the file in messages.
    ///
    /// Nothing in the archive is parsed before; later reads are compared with the signed bytes.
    pub(super) fn check(
        &self,
        archive: &Path,
        file: File,
        key: &PublicKey,
    ) -> Result<(Archive, Signed), SignatureError> {
        let wrong = |error: minisign_verify::Error| match error {
            minisign_verify::Error::UnexpectedKeyId => SignatureError::OtherKey { path: self.path.clone() },
            error => SignatureError::Wrong { path: self.path.clone(), why: error.to_string() },
        };
        // Legacy signatures, over the file instead of its hash, would need the whole file in memory and are refused.
        let mut verifier = key.verify_stream(&self.signature).map_err(wrong)?;
        let archive = Archive::read(archive, file, |piece| verifier.update(piece))?;
        verifier.finalize().map_err(wrong)?;
        let trusted_comment = self.signature.trusted_comment().trim().to_owned();
        let release = Release::of(&trusted_comment);
        Ok((archive, Signed { trusted_comment, release }))
    }
}

/// Path of an archive's signature.
pub(crate) fn signature_path(archive: &Path) -> PathBuf {
    let mut name = OsString::from(archive);
    name.push(".minisig");
    name.into()
}
