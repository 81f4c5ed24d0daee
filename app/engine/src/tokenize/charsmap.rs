//! The table by which SentencePiece replaces characters: at every place the longest piece of text that it knows. The
//! tokenizers library looks at whole graphemes, and takes the shortest.
//!
//! Format (`precompiled_charsmap` of `sentencepiece_model.proto`): the length of a double array in bytes, the array's units
//! of 32 bits, then texts that end in a zero byte; all numbers little-endian. A unit has an offset to the next unit in its
//! upper 22 bits, shifted by 8 where bit 9 is set, whether a text ends here in bit 8, and its byte in the lowest 8; a unit
//! with the text's place has it in its lower 31 bits.

/// The table; with none in it every character stays.
#[derive(Debug, Clone, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    /// Reads the table; nothing where it is damaged.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (array, texts) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (units, []) = array.as_chunks() else { return None };
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Some(Self { units, texts: String::from_utf8(texts.to_vec()).ok()? })
    }

    /// What the start of `text`, which is not empty, is replaced by, and the rest of the text; nothing where the table
    /// contradicts itself.
    pub(super) fn step<'a>(&'a self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let Some((length, place)) = self.longest(text.as_bytes())? else {
            return Some(text.split_at(text.chars().next()?.len_utf8()));
        };
        let (_, rest) = text.split_at_checked(length)?;
        Some((self.texts.get(place..)?.split('\0').next()?, rest))
    }

    /// The length of the longest start of `key` that the table knows, and the place of its text; the outer nothing where
    /// the table points outside of itself.
    #[expect(clippy::option_option, reason = "a damaged table is another thing than a text that it does not know")]
    fn longest(&self, key: &[u8]) -> Option<Option<(usize, usize)>> {
        let Some(root) = self.units.first() else { return Some(None) };
        let mut place = offset(*root);
        let mut found = None;
        for (at, byte) in key.iter().enumerate() {
            place ^= usize::from(*byte);
            let unit = *self.units.get(place)?;
            if unit & 0x8000_00FF != u32::from(*byte) {
                break;
            }
            place ^= offset(unit);
            if unit & 0x100 != 0 {
                found = Some((at + 1, (self.units.get(place)? & 0x7FFF_FFFF) as usize));
            }
        }
        Some(found)
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}
