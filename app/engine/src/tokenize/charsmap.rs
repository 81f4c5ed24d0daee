//! SentencePiece's character map: at each position, the longest known substring is replaced. (The tokenizers library looks
//! up whole graphemes and takes the shortest match.)
//!
//! Format (`precompiled_charsmap` of `sentencepiece_model.proto`): the length of a double-array trie in bytes, its 32-bit
//! units, then zero-terminated replacement texts; all numbers little-endian. The upper 22 bits of a unit are the offset to
//! the next unit, shifted by 8 if bit 9 is set; bit 8 tells whether a key ends here; the lowest 8 bits are its byte. A leaf
//! unit has the offset of the replacement text in its lower 31 bits.

/// The map; an empty one changes no character.
#[derive(Debug, Clone, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    /// Parses the map; `None` if it is damaged.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (array, texts) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let (units, []) = array.as_chunks() else { return None };
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Some(Self { units, texts: String::from_utf8(texts.to_vec()).ok()? })
    }

    /// The replacement of the start of `text`, which is not empty, and the rest of the text; `None` if the map is
    /// inconsistent.
    pub(super) fn step<'a>(&'a self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let Some((length, place)) = self.longest(text.as_bytes())? else {
            return Some(text.split_at(text.chars().next()?.len_utf8()));
        };
        let (_, rest) = text.split_at_checked(length)?;
        Some((self.texts.get(place..)?.split('\0').next()?, rest))
    }

    /// The length of the longest prefix of `key` in the map, and the offset of its replacement. The outer `None` means that
    /// the map points outside of itself, the inner one that no prefix is known.
    #[expect(clippy::option_option, reason = "a damaged map is not the same as an unknown text")]
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
