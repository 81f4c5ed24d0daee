//! The bytes of a pickle, limited and counted.

use std::io::Read;

/// Limit on the bytes of one pickle: 40 000 tensors with long names need about as many.
pub(crate) const BYTES_MAX: u64 = 16 << 20;

/// Why an instruction failed.
pub(super) enum Stopped {
    Io(std::io::Error),
    Name(String),
    Broken(String),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) fn broken(message: impl Into<String>) -> Stopped {
    Stopped::Broken(message.into())
}

/// The bytes of a pickle, counted.
pub(super) struct Input<R> {
    inner: R,
    /// Bytes read so far.
    pub(super) at: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, at: 0 }
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Stopped> {
        let mut bytes = [0; N];
        self.count(N as u64)?;
        self.inner.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stopped> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub(super) fn vec(&mut self, length: u64) -> Result<Vec<u8>, Stopped> {
        self.count(length)?;
        let mut bytes = Vec::new();
        if ((&mut self.inner).take(length).read_to_end(&mut bytes)? as u64) < length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(bytes)
    }

    /// Reads up to a line feed.
    pub(super) fn line(&mut self) -> Result<String, Stopped> {
        // Longer than any name of a function.
        const LINE_BYTES_MAX: usize = 256;
        let mut line = Vec::new();
        while line.len() <= LINE_BYTES_MAX {
            match self.byte()? {
                b'\n' => return String::from_utf8(line).map_err(|_| broken("a name that is not UTF-8")),
                byte => line.push(byte),
            }
        }
        Err(broken("a name that does not end"))
    }

    fn count(&mut self, bytes: u64) -> Result<(), Stopped> {
        self.at = self.at.saturating_add(bytes);
        if self.at > BYTES_MAX { Err(broken(format!("a pickle of more than {BYTES_MAX} bytes"))) } else { Ok(()) }
    }
}
