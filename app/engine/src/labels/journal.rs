//! The journal of additions to a label cache since its file was written. Records are appended one by one, so that a new
//! sentence writes only its own bytes, and a crash loses at most the record that is being written.
//!
//! After [`MARK`], each record is: the length of its content (4 bytes, little-endian), the content, and the first 8 bytes of
//! the content's SHA-256. The content is a kind byte, a key of 32 bytes, and the values as little-endian f32, or lines as
//! JSON.

use super::key::Key;
use crate::hash::sha256;

/// First bytes of the file.
pub(super) const MARK: &[u8; 8] = b"sptjrnl1";

const EMBEDDING: u8 = 0;
const REMARKS: u8 = 1;

const LENGTH_BYTES: usize = 4;
const KEY_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;

/// Size limit of a record: four times an embedding of 65,536 values, and more lines than are ever stored.
const CONTENT_BYTES_MAX: usize = 1 << 20;

/// One addition.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Embedding(Key, Vec<f32>),
    Remarks(Key, Vec<String>),
}

/// How a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalEnd {
    /// After a whole record, or before the first one.
    Whole,
    /// Within a record, as after a crash or a power cut.
    Torn,
    /// With bytes that are no record.
    Damaged,
}

impl Record {
    /// Encodes the record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        match self {
            Self::Embedding(key, values) => {
                content.push(EMBEDDING);
                content.extend(key.bytes());
                content.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Remarks(key, lines) => {
                content.push(REMARKS);
                content.extend(key.bytes());
                content.extend(serde_json::to_vec(lines).unwrap_or_default());
            }
        }
        let mut record = (content.len() as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&content);
        record.extend(checksum(&content));
        record
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (&kind, rest) = content.split_first()?;
        let (key, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let key = Key::from_bytes(*key);
        match kind {
            EMBEDDING => {
                let (values, rest) = rest.as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                (rest.is_empty() && values.iter().all(|value| value.is_finite()))
                    .then_some(Self::Embedding(key, values))
            }
            REMARKS => Some(Self::Remarks(key, serde_json::from_slice(rest).ok()?)),
            _ => None,
        }
    }
}

/// The whole records at the start of a journal, the number of bytes they take, and how the journal ends.
pub(super) fn read(bytes: &[u8]) -> (Vec<Record>, usize, JournalEnd) {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MARK) else {
        let ending = match bytes {
            [] => JournalEnd::Whole,
            _ if MARK.starts_with(bytes) => JournalEnd::Torn,
            _ => JournalEnd::Damaged,
        };
        return (records, 0, ending);
    };
    loop {
        let whole = bytes.len() - rest.len();
        if rest.is_empty() {
            return (records, whole, JournalEnd::Whole);
        }
        let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return (records, whole, JournalEnd::Torn);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > CONTENT_BYTES_MAX {
            return (records, whole, JournalEnd::Damaged);
        }
        let Some((content, after)) = after.split_at_checked(length) else {
            return (records, whole, JournalEnd::Torn);
        };
        let Some((sum, after)) = after.split_first_chunk::<CHECKSUM_BYTES>() else {
            return (records, whole, JournalEnd::Torn);
        };
        let Some(record) = Record::decode(content).filter(|_| *sum == checksum(content)) else {
            return (records, whole, JournalEnd::Damaged);
        };
        records.push(record);
        rest = after;
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = sha256(content);
    std::array::from_fn(|index| hash[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        vec![
            Record::Embedding(Key::of(&["a"]), vec![0.5, -1.0]),
            Record::Remarks(Key::of(&["b"]), vec!["a line".into(), String::new()]),
            Record::Embedding(Key::of(&["c"]), vec![f32::MIN_POSITIVE]),
        ]
    }

    fn journal() -> Vec<u8> {
        let records = records().iter().flat_map(Record::encode).collect();
        [MARK.to_vec(), records].concat()
    }

    #[test]
    fn records_are_read_in_order_up_to_the_end_of_the_last_whole_one() {
        let whole = journal();
        assert_eq!(read(&whole), (records(), whole.len(), JournalEnd::Whole));
        assert_eq!(read(b""), (vec![], 0, JournalEnd::Whole));
        let mut ends = vec![0, MARK.len()];
        for record in records() {
            ends.push(ends[ends.len() - 1] + record.encode().len());
        }
        for length in 1..whole.len() {
            let (found, kept, ending) = read(&whole[..length]);
            let complete = ends.iter().rposition(|end| *end <= length).expect("the start");
            assert_eq!(found, records()[..complete.saturating_sub(1)], "{length}");
            assert_eq!(kept, ends[complete], "{length}");
            let expected = if ends[complete] == length { JournalEnd::Whole } else { JournalEnd::Torn };
            assert_eq!(ending, expected, "{length}");
        }
    }

    #[test]
    fn no_flipped_bit_changes_a_record() {
        let whole = journal();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (found, kept, ending) = read(&bytes);
            assert!(found.len() < 3 && records().starts_with(&found), "bit {bit}: {found:?}");
            assert!(kept <= bit / 8 && ending != JournalEnd::Whole, "bit {bit}: {kept} {ending:?}");
        }
    }

    #[test]
    fn other_content_is_damaged() {
        for bytes in [&b"not a journal"[..], &[0; 100], b"sptjrnl2"] {
            assert_eq!(read(bytes), (vec![], 0, JournalEnd::Damaged));
        }
        let not_finite = Record::Embedding(Key::of(&["a"]), vec![f32::NAN]).encode();
        assert_eq!(read(&[&MARK[..], &not_finite].concat()), (vec![], MARK.len(), JournalEnd::Damaged));
        let endless = [&MARK[..], &[0xff; 100]].concat();
        assert_eq!(read(&endless), (vec![], MARK.len(), JournalEnd::Damaged));
    }
}
