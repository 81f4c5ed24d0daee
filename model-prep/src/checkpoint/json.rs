//! Typed reading of JSON objects with optional keys. Errors name the file and the key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::bounded;
use super::error::CheckpointError;

/// Size limit of a JSON file in bytes: an index of 100 000 tensors fits. Parsed, it takes ten times as much memory.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Above all widths, lengths and counts of real models, and low enough that the product of any three fits in 64 bits.
const COUNT_MAX: u64 = 1 << 21;

/// An object of a JSON file, with the keys that lead to it.
#[derive(Debug)]
pub(crate) struct Object {
    path: PathBuf,
    /// The keys that lead here, each followed by a dot.
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Parses a file whose top level is an object.
    pub(crate) fn read(path: &Path) -> Result<Self, CheckpointError> {
        Self::parse(path, &bounded::read_at_most(path, JSON_BYTES_MAX)?)
    }

    /// Parses the content of the file `path`.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { path: path.to_owned(), prefix: String::new(), map }),
            Ok(other) => Err(CheckpointError::Key {
                path: path.to_owned(),
                key: "top level".into(),
                expected: "an object".into(),
                found: shown(&other),
            }),
            Err(source) => Err(CheckpointError::Json { path: path.to_owned(), source }),
        }
    }

    /// Parses the file `path`, or returns an object without keys if it does not exist.
    pub(crate) fn read_or_empty(path: &Path) -> Result<Self, CheckpointError> {
        match bounded::read_optional(path)? {
            Some(bytes) => Self::parse(path, &bytes),
            None => Ok(Self { path: path.to_owned(), prefix: String::new(), map: Map::new() }),
        }
    }

    /// The object under `key`, which must be there.
    pub(crate) fn object(&self, key: &str) -> Result<Self, CheckpointError> {
        match self.map.get(key) {
            Some(Value::Object(map)) => {
                Ok(Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), map: map.clone() })
            }
            other => Err(self.wrong(key, "an object", other)),
        }
    }

    /// The object under `key`, or an object without keys if it is absent.
    pub(crate) fn object_or_empty(&self, key: &str) -> Result<Self, CheckpointError> {
        if self.get(key).is_some() {
            return self.object(key);
        }
        Ok(Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), map: Map::new() })
    }

    /// Sets `key` to `value` if it is absent.
    pub(crate) fn with_default(mut self, key: &str, value: &str) -> Self {
        if self.get(key).is_none() {
            self.map.insert(key.to_owned(), value.into());
        }
        self
    }

    /// The value under `key`; `null` counts as absent, as in transformers.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The underlying map.
    pub(crate) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// All keys with their values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.map.iter()
    }

    /// A whole number from 1 to [`COUNT_MAX`].
    pub(crate) fn count(&self, key: &str, default: usize) -> Result<usize, CheckpointError> {
        self.or(key, default, COUNT, count)
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, CheckpointError> {
        self.or(key, default, "a number", Value::as_f64)
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, CheckpointError> {
        self.or(key, default, "true or false", Value::as_bool)
    }

    /// A string.
    pub(crate) fn text(&self, key: &str, default: &str) -> Result<String, CheckpointError> {
        self.or(key, default.to_owned(), "a string", |v| v.as_str().map(str::to_owned))
    }

    /// The parsed value, or `default` if the key is absent; an error if `parse` returns `None`.
    pub(crate) fn or<T>(
        &self,
        key: &str,
        default: T,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, CheckpointError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => parse(value).ok_or_else(|| self.wrong(key, expected, Some(value))),
        }
    }

    /// The error for a wrong value of `key`.
    pub(crate) fn wrong(&self, key: &str, expected: &str, found: Option<&Value>) -> CheckpointError {
        self.wrong_shown(key, expected, found.map_or_else(|| "nothing".to_owned(), shown))
    }

    /// The error for a wrong value of `key`, with the value described by `found`.
    pub(crate) fn wrong_shown(&self, key: &str, expected: &str, found: String) -> CheckpointError {
        let (path, key) = (self.path.clone(), format!("{}{key}", self.prefix));
        CheckpointError::Key { path, key, expected: expected.to_owned(), found }
    }

    /// The error for a value of `key` that is not supported.
    pub(crate) fn unsupported(&self, key: &str, found: impl ToString, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Unsupported {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            found: found.to_string(),
            reason: reason.into(),
        }
    }
}

/// Describes the values that [`count`] accepts.
pub(crate) const COUNT: &str = "a whole number from 1 to 2097152";

/// A whole number from 1 to [`COUNT_MAX`].
pub(crate) fn count(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| (1..=COUNT_MAX).contains(n)).and_then(|n| usize::try_from(n).ok())
}

/// Formats a value for a message, shortened to one line.
fn shown(value: &Value) -> String {
    // Long enough for any scalar of a configuration.
    const CHARS_MAX: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= CHARS_MAX {
        return text;
    }
    text.chars().take(CHARS_MAX).chain("...".chars()).collect()
}
