//! The mailbox between the source thread and the inference thread, which holds one frame.

use std::mem::swap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::Frame;

/// Holds at most one frame. Frames are swapped in and out, so that their buffers are reused and never copied.
#[derive(Debug, Default)]
pub(crate) struct LatestFrame {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    frame: Frame,
    full: bool,
    closed: bool,
    dropped: u64,
}

/// Result of [`LatestFrame::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A frame, which no other call gets.
    Frame,
    /// No frame is left and none will come.
    Ended,
    /// No frame came in time.
    TimedOut,
}

impl LatestFrame {
    /// An empty, open mailbox.
    pub(crate) fn new() -> Self {
        LatestFrame::default()
    }

    /// Puts `frame` in, and leaves a used one in its place for the next capture. A frame that was not taken is dropped and
    /// counted. Frames put into a closed mailbox are ignored.
    pub(crate) fn put_newest(&self, frame: &mut Frame) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.dropped += u64::from(inner.full);
        self.fill(&mut inner, frame);
    }

    /// Waits until the previous frame was taken, then puts `frame` in as [`Self::put_newest`] does. Returns whether it did:
    /// not if the mailbox was closed.
    pub(crate) fn put_waiting(&self, frame: &mut Frame) -> bool {
        let waits = |inner: &mut Inner| inner.full && !inner.closed;
        let mut inner = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return false;
        }
        self.fill(&mut inner, frame);
        true
    }

    /// Waits until the previous frame was taken, at most until `deadline`, then puts `frame` in as [`Self::put_newest`] does.
    pub(crate) fn put_by(&self, frame: &mut Frame, deadline: Instant) {
        let waits = |inner: &mut Inner| inner.full && !inner.closed;
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), left, waits);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        if inner.closed {
            return;
        }
        inner.dropped += u64::from(inner.full);
        self.fill(&mut inner, frame);
    }

    /// Waits for a frame, at most `timeout`, and swaps it with `frame`. A frame that was put in before the mailbox was closed
    /// is still returned.
    pub(crate) fn take(&self, frame: &mut Frame, timeout: Duration) -> Taken {
        let waits = |inner: &mut Inner| !inner.full && !inner.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, waits);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        if inner.full {
            swap(&mut inner.frame, frame);
            inner.full = false;
            self.changed.notify_all();
            return Taken::Frame;
        }
        if inner.closed { Taken::Ended } else { Taken::TimedOut }
    }

    /// Closes the mailbox: no more frames come, or none is taken any more. Wakes all waiting threads.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Number of frames that were replaced before they were taken.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn fill(&self, inner: &mut Inner, frame: &mut Frame) {
        swap(&mut inner.frame, frame);
        inner.full = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under the lock, so a poisoned state is still valid.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
