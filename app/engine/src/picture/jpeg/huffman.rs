//! Huffman tables of JPEG: ITU-T T.81, annexes C and F.2.2.3.

use super::bits::Reader;
use super::marker::DHT;
use super::{JpegError, Problem};

/// Codes up to this length take one table look-up.
const LOOKUP_BITS: u32 = 9;

/// A table as it is defined in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Definition {
    /// Number of codes of each length, 1 to 16.
    counts: [u8; 16],
    /// The symbols by code length; zero after the last one.
    symbols: [u8; 256],
}

/// A table prepared for decoding.
#[derive(Debug)]
pub(super) struct Table {
    definition: Definition,
    /// Indexed by the next [`LOOKUP_BITS`] bits: code length in the low byte, symbol above it. If the value after the
    /// code lies in the same bits, it is in the high half, and the length includes it. 0 for longer codes.
    lookup: [u32; 1 << LOOKUP_BITS],
    /// By length: one more than the largest code, left-aligned to 16 bits; 0 if there is none.
    limits: [u32; 17],
    /// By length: the difference of a symbol's index and its code.
    offsets: [i32; 17],
    /// True if the current file defines this table.
    pub(super) is_defined: bool,
    /// True if the codes fit their lengths; reported only if the table is used.
    is_valid: bool,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            definition: Definition { counts: [0; 16], symbols: [0; 256] },
            lookup: [0; 1 << LOOKUP_BITS],
            limits: [0; 17],
            offsets: [0; 17],
            is_defined: false,
            is_valid: true,
        }
    }
}

impl Table {
    /// Reads a table from a DHT segment, after its number; returns the rest of the segment.
    pub(super) fn define<'a>(&mut self, segment: &'a [u8]) -> Result<&'a [u8], JpegError> {
        let malformed = || JpegError(Problem::Segment { marker: DHT });
        let (counts, rest) = segment.split_first_chunk::<16>().ok_or_else(malformed)?;
        let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
        if total > 256 || total > rest.len() {
            return Err(malformed());
        }
        let mut definition = Definition { counts: *counts, symbols: [0; 256] };
        definition.symbols[..total].copy_from_slice(&rest[..total]);
        // Cameras send the same tables with every frame.
        if definition != self.definition {
            self.definition = definition;
            self.build();
        }
        self.is_defined = true;
        Ok(&rest[total..])
    }

    /// Builds the look-up tables from the definition.
    fn build(&mut self) {
        self.lookup.fill(0);
        self.limits.fill(0);
        self.is_valid = true;
        let (mut code, mut number) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = u32::from(self.definition.counts[length as usize - 1]);
            self.offsets[length as usize] = number as i32 - code as i32;
            for _ in 0..count {
                if length <= LOOKUP_BITS && code < 1 << length {
                    let symbol = self.definition.symbols[number];
                    let first = code << (LOOKUP_BITS - length);
                    for bits in first..first + (1 << (LOOKUP_BITS - length)) {
                        self.lookup[bits as usize] = entry(bits, length, symbol);
                    }
                }
                code += 1;
                number += 1;
            }
            // A code of only ones is not allowed.
            self.is_valid &= count == 0 || code < 1 << length;
            self.limits[length as usize] = if count == 0 { 0 } else { (code << (16 - length)).min(1 << 16) };
            code <<= 1;
        }
    }

    /// Refuses a missing or invalid table.
    pub(super) fn check(&self, number: usize, is_dc: bool) -> Result<(), JpegError> {
        let total = self.definition.counts.iter().map(|&count| usize::from(count)).sum::<usize>();
        let is_too_long = is_dc && self.definition.symbols[..total].iter().any(|&size| size > 15);
        match () {
            () if !self.is_defined => Err(JpegError(Problem::NoHuffmanTable { number })),
            () if !self.is_valid || is_too_long => Err(JpegError(Problem::HuffmanTable { number })),
            () => Ok(()),
        }
    }

    /// Decodes a symbol. Also returns the value of as many bits as its low half says, if the look-up has it, else 0.
    #[inline(always)]
    pub(super) fn symbol(&self, reader: &mut Reader<'_>) -> (u32, i32) {
        reader.refill();
        let entry = self.lookup[reader.peek(LOOKUP_BITS) as usize];
        if entry == 0 {
            return (self.long_symbol(reader), 0);
        }
        reader.skip(entry & 0xff);
        (entry >> 8 & 0xff, entry as i32 >> 16)
    }

    /// Decodes a symbol without the value that follows it.
    #[inline(always)]
    pub(super) fn bare_symbol(&self, reader: &mut Reader<'_>) -> u32 {
        reader.refill();
        let entry = self.lookup[reader.peek(LOOKUP_BITS) as usize];
        if entry == 0 {
            return self.long_symbol(reader);
        }
        let has_value = entry >> 16 != 0;
        let value_bits = if has_value { entry >> 8 & 15 } else { 0 };
        reader.skip((entry & 0xff) - value_bits);
        entry >> 8 & 0xff
    }

    /// Decodes a code that is longer than the look-up. An unassigned code takes 17 bits and means 0, as in libjpeg.
    #[cold]
    fn long_symbol(&self, reader: &mut Reader<'_>) -> u32 {
        let bits = reader.peek(16);
        let length = (1..=16).find(|&length| bits < self.limits[length as usize]);
        let Some(length) = length else {
            reader.skip(17);
            return 0;
        };
        reader.skip(length);
        let number = (bits >> (16 - length)) as i32 + self.offsets[length as usize];
        self.definition.symbols.get(number as usize).copied().map_or(0, u32::from)
    }
}

/// The entry of the look-up for bits that start with a code of this length.
fn entry(bits: u32, length: u32, symbol: u8) -> u32 {
    let size = u32::from(symbol & 15);
    let plain = u32::from(symbol) << 8 | length;
    if size == 0 || length + size > LOOKUP_BITS {
        return plain;
    }
    let value = bits >> (LOOKUP_BITS - length - size) & ((1 << size) - 1);
    (extend(value as i32, size) as u32) << 16 | (plain + size)
}

/// Sign-extends a value of `size` bits, 1 to 15: T.81, figure F.12.
#[inline(always)]
pub(super) fn extend(value: i32, size: u32) -> i32 {
    if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
}

/// The four typical tables of T.81, annex K.3, as in DHT segments: class and number, counts, symbols.
pub(super) const STANDARD: [&[u8]; 4] = {
    let (luma_dc, rest) = STANDARD_SEGMENT.split_at(29);
    let (luma_ac, rest) = rest.split_at(179);
    let (chroma_dc, chroma_ac) = rest.split_at(29);
    [luma_dc, luma_ac, chroma_dc, chroma_ac]
};

#[rustfmt::skip]
const STANDARD_SEGMENT: &[u8] = &[
    0x00, 0x00, 0x01, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02,
    0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x00, 0x02, 0x01, 0x03, 0x03, 0x02, 0x04, 0x03, 0x05, 0x05,
    0x04, 0x04, 0x00, 0x00, 0x01, 0x7d, 0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51,
    0x61, 0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33,
    0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63,
    0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9,
    0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2,
    0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2,
    0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0x01, 0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x11, 0x00, 0x02,
    0x01, 0x02, 0x04, 0x04, 0x03, 0x04, 0x07, 0x05, 0x04, 0x04, 0x00, 0x01, 0x02, 0x77, 0x00, 0x01, 0x02, 0x03, 0x11, 0x04,
    0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1,
    0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19,
    0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a,
    0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76,
    0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
    0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba,
    0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3,
    0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
];
