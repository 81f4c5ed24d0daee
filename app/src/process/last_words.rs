//! What a program wrote to its standard error at last, for one line.

use spotter_engine::printable::printable;

/// Bytes that are kept.
const BYTES: usize = 600;

/// The end of a program's standard error.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    bytes: Vec<u8>,
    /// Something before them is forgotten, so that the first word is not whole.
    is_cut: bool,
}

impl LastWords {
    /// Adds what the program wrote, and forgets what was long before.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let past = self.bytes.len().saturating_sub(BYTES);
        self.bytes.drain(..past);
        self.is_cut |= past > 0;
    }

    /// The last lines, joined to one, after a colon; empty if there are none.
    pub(crate) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        // Half a word may be half an address, whose password would not be recognised as one.
        let start = if self.is_cut { text.find(char::is_whitespace).unwrap_or(text.len()) } else { 0 };
        let text = &text[start..];
        // A carriage return rewrites a line, as progress does.
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<_> = lines.map(printable).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_of_the_end_are_kept() {
        let mut words = LastWords::default();
        assert_eq!(words.line(), "");
        words.add(b"one\n two\r");
        assert_eq!(words.line(), ": one; two");
        words.add(&[&b"x".repeat(BYTES)[..], b"assword@camera the end\n"].concat());
        assert_eq!(words.line(), ": the end");
        words.add(&b"y".repeat(2 * BYTES));
        assert_eq!(words.line(), "");
    }
}
