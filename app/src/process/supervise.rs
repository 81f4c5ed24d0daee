//! Threads that must live. A panic in one ends the program at once; one that hangs gives no more signs of life, upon which
//! the service manager's watchdog ends it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::source::command::kill_all;

/// What a program ends with in which a thread panicked, as Rust has it for the first thread.
const PANICKED: i32 = 101;

/// Runs what is all of the life of the thread `name`. Where it panics the program ends with exit code 101, after the
/// panic's own words: without that thread it would go on and do nothing of use, or not even end.
pub(crate) fn supervised<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let alarm = Alarm { name };
    let result = work();
    std::mem::forget(alarm);
    result
}

/// The same on a new thread of that name.
///
/// # Errors
/// The system gives no more threads.
pub(crate) fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || supervised(name, work))
}

/// Dropped by nothing but a panic.
struct Alarm {
    name: &'static str,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        log::error!("the thread `{}` panicked, which ends the program", self.name);
        kill_all();
        exit(PANICKED);
    }
}

/// In the place of a time: the thread may take any.
const ANY_TIME: u64 = u64::MAX;

/// Signs of life of one thread, which another one looks at: each says until when the next one comes.
#[derive(Debug)]
pub(crate) struct Beat {
    start: Instant,
    /// Longest time from one sign to the next; `None` for a thread that may be silent for ever.
    silence_max: Option<Duration>,
    /// Milliseconds from `start` to when the next sign is due.
    due_ms: AtomicU64,
}

impl Beat {
    /// Of a thread that starts at `now`.
    pub(crate) fn new(silence_max: Option<Duration>, now: Instant) -> Self {
        let beat = Self { start: now, silence_max, due_ms: AtomicU64::new(ANY_TIME) };
        beat.give(now);
        beat
    }

    /// The thread is about to make its next bounded step.
    pub(crate) fn give(&self, now: Instant) {
        if let Some(max) = self.silence_max {
            self.give_for(now, max);
        }
    }

    /// The thread is about to make a step that takes at most `max`.
    pub(crate) fn give_for(&self, now: Instant, max: Duration) {
        let due = (now.saturating_duration_since(self.start) + max).as_millis();
        self.due_ms.store(u64::try_from(due).unwrap_or(ANY_TIME), Ordering::Relaxed);
    }

    /// The thread waits for something that may take any time, until it gives the next sign.
    pub(crate) fn wait(&self) {
        self.due_ms.store(ANY_TIME, Ordering::Relaxed);
    }

    /// Whether the thread hangs within one step.
    pub(crate) fn is_missed(&self, now: Instant) -> bool {
        let due_ms = self.due_ms.load(Ordering::Relaxed);
        due_ms != ANY_TIME && now.saturating_duration_since(self.start) > Duration::from_millis(due_ms)
    }
}

/// The beats of several threads that wait for each other: who works gives a sign for all.
pub(crate) type Beats = Vec<Arc<Beat>>;

/// Gives a sign for all of them, before a step that takes at most `max`.
pub(crate) fn give_all(beats: &[Arc<Beat>], max: Duration) {
    let now = Instant::now();
    beats.iter().for_each(|beat| beat.give_for(now, max));
}

/// What `work` gives; a panic in it is an error, where what it works on is thrown away then.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words");
        Err(anyhow!("the program panicked over it: {text}"))
    })
}

/// Panics, hangs, or asks for all memory (`eat`) where the environment asks for it in `SPOTTER_TEST_FAULT`, as in `panic
/// capture`: for tests, in builds that check their assertions.
pub(crate) fn fault_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        static FAULT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let wanted = FAULT.get_or_init(|| std::env::var("SPOTTER_TEST_FAULT").ok());
        match wanted.as_deref().and_then(|fault| fault.split_once(' ')) {
            Some(("panic", at)) if at == name => panic!("a fault in the thread `{name}`, for a test"),
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

/// Asks for memory until it gets none. Nothing of it is touched, so that only a limit ends this.
#[cfg(debug_assertions)]
fn eat() {
    const PIECE_BYTES: usize = 64 << 20;
    const PIECES_MAX: usize = 1 << 14;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    while pieces.len() < PIECES_MAX {
        pieces.push(std::hint::black_box(Vec::with_capacity(PIECE_BYTES)));
    }
    panic!("{} pieces of {PIECE_BYTES} bytes and no limit, for a test", pieces.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_without_end_is_missed() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let check = |max: Option<u64>, signs: &[u64], now: u64, expected: bool| {
            let beat = Beat::new(max.map(Duration::from_secs), start);
            signs.iter().for_each(|sign| beat.give(at(*sign)));
            assert_eq!(beat.is_missed(at(now)), expected, "{max:?} {signs:?} {now}");
        };
        check(Some(10), &[], 10, false);
        check(Some(10), &[], 11, true);
        check(Some(10), &[5, 12], 22, false);
        check(Some(10), &[5, 12], 23, true);
        check(None, &[], 1_000_000, false);
        let beat = Beat::new(Some(Duration::from_secs(10)), start);
        beat.wait();
        assert!(!beat.is_missed(at(1_000_000)), "who waits is not missed");
        beat.give(at(20));
        assert!(beat.is_missed(at(31)));
        beat.give_for(at(20), Duration::from_secs(100));
        assert!(!beat.is_missed(at(120)) && beat.is_missed(at(121)), "a step may be given more");
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let check = |work: fn() -> Result<u8>, expected: &str| {
            let found = caught(work).map_or_else(|error| error.to_string(), |value| value.to_string());
            assert!(found.contains(expected), "{found}");
        };
        check(|| Ok(7), "7");
        check(|| Err(anyhow!("plain")), "plain");
        check(|| panic!("of no {}", "use"), "the program panicked over it: of no use");
        check(|| panic!("at all"), "panicked over it: at all");
    }
}
