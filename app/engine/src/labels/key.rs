//! Keys of cached values: hashes of what determines them.

use std::fmt;

use crate::bundle::Manifest;
use crate::hash::{Hasher, hex, parse_hex};

/// SHA-256 over the inputs of a cached value. For an embedding these are text tower, tokenizer, template and prompt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of one sentence under a bundle's text tower. For many sentences, `SentenceKeys` hashes the bundle's
    /// part once.
    pub fn new(manifest: &Manifest, template: &str, prompt: &str) -> Self {
        SentenceKeys::new(manifest).key(template, prompt)
    }

    /// The key of a value that a bundle's tokenizer and `parts` determine.
    pub fn of_tokenizer(manifest: &Manifest, parts: &[&str]) -> Self {
        let tokenizer = tokenizer(manifest);
        Self::of(&[&[tokenizer.as_str()][..], parts].concat())
    }

    /// The key of a value that `parts` determine.
    pub fn of(parts: &[&str]) -> Self {
        let mut hasher = Hasher::new();
        add_parts(&mut hasher, parts);
        Self(hasher.finish())
    }

    pub(super) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the keys of a bundle's sentences.
#[derive(Debug)]
pub(super) struct SentenceKeys(Hasher);

impl SentenceKeys {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut hasher = Hasher::new();
        add_parts(&mut hasher, &[&manifest.text.file.sha256, &tokenizer(manifest)]);
        Self(hasher)
    }

    pub(super) fn key(&self, template: &str, prompt: &str) -> Key {
        let mut hasher = self.0.clone();
        add_parts(&mut hasher, &[template, prompt]);
        Key(hasher.finish())
    }
}

/// Each part is preceded by its length, so that no two lists of parts have the same bytes.
fn add_parts(hasher: &mut Hasher, parts: &[&str]) {
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
}

/// Names a bundle's tokenizer with all its settings: length limit, padding and further steps change token ids too, though
/// the file stays the same.
fn tokenizer(manifest: &Manifest) -> String {
    serde_json::to_string(&manifest.tokenizer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bundle::tests::manifest;

    #[test]
    fn keys_name_the_tokenizer_and_every_part() {
        let base = manifest(8);
        let mut longer = base.clone();
        longer.tokenizer.max_length += 1;
        let mut padded = base.clone();
        padded.tokenizer.pad_id += 1;
        let mut tower = base.clone();
        tower.text.file.sha256 = "1".repeat(64);
        let mut tokenizer = base.clone();
        tokenizer.tokenizer.file.sha256 = "2".repeat(64);
        let keys = BTreeSet::from([
            Key::of_tokenizer(&base, &["1", "labels"]),
            Key::of_tokenizer(&longer, &["1", "labels"]),
            Key::of_tokenizer(&padded, &["1", "labels"]),
            Key::of_tokenizer(&base, &["1labels"]),
            Key::of_tokenizer(&base, &["2", "labels"]),
            Key::new(&base, "1", "labels"),
            Key::new(&longer, "1", "labels"),
            Key::new(&padded, "1", "labels"),
            Key::new(&tower, "1", "labels"),
            Key::new(&tokenizer, "1", "labels"),
            Key::new(&base, "1l", "abels"),
            Key::new(&base, "1", "Labels"),
        ]);
        assert_eq!(keys.len(), 12);
        assert!(keys.contains(&Key::of_tokenizer(&manifest(8), &["1", "labels"])));
    }

    #[test]
    fn a_sentence_key_is_the_hash_of_all_parts() {
        let base = manifest(8);
        let parts = [base.text.file.sha256.as_str(), &tokenizer(&base), "a {}.", "cat"];
        assert_eq!(Key::new(&base, "a {}.", "cat"), Key::of(&parts));
        assert_eq!(Key::parse(&Key::of(&parts).to_string()), Some(Key::of(&parts)));
        assert_eq!(Key::parse("00"), None);
    }
}
