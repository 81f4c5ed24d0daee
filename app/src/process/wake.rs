//! A file descriptor that wakes a thread which waits for another one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// An event descriptor. Once woken it stays readable, so a wait that begins later returns at once. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Wake(Arc<OwnedFd>);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The descriptor can be read, has ended, or failed, which a read then tells.
    Ready,
    /// [`Wake::wake`] was called.
    Woken,
    /// The limit passed.
    TimedOut,
}

impl Wake {
    /// A descriptor that is not woken yet.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends the wait under way and every later one.
    pub(crate) fn wake(&self) {
        // A write fails only when the counter is full, and then the descriptor is readable already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Waits until `fd` is readable, this is woken, or `limit` has passed; without a limit for as long as it takes.
    ///
    /// # Errors
    /// `poll` failed; [`io::ErrorKind::Interrupted`] where a signal came in.
    pub(crate) fn wait_readable(&self, fd: &impl AsFd, limit: Option<Duration>) -> io::Result<Waited> {
        let limit = limit.map(Timespec::try_from).transpose().map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(&*self.0, PollFlags::IN)];
        poll(&mut fds, limit.as_ref())?;
        Ok(if !fds[1].revents().is_empty() {
            Waited::Woken
        } else if !fds[0].revents().is_empty() {
            Waited::Ready
        } else {
            Waited::TimedOut
        })
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_wait_ends_by_bytes_by_the_limit_or_when_woken() {
        let (reader, mut writer) = io::pipe().unwrap();
        let wake = Wake::new().unwrap();
        let wait = |limit| wake.wait_readable(&reader, limit).unwrap();
        assert_eq!(wait(Some(Duration::ZERO)), Waited::TimedOut);
        writer.write_all(b"x").unwrap();
        assert_eq!(wait(None), Waited::Ready);
        wake.clone().wake();
        for _ in 0..2 {
            assert_eq!(wait(None), Waited::Woken, "it stays woken");
        }
    }
}
