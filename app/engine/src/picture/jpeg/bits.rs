//! Reads the bytes of a JPEG: markers, segments, and the bits of entropy-coded data.

use super::marker::{FILL, STUFFED};

/// Reads markers, segments and bits.
///
/// The bits end at a marker. Zeros follow, and [`Reader::is_exhausted`] tells whether one of those was used.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, the first one highest.
    buffer: u64,
    /// Number of valid bits in `buffer`.
    bits: u32,
    /// How many of these bits, at the end, are zeros after the end of the data.
    padding: u32,
    /// A marker that was found but not consumed.
    marker: Option<u8>,
    /// True if the bytes ended where a marker was expected.
    is_truncated: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, buffer: 0, bits: 0, padding: 0, marker: None, is_truncated: false }
    }

    /// The next marker; bytes before it are skipped. `None` at the end of the bytes.
    pub(super) fn next_marker(&mut self) -> Option<u8> {
        if let Some(marker) = self.marker.take() {
            return Some(marker);
        }
        loop {
            self.at += self.bytes.get(self.at..)?.iter().position(|&byte| byte == FILL)?;
            self.at += self.bytes[self.at..].iter().position(|&byte| byte != FILL)?;
            let code = self.bytes[self.at];
            self.at += 1;
            if code != STUFFED {
                return Some(code);
            }
        }
    }

    /// The next marker, without consuming it.
    pub(super) fn peek_marker(&mut self) -> Option<u8> {
        self.marker = self.next_marker();
        self.marker
    }

    /// The content of a marker's segment. `None` if the bytes end before it does. A length below 2 gives an empty
    /// segment.
    pub(super) fn segment(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes.get(self.at..self.at + 2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
        let segment = self.bytes.get(self.at + 2..self.at + length)?;
        self.at += length;
        Some(segment)
    }

    /// Discards unread bits, as before each restart interval.
    pub(super) fn align(&mut self) {
        (self.buffer, self.bits, self.padding) = (0, 0, 0);
    }

    /// True if more bits were read than there are before the next marker.
    pub(super) fn is_exhausted(&self) -> bool {
        self.padding > self.bits
    }

    /// True if the bytes ended within entropy-coded data.
    pub(super) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Makes at least 32 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.bits < 32 {
            self.refill_word();
        }
    }

    #[inline(always)]
    fn refill_word(&mut self) {
        if let Some(word) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            let word = u64::from_be_bytes(*word);
            let without_high_bits = (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if without_high_bits == 0 && self.marker.is_none() {
                // No byte is 0xff. Bits beyond the last whole byte are inserted too; the next refill inserts the same
                // bits again.
                self.buffer |= word >> self.bits;
                let taken = (63 - self.bits) / 8;
                self.at += taken as usize;
                self.bits += taken * 8;
                return;
            }
        }
        self.refill_bytes();
    }

    /// Refills byte by byte: skips stuffed zeros and stops at a marker.
    #[cold]
    #[inline(never)]
    fn refill_bytes(&mut self) {
        while self.bits <= 56 {
            let byte = if self.marker.is_some() || self.is_truncated { None } else { self.data_byte() };
            if byte.is_none() {
                self.padding += 8;
            }
            self.buffer |= u64::from(byte.unwrap_or(0)) << (56 - self.bits);
            self.bits += 8;
        }
        self.padding = self.padding.min(1 << 16);
    }

    /// The next byte of entropy-coded data.
    fn data_byte(&mut self) -> Option<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest {
            [FILL, ..] => {
                let Some(fill) = rest.iter().position(|&byte| byte != FILL) else {
                    self.is_truncated = true;
                    return None;
                };
                self.at += fill + 1;
                if rest[fill] == STUFFED {
                    return Some(0xff);
                }
                self.marker = Some(rest[fill]);
                None
            }
            [byte, ..] => {
                self.at += 1;
                Some(*byte)
            }
            [] => {
                self.is_truncated = true;
                None
            }
        }
    }

    /// The next `count` bits, 1 to 16, without consuming them.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> u32 {
        (self.buffer >> (64 - count)) as u32
    }

    /// Skips `count` available bits.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.bits -= count;
    }

    /// Consumes `count` available bits, 0 to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> i32 {
        let value = (self.buffer >> 1 >> (63 - count)) as i32;
        self.skip(count);
        value
    }

    /// Consumes one bit; refills if necessary.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        self.refill();
        self.take(1) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_end_at_a_marker_and_zeros_follow() {
        let bytes = [0xa5, 0xff, 0x00, 0x0f, 0xff, 0xff, 0xd9, 0x77];
        let mut reader = Reader::new(&bytes);
        let take = |reader: &mut Reader<'_>, count| {
            reader.refill();
            reader.take(count)
        };
        assert_eq!(take(&mut reader, 4), 0xa);
        assert_eq!(take(&mut reader, 12), 0x5ff);
        assert_eq!(take(&mut reader, 0), 0);
        assert_eq!(take(&mut reader, 8), 0x0f);
        assert!(!reader.is_exhausted());
        for _ in 0..100 {
            assert_eq!(take(&mut reader, 16), 0);
        }
        assert!(reader.is_exhausted() && !reader.is_truncated());
        reader.align();
        assert!(!reader.is_exhausted());
        assert_eq!(reader.peek_marker(), Some(0xd9));
        assert_eq!(reader.next_marker(), Some(0xd9));
        assert_eq!(reader.next_marker(), None);
    }

    #[test]
    fn words_and_bytes_give_the_same_bits() {
        let bytes: Vec<u8> = (0..200_u32).map(|at| (at * 37 % 251) as u8).collect();
        let mut reader = Reader::new(&bytes);
        for (at, byte) in bytes.iter().enumerate() {
            reader.refill();
            assert_eq!(reader.take(3), i32::from(byte >> 5), "{at}");
            reader.refill();
            assert_eq!(reader.take(5), i32::from(byte & 31), "{at}");
        }
        assert!(!reader.is_exhausted());
        assert_eq!(reader.take(1), 0);
    }

    #[test]
    fn segments_end_within_the_bytes() {
        let check = |bytes: &[u8], expected: Option<&[u8]>| assert_eq!(Reader::new(bytes).segment(), expected);
        check(b"\x00\x04ab!", Some(b"ab"));
        check(b"\x00\x04a", None);
        check(b"\x00", None);
        check(b"\x00\x00", Some(b""));
    }
}
