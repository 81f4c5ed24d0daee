//! The pipe of a program, with a read that can be woken. Otherwise a process that the program left behind, and that holds the
//! other end, would block the reading thread for ever.

use std::io::{self, Read};
use std::os::fd::AsFd;

use crate::process::wake::{Waited, Wake};

/// Reads from a pipe until its end, or until its [`Keeper`] is dropped, which reads as the end.
pub(super) struct Pipe<R> {
    inner: R,
    wake: Wake,
}

/// Ends the reading of a pipe when it is dropped.
pub(super) struct Keeper(Wake);

impl<R: Read + AsFd> Pipe<R> {
    /// The pipe and its keeper.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(super) fn new(inner: R) -> io::Result<(Self, Keeper)> {
        let wake = Wake::new()?;
        let keeper = Keeper(wake.clone());
        Ok((Self { inner, wake }, keeper))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl<R: Read + AsFd> Read for Pipe<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.wake.wait_readable(&self.inner, None)? {
            Waited::Ready => self.inner.read(bytes),
            // Without a limit nothing times out.
            Waited::Woken | Waited::TimedOut => Ok(0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_pipe_gives_its_bytes_then_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (mut pipe, _keeper) = Pipe::new(reader).unwrap();
        writer.write_all(b"bytes").unwrap();
        drop(writer);
        let mut found = Vec::new();
        pipe.read_to_end(&mut found).unwrap();
        assert_eq!(found, b"bytes");
    }

    #[test]
    fn a_read_that_waits_ends_with_the_keeper() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut pipe, keeper) = Pipe::new(reader).unwrap();
        let thread = std::thread::spawn(move || pipe.read(&mut [0]).unwrap());
        drop(keeper);
        assert_eq!(thread.join().unwrap(), 0);
        drop(writer);
    }
}
