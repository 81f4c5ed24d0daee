//! LZW decompression of GIF frames (GIF 89a specification, Appendix F).

use super::{Damage, Reader};

/// Largest code width in bits; it bounds the table.
pub(super) const CODE_BITS_MAX: u32 = 12;
const CODES_MAX: usize = 1 << CODE_BITS_MAX;

/// Decompresses the data that follows into `out`: the minimum code size, then sub-blocks of codes, least significant bit
/// first.
pub(super) fn decode(reader: &mut Reader<'_>, out: &mut [u8]) -> Result<(), Damage> {
    let [index_bits] = reader.array()?;
    if u32::from(index_bits) > CODE_BITS_MAX {
        return Err(Damage::CodeSize(index_bits));
    }
    let mut table = Table::new(index_bits);
    let (mut bits, mut bit_count, mut block) = (0u32, 0u32, &[][..]);
    let (mut filled, expected) = (0, out.len());
    while filled < expected {
        while bit_count < table.code_bits {
            let Some((&byte, rest)) = block.split_first() else {
                block = reader.block()?;
                if block.is_empty() {
                    return Err(Damage::Pixels { expected, found: filled });
                }
                continue;
            };
            (bits, bit_count, block) = (bits | u32::from(byte) << bit_count, bit_count + 8, rest);
        }
        let code = (bits & ((1 << table.code_bits) - 1)) as usize;
        (bits, bit_count) = (bits >> table.code_bits, bit_count - table.code_bits);
        if code == table.clear {
            table.reset();
        } else if code == table.clear + 1 {
            return Err(Damage::Pixels { expected, found: filled });
        } else {
            filled += table.write(code, out, filled).ok_or(Damage::Code)?;
        }
    }
    Ok(())
}

/// Code table. Every string is a slice of the output, stored as start and length.
struct Table {
    /// The clear code; the end code is the next one.
    clear: usize,
    code_bits: u32,
    /// Strings of the codes above the end code.
    strings: Vec<(usize, usize)>,
    /// The string of the previous code; `None` after a clear code.
    last: Option<(usize, usize)>,
}

impl Table {
    fn new(index_bits: u8) -> Self {
        let strings = Vec::with_capacity(CODES_MAX);
        Self { clear: 1 << index_bits, code_bits: u32::from(index_bits) + 1, strings, last: None }
    }

    fn reset(&mut self) {
        self.code_bits = self.clear.trailing_zeros() + 1;
        self.strings.clear();
        self.last = None;
    }

    /// Writes the string of `code` at `at`, cut at the end of `out`. Returns the number of bytes written, or `None` if the
    /// code is not in the table.
    fn write(&mut self, code: usize, out: &mut [u8], at: usize) -> Option<usize> {
        let first_string = self.clear + 2;
        // A new entry is the previous string plus the first index of this one. The two are adjacent in `out`, so the entry
        // can be used by the very code that creates it.
        let made = self.last.map(|(start, length)| (start, length + 1));
        let (start, length) = if code < self.clear {
            (None, 1)
        } else {
            let &(start, length) = self.strings.get(code - first_string).or_else(|| {
                let is_next = code - first_string == self.strings.len() && code < CODES_MAX;
                made.as_ref().filter(|_| is_next)
            })?;
            (Some(start), length)
        };
        let length = length.min(out.len() - at);
        match start {
            None => out[at] = code as u8,
            Some(start) => {
                for offset in 0..length {
                    out[at + offset] = out[start + offset];
                }
            }
        }
        if let Some(made) = made
            && first_string + self.strings.len() < CODES_MAX
        {
            self.strings.push(made);
            let next = first_string + self.strings.len();
            if next == 1 << self.code_bits && self.code_bits < CODE_BITS_MAX {
                self.code_bits += 1;
            }
        }
        self.last = Some((at, length));
        Some(length)
    }
}
