//! Threads that must live. A panic in one ends the program at once; one that hangs stops its heartbeat, and the service
//! manager's watchdog then ends the program.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::children::kill_all;

/// Exit code after a panic in any thread: the one that Rust uses for the main thread.
const PANICKED: i32 = 101;

/// Runs the whole life of the thread `name`. If it panics, the program exits with code 101 after the panic message: without
/// that thread it would do nothing useful, or never end.
pub(crate) fn supervised<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let guard = PanicGuard { name };
    let result = work();
    std::mem::forget(guard);
    result
}

/// Runs `work` as [`supervised`] does, on a new thread of that name.
///
/// # Errors
/// The system cannot start another thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || supervised(name, work))
}

/// Dropped only by a panic.
struct PanicGuard {
    name: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        log::error!("the thread `{}` panicked, which ends the program", self.name);
        kill_all();
        exit(PANICKED);
    }
}

/// Stands for "no deadline".
const NO_DEADLINE: u64 = u64::MAX;

/// Heartbeat of one thread, watched by another: each beat sets a deadline for the next one.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    start: Instant,
    /// Longest time between two beats; `None` for a thread that may be silent for ever.
    silence_max: Option<Duration>,
    /// Milliseconds from `start` to the deadline of the next beat.
    deadline_ms: AtomicU64,
}

impl Heartbeat {
    /// The heartbeat of a thread that starts at `now`.
    pub(crate) fn new(silence_max: Option<Duration>, now: Instant) -> Self {
        let heartbeat = Self { start: now, silence_max, deadline_ms: AtomicU64::new(NO_DEADLINE) };
        heartbeat.beat(now);
        heartbeat
    }

    /// Says that the thread is about to take its next bounded step.
    pub(crate) fn beat(&self, now: Instant) {
        if let Some(max) = self.silence_max {
            self.beat_for(now, max);
        }
    }

    /// Says that the thread is about to take a step of at most `max`.
    pub(crate) fn beat_for(&self, now: Instant, max: Duration) {
        let deadline = (now.saturating_duration_since(self.start) + max).as_millis();
        self.deadline_ms.store(u64::try_from(deadline).unwrap_or(NO_DEADLINE), Ordering::Relaxed);
    }

    /// Says that the thread waits for something that may take any time, until its next beat.
    pub(crate) fn pause(&self) {
        self.deadline_ms.store(NO_DEADLINE, Ordering::Relaxed);
    }

    /// Returns whether the deadline has passed: the thread hangs.
    pub(crate) fn is_missed(&self, now: Instant) -> bool {
        let deadline_ms = self.deadline_ms.load(Ordering::Relaxed);
        deadline_ms != NO_DEADLINE && now.saturating_duration_since(self.start) > Duration::from_millis(deadline_ms)
    }
}

/// Heartbeats of threads that wait for each other: whichever works beats for all.
pub(crate) type Heartbeats = Vec<Arc<Heartbeat>>;

/// Heartbeats for all of them, before a step of at most `max`.
pub(crate) fn beat_all(heartbeats: &[Arc<Heartbeat>], max: Duration) {
    let now = Instant::now();
    heartbeats.iter().for_each(|heartbeat| heartbeat.beat_for(now, max));
}

/// Runs `work` and turns a panic in it into an error. Only for work whose data is thrown away after a panic.
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(anyhow!("the program panicked: {text}"))
    })
}

/// Panics, hangs, or allocates without end (`eat`) at the point that the environment variable `SPOTTER_TEST_FAULT` names, as
/// in `panic capture`. For tests; only in builds with debug assertions.
pub(crate) fn fault_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        static FAULT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let wanted = FAULT.get_or_init(|| std::env::var("SPOTTER_TEST_FAULT").ok());
        match wanted.as_deref().and_then(|fault| fault.split_once(' ')) {
            Some(("panic", at)) if at == name => panic!("injected fault in the thread `{name}`"),
            Some(("hang", at)) if at == name => loop {
                thread::sleep(Duration::from_secs(1));
            },
            Some(("eat", at)) if at == name => eat(),
            _ => {}
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Allocates until an allocation fails. Nothing is touched, so only a limit on the address space or data ends this.
#[cfg(debug_assertions)]
fn eat() {
    const PIECE_BYTES: usize = 64 << 20;
    const PIECES_MAX: usize = 1 << 14;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    while pieces.len() < PIECES_MAX {
        pieces.push(std::hint::black_box(Vec::with_capacity(PIECE_BYTES)));
    }
    panic!("{} allocations of {PIECE_BYTES} bytes and no limit", pieces.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_hangs_is_missed() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let check = |max: Option<u64>, beats: &[u64], now: u64, expected: bool| {
            let heartbeat = Heartbeat::new(max.map(Duration::from_secs), start);
            beats.iter().for_each(|beat| heartbeat.beat(at(*beat)));
            assert_eq!(heartbeat.is_missed(at(now)), expected, "{max:?} {beats:?} {now}");
        };
        check(Some(10), &[], 10, false);
        check(Some(10), &[], 11, true);
        check(Some(10), &[5, 12], 22, false);
        check(Some(10), &[5, 12], 23, true);
        check(None, &[], 1_000_000, false);
        let heartbeat = Heartbeat::new(Some(Duration::from_secs(10)), start);
        heartbeat.pause();
        assert!(!heartbeat.is_missed(at(1_000_000)), "a paused thread misses nothing");
        heartbeat.beat(at(20));
        assert!(heartbeat.is_missed(at(31)));
        heartbeat.beat_for(at(20), Duration::from_secs(100));
        assert!(!heartbeat.is_missed(at(120)) && heartbeat.is_missed(at(121)), "a step may be given more time");
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let check = |work: fn() -> Result<u8>, expected: &str| {
            let found = catch_panic(work).map_or_else(|error| error.to_string(), |value| value.to_string());
            assert!(found.contains(expected), "{found}");
        };
        check(|| Ok(7), "7");
        check(|| Err(anyhow!("plain")), "plain");
        check(|| panic!("of no {}", "use"), "the program panicked: of no use");
        check(|| panic!("at all"), "panicked: at all");
    }
}
