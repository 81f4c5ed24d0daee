//! A temporary file for the weights of a graph under construction, so that memory holds one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Data below this size in bytes stays in memory.
const SPOOLED_BYTES_MIN: usize = 1 << 12;

/// Largest protobuf file in bytes.
const FILE_BYTES_MAX: u64 = i32::MAX as u64;

/// A part of a file.
#[derive(Debug)]
pub(super) enum Data {
    Bytes(Vec<u8>),
    /// In the spool.
    Spooled {
        start: u64,
        len: u64,
    },
}

impl Data {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Spooled { len, .. } => *len,
        }
    }
}

/// An unnamed temporary file that data is appended to.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    file: Option<BufWriter<File>>,
    len: u64,
    /// The first error. Adding data never fails; [`Self::finish`] returns the error.
    error: Option<io::Error>,
}

impl Spool {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, len: 0, error: None }
    }

    /// Adds `len` bytes.
    pub(super) fn add(&mut self, len: usize, pieces: impl IntoIterator<Item = Vec<u8>>) -> Data {
        if len < SPOOLED_BYTES_MIN {
            return Data::Bytes(pieces.into_iter().flatten().collect());
        }
        let start = self.len;
        if self.error.is_none() {
            self.error = pieces.into_iter().try_for_each(|piece| self.write(&piece)).err();
        }
        Data::Spooled { start, len: len as u64 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&self.folder)?)),
        };
        file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self, parts: Vec<Data>) -> io::Result<OnnxFile> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut starts = Vec::with_capacity(parts.len());
        let mut len = 0;
        for part in &parts {
            starts.push(len);
            len += part.len();
        }
        if len > FILE_BYTES_MAX {
            let message = format!(
                "{:.1} GB of weights, and an ONNX file has at most {:.1} GB: store them as int8 or int4",
                len as f64 / 1e9,
                FILE_BYTES_MAX as f64 / 1e9
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let spool = self.file.map(|file| file.into_inner().map_err(io::IntoInnerError::into_error)).transpose()?;
        Ok(OnnxFile { parts, starts, len, spool, floats: BTreeMap::new() })
    }
}

/// A finished ONNX file. Most of it is in a temporary file that is deleted with it.
#[derive(Debug)]
pub struct OnnxFile {
    parts: Vec<Data>,
    /// Offset of each part in bytes.
    starts: Vec<u64>,
    len: u64,
    spool: Option<File>,
    /// Index of the part that holds the values of each constant of floats, by its name.
    pub(super) floats: BTreeMap<String, usize>,
}

impl OnnxFile {
    /// Stores the bytes of a finished file in an unnamed temporary file in the folder `scratch`.
    pub(crate) fn spooled(bytes: Vec<u8>, scratch: &Path) -> io::Result<Self> {
        let mut spool = Spool::new(scratch);
        let part = spool.add(bytes.len(), [bytes]);
        spool.finish(vec![part])
    }

    /// Reads the part with index `part`.
    pub(super) fn part(&self, part: usize) -> io::Result<Vec<u8>> {
        match (self.parts.get(part), &self.spool) {
            (Some(Data::Bytes(bytes)), _) => Ok(bytes.clone()),
            (Some(Data::Spooled { start, len }), Some(spool)) => {
                let mut bytes = vec![0; usize::try_from(*len).map_err(io::Error::other)?];
                spool.read_exact_at(&mut bytes, *start)?;
                Ok(bytes)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.len
    }

    /// Opens it for reading from its start.
    pub fn reader(&self) -> OnnxReader<'_> {
        OnnxReader { file: self, at: 0 }
    }
}

/// Reads an [`OnnxFile`].
#[derive(Debug)]
pub struct OnnxReader<'a> {
    file: &'a OnnxFile,
    at: u64,
}

impl Read for OnnxReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let OnnxFile { parts, starts, len, spool, .. } = self.file;
        if self.at >= *len {
            return Ok(0);
        }
        // The last part that starts here or before. Empty parts start where the next one does.
        let index = starts.partition_point(|start| *start <= self.at) - 1;
        let within = self.at - starts[index];
        let count = match (&parts[index], spool) {
            (Data::Bytes(bytes), _) => (&bytes[within as usize..]).read(out)?,
            (Data::Spooled { start, len }, Some(spool)) => {
                let count = out.len().min(usize::try_from(len - within).unwrap_or(usize::MAX));
                spool.read_at(&mut out[..count], start + within)?
            }
            (Data::Spooled { .. }, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for OnnxReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.file.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::path::Path;

    use super::{Data, Spool};

    #[test]
    fn parts_are_read_as_one_file() {
        let mut spool = Spool::new(&std::env::temp_dir());
        let large: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let data = [
            spool.add(3, [vec![1, 2], vec![3]]),
            spool.add(large.len(), large.chunks(77).map(<[u8]>::to_vec)),
            spool.add(0, []),
            spool.add(large.len(), [large.clone()]),
        ];
        let expected = [&[1, 2, 3][..], &large, &large].concat();
        assert!(matches!(data[1], Data::Spooled { start: 0, len: 10_000 }));
        let file = spool.finish(data.into()).expect("a file");
        let mut found = Vec::new();
        file.reader().read_to_end(&mut found).expect("reads");
        assert!(found == expected);
        let mut reader = file.reader();
        for (to, at) in
            [(SeekFrom::Start(9_990), 9_990), (SeekFrom::End(-5), 19_998), (SeekFrom::Current(-100), 19_898)]
        {
            assert_eq!(reader.seek(to).expect("seeks"), at);
        }
        let mut piece = [0; 50];
        reader.read_exact(&mut piece).expect("reads");
        assert_eq!(piece, expected[19_898..19_948]);
    }

    #[test]
    fn errors_are_returned_by_finish() {
        let mut spool = Spool::new(Path::new("/nowhere/at all"));
        spool.add(10_000, [vec![0; 10_000]]);
        assert!(spool.finish(Vec::new()).is_err());
        let spool = Spool::new(&std::env::temp_dir());
        let error = spool.finish(vec![Data::Spooled { start: 0, len: 3 << 30 }]).expect_err("too large");
        assert!(error.to_string().contains("3.2 GB of weights"), "{error}");
    }
}
