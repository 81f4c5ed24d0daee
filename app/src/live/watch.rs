//! Watches a file for changes of any kind.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, mem};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};

use crate::process::supervise::{self, Heartbeat};
use places::{Places, Stamp};

mod places;

/// Quiet time after which a burst of changes is over: an editor saves with several changes within milliseconds.
const QUIET: Duration = Duration::from_millis(100);

/// Longest burst: changes without a pause take effect after this time at the latest.
const BURST_MAX: Duration = Duration::from_secs(1);

/// Poll interval, for file systems without events (NFS, overlays, FUSE).
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Longest call without a heartbeat of its own.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(300);

/// Longest step of the thread apart from calls.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(10);

/// Watches one file; stops when dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Calls `on_change`, on a thread of its own, after each change of the file's content: when it is written in place,
    /// replaced, deleted or created, or when a symbolic link on its path changes. Changes in quick succession cause one call;
    /// the last call always comes after the last change. The file need not exist. Changes before this returns are not
    /// noticed, so read the file afterwards. `beat` is the thread's heartbeat.
    pub(crate) fn start(
        path: &Path,
        beat: Arc<Heartbeat>,
        on_change: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_with(path, &DEFAULT, beat, on_change)
    }

    /// Causes a call as if the file had changed, without waiting for quiet.
    pub(crate) fn poke(&self) {
        self.signals.send(|pending| pending.poked = true);
    }

    fn start_with(
        path: &Path,
        method: &Method,
        beat: Arc<Heartbeat>,
        on_change: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let signals = Arc::new(Signals::default());
        let handler = {
            let signals = Arc::clone(&signals);
            move |event: notify::Result<Event>| signals.event(&event)
        };
        let notifier = if method.events { notify::recommended_watcher(handler).inspect_err(warn).ok() } else { None };
        let mut places = Places::new(path, notifier);
        signals.concerns(places.refresh());
        let stamp = places.stamp();
        let thread = {
            let signals = Arc::clone(&signals);
            let method = *method;
            supervise::spawn("watcher", move || watch(&signals, places, stamp, &method, &beat, on_change))?
        };
        Ok(Self { signals, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    /// Waits for the end of a running call, so it must not happen within one.
    fn drop(&mut self) {
        self.signals.send(|pending| pending.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has ended the program.
            let _ = thread.join();
        }
    }
}

/// The method of noticing changes, and the timing of calls.
#[derive(Debug, Clone, Copy)]
struct Method {
    /// Ask the system for events.
    events: bool,
    /// Time without an event after which the file is polled.
    poll_every: Duration,
    /// Time without a change after which a burst is over.
    quiet: Duration,
    /// Longest burst before a call.
    burst_max: Duration,
}

const DEFAULT: Method = Method { events: true, poll_every: POLL_EVERY, quiet: QUIET, burst_max: BURST_MAX };

fn warn(error: &notify::Error) {
    log::warn!("no events for changed files, so they are polled every second: {error}");
}

/// Events that the thread has not handled yet.
#[derive(Debug, Default)]
struct Pending {
    changed: bool,
    poked: bool,
    stop: bool,
}

/// Passes events to the thread; bounded, since equal events are merged.
#[derive(Debug, Default)]
struct Signals {
    pending: Mutex<Pending>,
    arrived: Condvar,
    /// The file, and every symbolic link on its path.
    concerned: Mutex<Vec<PathBuf>>,
}

impl Signals {
    fn send(&self, note: impl FnOnce(&mut Pending)) {
        note(&mut lock(&self.pending));
        self.arrived.notify_one();
    }

    fn concerns(&self, paths: Vec<PathBuf>) {
        *lock(&self.concerned) = paths;
    }

    /// Handles an event of the system. Events of other files in the folder do not count, which may be many, nor does reading,
    /// since the call reads the file.
    fn event(&self, event: &notify::Result<Event>) {
        let counts = match event {
            Ok(event) if event.need_rescan() => true,
            Ok(Event { kind: EventKind::Access(kind), .. }) if *kind != AccessKind::Close(AccessMode::Write) => false,
            Ok(event) => {
                let concerned = lock(&self.concerned);
                // When a watched folder itself vanishes or changes, the event names only the folder.
                event.paths.iter().any(|path| concerned.iter().any(|c| c == path || c.parent() == Some(path)))
            }
            Err(_) => true,
        };
        if counts {
            self.send(|pending| pending.changed = true);
        }
    }

    /// Waits for an event, at most for `time`, and takes it.
    fn take(&self, time: Duration) -> Pending {
        let nothing = |p: &mut Pending| !(p.changed || p.poked || p.stop);
        let waited = self.arrived.wait_timeout_while(lock(&self.pending), time, nothing);
        mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The guarded values are consistent at any moment, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(
    signals: &Signals,
    mut places: Places,
    mut known: Option<Stamp>,
    method: &Method,
    beat: &Heartbeat,
    mut on_change: impl FnMut(),
) {
    loop {
        beat.beat(Instant::now());
        supervise::fault_point("watcher");
        let mut news = signals.take(method.poll_every);
        if !(news.changed || news.poked || news.stop) {
            news.changed = places.stamp() != known;
        }
        if news.changed && !news.poked {
            let burst = Instant::now();
            while news.changed && !news.poked && !news.stop && burst.elapsed() < method.burst_max {
                news = signals.take(method.quiet);
            }
            news.changed = true;
        }
        if news.stop {
            return;
        }
        if news.changed || news.poked {
            // In this order: later changes are noticed, and the call sees earlier ones.
            signals.concerns(places.refresh());
            known = places.stamp();
            beat.beat_for(Instant::now(), CALL_MAX);
            on_change();
        }
    }
}

#[cfg(test)]
mod tests;
