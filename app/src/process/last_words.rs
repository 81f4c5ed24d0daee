//! What a program wrote to its standard error at last, for one line.

use spotter_engine::printable::printable;

/// Bytes that are kept.
const BYTES: usize = 600;

/// The end of a program's standard error.
#[derive(Debug, Default)]
pub(crate) struct LastWords(Vec<u8>);

impl LastWords {
    /// Adds what the program wrote, and forgets what was long before.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let past = self.0.len().saturating_sub(BYTES);
        self.0.drain(..past);
    }

    /// The last lines, joined to one, after a colon; empty if there are none.
    pub(crate) fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        // A carriage return rewrites a line, as progress does.
        let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<_> = lines.map(printable).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }
}
