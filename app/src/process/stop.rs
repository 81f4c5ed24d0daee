//! The signal that ends the loop.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest wait of a call that a [`Stop`] cannot wake, before it looks at the flag: too short for anybody to notice, long
/// enough to cost nothing.
pub(crate) const STOP_CHECK: Duration = Duration::from_millis(20);

/// A flag that is set once; its clones share it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_set: AtomicBool,
    wakers: Mutex<Wakers>,
    changed: Condvar,
}

/// Callbacks for when the flag is set, each with the number by which it is removed.
#[derive(Default)]
struct Wakers {
    next: u64,
    list: Vec<(u64, Box<dyn Fn() + Send>)>,
}

/// Keeps a callback registered; dropping it removes the callback.
#[must_use = "the callback is removed when this is dropped"]
pub(crate) struct OnSet {
    stop: Stop,
    number: u64,
}

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks all holders of a clone to stop, and wakes those that wait.
    pub fn set(&self) {
        let wakers = self.lock();
        self.0.is_set.store(true, Ordering::Release);
        self.0.changed.notify_all();
        wakers.list.iter().for_each(|(_, wake)| wake());
    }

    /// Returns whether it was asked to stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Sleeps for `duration`, or until the flag is set. Returns whether it is set.
    pub fn sleep(&self, duration: Duration) -> bool {
        let waited = self.0.changed.wait_timeout_while(self.lock(), duration, |_| !self.is_set());
        drop(waited);
        self.is_set()
    }

    /// Calls `wake` when the flag is set, or at once if it is. The callback must neither wait nor use this flag.
    pub(crate) fn on_set(&self, wake: impl Fn() + Send + 'static) -> OnSet {
        let mut wakers = self.lock();
        if self.is_set() {
            wake();
        }
        let number = wakers.next;
        wakers.next += 1;
        wakers.list.push((number, Box::new(wake)));
        drop(wakers);
        OnSet { stop: self.clone(), number }
    }

    /// Returns whether both are clones of one flag.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        // A panic in a callback leaves the list whole.
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OnSet {
    /// The flag that the callback belongs to.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }
}

impl Drop for OnSet {
    fn drop(&mut self) {
        let mut wakers = self.stop.lock();
        let found = wakers.list.iter().position(|(number, _)| *number == self.number);
        let removed = found.map(|index| wakers.list.swap_remove(index));
        // What the callback owns is dropped without the lock.
        drop(wakers);
        drop(removed);
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_sleep_lasts_its_time_or_ends_when_stopped() {
        let stop = Stop::new();
        let start = Instant::now();
        assert!(!stop.sleep(Duration::from_millis(45)));
        assert!(start.elapsed() >= Duration::from_millis(45));

        let (other, (wakes, woken)) = (stop.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || wakes.send(other.sleep(Duration::from_secs(24 * 3600))));
        stop.set();
        let stopped = woken.recv_timeout(Duration::from_secs(300));
        assert_eq!(stopped, Ok(true), "a sleeper of a day wakes when it is stopped");
        assert!(stop.is_set());
    }

    #[test]
    fn callbacks_run_when_the_flag_is_set_unless_they_were_removed() {
        let (stop, calls) = (Stop::new(), Arc::new(AtomicUsize::new(0)));
        let register = || {
            let calls = Arc::clone(&calls);
            stop.on_set(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (kept, removed) = (register(), register());
        drop(removed);
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        stop.set();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let late = register();
        assert_eq!(calls.load(Ordering::Relaxed), 2, "one that comes late is called at once");
        assert!(late.stop().is_same(&stop) && !kept.stop().is_same(&Stop::new()));
    }
}
