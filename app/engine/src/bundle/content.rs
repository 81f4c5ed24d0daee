//! Random access to the content of a bundle's files. Where the whole file was read for a signature, every block is compared
//! with the hash from that pass.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::hash::{Hasher, sha256};

/// Bytes of a block. Smaller blocks need more memory for digests (1/2048 of the file with this size), larger ones more time
/// for random reads.
const BLOCK_BYTES: usize = 64 << 10;

/// SHA-256 of every block of a file.
#[derive(Debug)]
pub(super) struct Blocks {
    digests: Vec<[u8; 32]>,
    /// Size of the file; its last block may be shorter than the others.
    bytes: u64,
}

/// Computes [`Blocks`] from a file's bytes, which arrive in chunks of any size.
#[derive(Default)]
pub(super) struct BlockHasher {
    digests: Vec<[u8; 32]>,
    bytes: u64,
    hasher: Hasher,
    /// Bytes of the current block that are hashed already.
    filled: usize,
}

impl BlockHasher {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.hasher.update(piece);
            self.filled += piece.len();
            self.bytes += piece.len() as u64;
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
            bytes = rest;
        }
    }

    fn end_block(&mut self) {
        self.digests.push(std::mem::take(&mut self.hasher).finish());
        self.filled = 0;
    }

    pub(super) fn finish(mut self) -> Blocks {
        if self.filled > 0 {
            self.end_block();
        }
        Blocks { digests: self.digests, bytes: self.bytes }
    }
}

/// An open file that is read at any offset.
#[derive(Debug)]
pub(crate) struct Content {
    file: File,
    /// The hashes to compare with; `None` if the file was not read as a whole.
    checked: Option<Checked>,
}

#[derive(Debug)]
struct Checked {
    blocks: Arc<Blocks>,
    /// Content of the last block that was read.
    block: Vec<u8>,
    /// Index of that block.
    held: Option<u64>,
}

impl Content {
    pub(super) fn new(file: File, blocks: Option<Arc<Blocks>>) -> Self {
        Self { file, checked: blocks.map(|blocks| Checked { blocks, block: Vec::new(), held: None }) }
    }

    /// Reads from offset `at`, as `Read::read` does. A changed block is an error of kind `InvalidData`.
    pub(super) fn read_at(&mut self, out: &mut [u8], at: u64) -> io::Result<usize> {
        match &mut self.checked {
            Some(checked) => checked.read_at(&self.file, out, at),
            None => self.file.read_at(out, at),
        }
    }
}

impl Checked {
    fn read_at(&mut self, file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
        if out.is_empty() || at >= self.blocks.bytes {
            return Ok(0);
        }
        let (number, offset) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
        if self.held != Some(number) {
            self.load(file, number)?;
        }
        let held = &self.block[offset..];
        let count = held.len().min(out.len());
        out[..count].copy_from_slice(&held[..count]);
        Ok(count)
    }

    fn load(&mut self, file: &File, number: u64) -> io::Result<()> {
        self.held = None;
        let start = number * BLOCK_BYTES as u64;
        let bytes = (self.blocks.bytes - start).min(BLOCK_BYTES as u64) as usize;
        self.block.resize(bytes, 0);
        file.read_exact_at(&mut self.block, start)?;
        let found = sha256(&self.block);
        let expected = usize::try_from(number).ok().and_then(|number| self.blocks.digests.get(number));
        if expected.is_none_or(|expected| found != *expected) {
            let message = format!("bytes {start} to {} were changed after they were checked", start + bytes as u64);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.held = Some(number);
        Ok(())
    }
}

/// An open file of a bundle.
#[derive(Debug)]
pub(crate) enum Piece {
    /// `size` bytes of a file on disk, from offset `start`; `at` is the read position within them.
    File {
        content: Content,
        start: u64,
        size: u64,
        at: u64,
    },
    Memory(Cursor<&'static [u8]>),
}

impl Piece {
    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Memory(cursor) => cursor.get_ref().len() as u64,
        }
    }
}

impl Read for Piece {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { content, start, size, at } => {
                let left = usize::try_from(size.saturating_sub(*at)).unwrap_or(usize::MAX);
                let wanted = out.len().min(left);
                if wanted == 0 {
                    return Ok(0);
                }
                let count = content.read_at(&mut out[..wanted], *start + *at)?;
                *at += count as u64;
                Ok(count)
            }
            Self::Memory(cursor) => cursor.read(out),
        }
    }
}

impl Seek for Piece {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File { size, at, .. } => {
                let target = match to {
                    SeekFrom::Start(offset) => Some(offset),
                    SeekFrom::End(offset) => size.checked_add_signed(offset),
                    SeekFrom::Current(offset) => at.checked_add_signed(offset),
                };
                *at = target.ok_or(io::ErrorKind::InvalidInput)?;
                Ok(*at)
            }
            Self::Memory(cursor) => cursor.seek(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, Content) {
        let mut hasher = BlockHasher::default();
        // Chunks that do not end with a block.
        bytes.chunks(1001).for_each(|piece| hasher.update(piece));
        let named = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(named.path(), bytes).expect("writes");
        let content = Content::new(File::open(named.path()).expect("opens"), Some(Arc::new(hasher.finish())));
        (named, content)
    }

    fn all(content: &mut Content, from: u64) -> io::Result<Vec<u8>> {
        let (mut found, mut piece) = (Vec::new(), [0; 7000]);
        loop {
            match content.read_at(&mut piece, from + found.len() as u64)? {
                0 => return Ok(found),
                count => found.extend_from_slice(&piece[..count]),
            }
        }
    }

    #[test]
    fn reads_start_at_any_offset() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let (_named, mut content) = file(&bytes);
            for from in [0, 1, length / 2, length.saturating_sub(1), length, length + 1] {
                let expected = bytes.get(from..).unwrap_or_default();
                assert_eq!(all(&mut content, from as u64).expect("reads"), expected, "{length} bytes from {from}");
            }
        }
    }

    #[test]
    fn a_changed_block_is_refused_and_others_are_read() {
        let bytes = vec![7; 2 * BLOCK_BYTES + 100];
        for (at, refused) in [(0, 0), (BLOCK_BYTES - 1, 0), (BLOCK_BYTES, 1), (2 * BLOCK_BYTES + 99, 2)] {
            let (named, mut content) = file(&bytes);
            std::fs::OpenOptions::new()
                .write(true)
                .open(named.path())
                .and_then(|file| file.write_all_at(b"8", at as u64))
                .expect("writes");
            for block in 0..3_u64 {
                let read = content.read_at(&mut [0; 10], block * BLOCK_BYTES as u64);
                assert_eq!(read.is_err(), block == refused, "byte {at}, block {block}: {read:?}");
            }
        }
        let (named, mut content) = file(&bytes);
        let file = std::fs::OpenOptions::new().write(true).open(named.path()).expect("opens");
        file.set_len(BLOCK_BYTES as u64).expect("cuts");
        assert!(all(&mut content, 0).is_err(), "a file that was cut off");
    }
}
