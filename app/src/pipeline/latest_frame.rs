//! The one frame that waits between the source thread and the inference thread.

use std::mem::swap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::{Frame, Stop};

/// How often a waiting putter looks whether it was stopped; a taken frame wakes it at once.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Holds at most one frame. Frames are swapped in and out, so that their buffers go round and are never copied.
#[derive(Debug, Default)]
pub struct Slot {
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

/// What `Slot::take` brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A frame, which no other call gets.
    Frame,
    /// No frame is left and none will come.
    Ended,
    /// No frame came in time.
    TimedOut,
}

impl Slot {
    /// An empty, open slot.
    pub fn new() -> Self {
        Slot::default()
    }

    /// Puts `frame` in and gets a used one for the next capture. A frame that nobody took is dropped and counted.
    /// Frames put into a closed slot are ignored.
    pub fn put_newest(&self, frame: &mut Frame) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.dropped += u64::from(inner.full);
        self.fill(&mut inner, frame);
    }

    /// Waits until the frame before was taken, then puts `frame` in and gets a used one for the next capture.
    /// Says whether it did: not when the slot was closed or `stop` was set first.
    pub fn put_waiting(&self, frame: &mut Frame, stop: &Stop) -> bool {
        let mut inner = self.lock();
        while inner.full && !inner.closed && !stop.is_set() {
            inner = self.changed.wait_timeout(inner, STOP_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.full || inner.closed {
            return false;
        }
        self.fill(&mut inner, frame);
        true
    }

    /// Waits until the frame before was taken, then puts `frame` in as [`Slot::put_newest`] does; at the latest at `until`,
    /// when what nobody took is dropped and counted.
    pub fn put_by(&self, frame: &mut Frame, until: Instant, stop: &Stop) {
        let mut inner = self.lock();
        while inner.full && !inner.closed && !stop.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.changed.wait_timeout(inner, left.min(STOP_CHECK)).unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.closed {
            return;
        }
        inner.dropped += u64::from(inner.full);
        self.fill(&mut inner, frame);
    }

    /// Waits for a frame, at most `timeout`, and swaps it with `frame`. A frame that was put in before the slot was
    /// closed is still given.
    pub fn take(&self, frame: &mut Frame, timeout: Duration) -> Taken {
        let start = Instant::now();
        let mut inner = self.lock();
        loop {
            if inner.full {
                swap(&mut inner.frame, frame);
                inner.full = false;
                self.changed.notify_all();
                return Taken::Frame;
            }
            if inner.closed {
                return Taken::Ended;
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Taken::TimedOut;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that no more frames come, or that nobody takes them any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// How many frames were replaced by newer ones before anybody took them.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn fill(&self, inner: &mut Inner, frame: &mut Frame) {
        swap(&mut inner.frame, frame);
        inner.full = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock, so a poisoned state is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
