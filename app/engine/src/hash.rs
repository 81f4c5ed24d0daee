//! SHA-256, and bytes as hexadecimal digits.

use std::io::{self, ErrorKind, Read};

use sha2::{Digest as _, Sha256};

/// Bytes that are read at a time: few enough for a cache, many enough for system calls not to matter.
const CHUNK_BYTES: usize = 256 << 10;

/// SHA-256 of bytes that arrive in chunks.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes);
    }

    /// Adds everything that `reader` has left and returns how many bytes that was. Never holds more than 256 KiB.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn update_from(&mut self, reader: &mut impl Read) -> io::Result<u64> {
        let (mut chunk, mut total) = (vec![0; CHUNK_BYTES], 0);
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(total),
                Ok(count) => {
                    self.update(&chunk[..count]);
                    total += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The hash.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The hash in lower-case hexadecimal.
    pub fn finish_hex(self) -> String {
        hex(&self.finish())
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Bytes as lower-case hexadecimal digits, two per byte.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' + value - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Parses `2 * N` hexadecimal digits of either case; `None` for any other text.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc": FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn bytes_have_two_digits_each() {
        for (bytes, expected) in [(&b""[..], ""), (b"\0", "00"), (b"\x0f\xa0\xff", "0fa0ff")] {
            assert_eq!(hex(bytes), expected);
        }
    }

    #[test]
    fn digits_are_parsed_or_refused() {
        for (text, expected) in [
            ("0fA0", Some([0x0f, 0xa0])),
            ("ffff", Some([0xff, 0xff])),
            ("", None),
            ("fff", None),
            ("fffff", None),
            ("ffffff", None),
            ("+fff", None),
            ("ff g", None),
            ("\u{ff10}f", None),
        ] {
            assert_eq!(parse_hex::<2>(text), expected, "{text:?}");
        }
    }

    #[test]
    fn chunks_hash_as_the_whole() {
        assert_eq!(hex(&sha256(b"abc")), ABC);
        let mut hasher = Hasher::new();
        hasher.update("a");
        assert_eq!(hasher.update_from(&mut &b"bc"[..]).expect("reads from memory"), 2);
        assert_eq!(hasher.finish_hex(), ABC);
    }
}
