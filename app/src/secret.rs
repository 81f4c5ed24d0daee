//! Passwords and tokens, which are read from files and never appear in a message.

use std::fmt;
use std::path::{Path, PathBuf};

use spotter_engine::files;

/// Largest file of a token or password.
const BYTES_MAX: u64 = 4096;

/// The first line of a file, which never appears in a message.
///
/// # Errors
/// The file cannot be read, or holds something else than one line.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = files::read(path, BYTES_MAX).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: not UTF-8 text"))?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(format!("{shown}: expected one line with the token or password"));
    }
    Ok(line.to_owned())
}

/// A user and the file of the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The file, which is read whenever the password is needed.
    pub password_file: PathBuf,
}

/// A user and the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    /// Reads the password.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else than one line.
    pub(crate) fn read(&self) -> Result<Credentials, String> {
        Ok(Credentials { user: self.user.clone(), password: read(&self.password_file)? })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
