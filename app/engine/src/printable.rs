//! Escaping untrusted text for one line of a terminal or a log, and for XML.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Serialize as _, Serializer};

/// Escapes whatever could end the line, move the cursor or change the direction of text: control characters, line
/// separators and direction marks (`\n`, `\u{1b}`). Everything else stays.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_unsafe(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Escapes a path as [`printable`] does, with U+FFFD in place of bytes that are not UTF-8.
pub fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// Escapes text for XML, as in an SVG image. Control characters, which XML cannot hold, are left out.
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars().filter(|character| !character.is_control()) {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(character),
        }
    }
    out
}

/// Serialises a path or an optional path, with U+FFFD in place of bytes that are not UTF-8, which text formats cannot
/// represent. For serde's `serialize_with`.
pub fn serialize_path<S: Serializer>(path: &impl AnyPath, serializer: S) -> Result<S::Ok, S::Error> {
    path.any_path().map(Path::to_string_lossy).serialize(serializer)
}

/// A path or an optional path.
pub trait AnyPath {
    /// The path.
    fn any_path(&self) -> Option<&Path>;
}

impl AnyPath for PathBuf {
    fn any_path(&self) -> Option<&Path> {
        Some(self)
    }
}

impl AnyPath for &Path {
    fn any_path(&self) -> Option<&Path> {
        Some(self)
    }
}

impl<P: AnyPath> AnyPath for Option<P> {
    fn any_path(&self) -> Option<&Path> {
        self.as_ref().and_then(AnyPath::any_path)
    }
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn text_that_could_forge_a_line_is_escaped() {
        for (text, expected) in [
            ("", ""),
            ("a cat.jpg", "a cat.jpg"),
            ("größe 猫 👩‍👩‍👧 e\u{301}", "größe 猫 👩‍👩‍👧 e\u{301}"),
            ("back\\slash", "back\\slash"),
            ("a\nerror: b", "a\\nerror: b"),
            ("a\r\tb\0", "a\\r\\tb\\u{0}"),
            ("\x1b[2J\x07\x7f", "\\u{1b}[2J\\u{7}\\u{7f}"),
            ("c1 \u{9b}2J", "c1 \\u{9b}2J"),
            ("a\u{2028}b\u{202e}c\u{2066}d\u{200f}", "a\\u{2028}b\\u{202e}c\\u{2066}d\\u{200f}"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_path(Path::new(OsStr::from_bytes(b"caf\xe9\n.png"))), "caf\u{fffd}\\n.png");
    }
}
