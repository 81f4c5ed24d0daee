//! Names of models, as people type them.

use std::fmt;
use std::path::Path;

use spotter_engine::printable::printable;
use thiserror::Error;

/// Revision of a name without one.
const MAIN: &str = "main";

/// Longest name of a model that the hub has, in bytes.
const NAME_BYTES_MAX: usize = 96;

/// What follows `hf:` is no name.
#[derive(Debug, Error)]
#[error("hf:{}: expected OWNER/NAME or OWNER/NAME@REVISION after `hf:`", printable(.0))]
pub(crate) struct NotAName(String);

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// `owner/name`, or only a name for some old models.
    pub(super) repo: String,
    /// A branch, a tag, or a commit.
    pub(super) revision: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl Name {
    /// The name in `path`, as `owner/name` or `owner/name@revision`, or either after `hf:`. `None` if it is a path: one that
    /// exists, or something that is no name.
    ///
    /// # Errors
    /// What stands after `hf:` is no name.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, NotAName> {
        let Some(text) = path.to_str() else { return Ok(None) };
        if let Some(name) = text.strip_prefix("hf:") {
            return match Self::parse(name) {
                Some(name) => Ok(Some(name)),
                None => Err(NotAName(name.to_owned())),
            };
        }
        let is_path = std::fs::symlink_metadata(path).is_ok();
        Ok(Self::parse(text).filter(|name| !is_path && name.repo.contains('/')))
    }

    fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let parts: Vec<&str> = repo.split('/').collect();
        let is_name = parts.len() <= 2 && repo.len() <= NAME_BYTES_MAX && parts.iter().all(|part| is_part(part));
        // It becomes the path of a file in the cache.
        let is_revision = !revision.is_empty() && revision.split('/').all(is_part);
        (is_name && is_revision).then(|| Self { repo: repo.to_owned(), revision: revision.to_owned() })
    }
}

/// Returns whether the hub accepts this as the name of an owner or a model, or as a part of a revision.
fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.starts_with(ends) && part.ends_with(ends) && part.chars().all(plain) && !part.contains("..")
}
