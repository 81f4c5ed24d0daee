//! The signal that ends the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a sleeper looks whether it was stopped: shorter than anybody notices, long enough to cost nothing.
pub(crate) const STOP_CHECK: Duration = Duration::from_millis(20);

/// A flag that is set once; its clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks everybody who holds a clone to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps for `duration`, or until the flag is set. Says whether it is set.
    pub fn sleep(&self, duration: Duration) -> bool {
        let start = Instant::now();
        while !self.is_set() {
            let left = duration.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(STOP_CHECK));
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn sleeps_whole_or_wakes_early() {
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
}
