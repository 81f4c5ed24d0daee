//! The pipe of a program, read by a thread that can be told to let go of it: whoever else holds its other end, such as
//! something that the program left behind, would keep the thread and the pipe for ever.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a thread that waits for bytes looks whether it is to let go: rarely enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Reads from a pipe until its end, or until its [`Keeper`] is dropped, which reads as the end.
pub(super) struct Pipe<R> {
    inner: R,
    let_go: Arc<AtomicBool>,
}

/// Has the pipe let go of when it is dropped.
pub(super) struct Keeper(Arc<AtomicBool>);

impl<R: Read + AsFd> Pipe<R> {
    /// The pipe, and what keeps it.
    pub(super) fn new(inner: R) -> (Self, Keeper) {
        let let_go = Arc::new(AtomicBool::new(false));
        let keeper = Keeper(Arc::clone(&let_go));
        (Self { inner, let_go }, keeper)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<R: Read + AsFd> Read for Pipe<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let every = Timespec::try_from(LOOK_EVERY).map_err(|_| ErrorKind::InvalidInput)?;
        loop {
            if self.let_go.load(Ordering::Acquire) {
                return Ok(0);
            }
            let ready = poll(&mut [PollFd::new(&self.inner, PollFlags::IN)], Some(&every))?;
            if ready > 0 {
                return self.inner.read(bytes);
            }
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
        let (mut pipe, _keeper) = Pipe::new(reader);
        writer.write_all(b"bytes").unwrap();
        drop(writer);
        let mut found = Vec::new();
        pipe.read_to_end(&mut found).unwrap();
        assert_eq!(found, b"bytes");
    }

    #[test]
    fn a_pipe_that_nobody_closes_is_let_go_of() {
        let (reader, writer) = io::pipe().unwrap();
        let (mut pipe, keeper) = Pipe::new(reader);
        let thread = std::thread::spawn(move || pipe.read(&mut [0]).unwrap());
        drop(keeper);
        assert_eq!(thread.join().unwrap(), 0);
        drop(writer);
    }
}
