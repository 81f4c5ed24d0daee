//! minisign signatures of archives: `FILE.tar.minisig` beside `FILE.tar`, as `minisign -S` writes it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};
use sha2::{Digest as _, Sha256};

use super::archive::hex;
use crate::store;

/// A signature has four lines, the comments of which are free.
const SIGNATURE_BYTES_MAX: u64 = 16 << 10;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Why an archive is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature, and the configuration wants one.
    #[error(
        "{}: not signed: expected its signature in {}; sign it with `minisign -Sm`, since the configuration names a \
         public key (bundles.public_key)", .path.display(), .signature.display()
    )]
    Missing {
        /// The archive.
        path: PathBuf,
        /// Where the signature was looked for.
        signature: PathBuf,
    },
    /// The signature is not of the configured key, or of another file.
    #[error("{}: {why}: expected a signature of the archive by the key that the configuration names", .path.display())]
    Wrong {
        /// The signature's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file could not be read.
    #[error("{}: cannot be read", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive was written to between the two times it was read.
    #[error("{}: was changed while it was read; install it again", .path.display())]
    Changed {
        /// The archive.
        path: PathBuf,
    },
}

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    /// SHA-256 of the archive's bytes.
    pub(super) sha256: String,
    /// What the signer says of them.
    pub(super) trusted_comment: String,
}

/// Checks that `key` signed the archive, and leaves `file` at its start.
pub(super) fn check(archive: &Path, file: &mut File, key: &PublicKey) -> Result<Signed, SignatureError> {
    let path = signature_path(archive);
    let wrong = |why: String| SignatureError::Wrong { path: path.clone(), why };
    let bytes = store::read_bounded(&path, SIGNATURE_BYTES_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SignatureError::Missing { path: archive.to_owned(), signature: path.clone() },
        _ => SignatureError::Io { path: path.clone(), source },
    })?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("not a minisign signature".to_owned()))?;
    let signature = Signature::decode(&text).map_err(|error| wrong(error.to_string()))?;
    // Signatures of the old kind, over the file instead of its hash, would need the whole file in memory.
    let mut verifier = key.verify_stream(&signature).map_err(|error| wrong(error.to_string()))?;
    let io = |source| SignatureError::Io { path: archive.to_owned(), source };
    let (mut piece, mut hash) = (vec![0; PIECE_BYTES], Sha256::new());
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                verifier.update(&piece[..count]);
                hash.update(&piece[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
    verifier.finalize().map_err(|error| wrong(error.to_string()))?;
    file.rewind().map_err(io)?;
    Ok(Signed { sha256: hex(&hash.finalize()), trusted_comment: signature.trusted_comment().trim().to_owned() })
}

/// Where the signature of an archive lies.
pub(super) fn signature_path(archive: &Path) -> PathBuf {
    let mut name = OsString::from(archive);
    name.push(".minisig");
    name.into()
}
