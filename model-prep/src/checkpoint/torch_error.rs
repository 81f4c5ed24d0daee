//! Why a file that looks like one of `torch.save` was refused, before its path is known.

use super::pickle::PickleError;

/// Longest name out of a file that a message shows, in characters.
pub(crate) const NAME_CHARS_MAX: usize = 120;

/// Why a file was refused.
pub(crate) enum TorchError {
    Io(std::io::Error),
    Pickle(PickleError),
    Broken(String),
}

impl From<std::io::Error> for TorchError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<PickleError> for TorchError {
    fn from(error: PickleError) -> Self {
        Self::Pickle(error)
    }
}

/// Quotes text out of the file for a message, shortened and with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(NAME_CHARS_MAX).collect::<String>())
}
