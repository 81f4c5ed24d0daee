//! Notices that a file has changed, however that was done.

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

/// An editor's save is a handful of changes within some milliseconds; after this long without one it is over.
const QUIET: Duration = Duration::from_millis(100);

/// Someone who saves without a pause sees the effect after this long at the latest.
const BURST_MAX: Duration = Duration::from_secs(1);

/// How often the file is looked at without an event: some file systems (NFS, overlays, FUSE) have none.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A call takes no longer, or gives signs of life itself.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(300);

/// The thread takes less for all else.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(10);

/// Watches one file; stops when dropped.
#[derive(Debug)]
pub struct Watcher {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Calls `on_change`, on a thread of its own, after each change of the file's content, be it written in place,
    /// replaced, deleted, created, or put in the place of another by a change of a symbolic link on the way to it.
    /// Changes in quick succession give one call; the last call always comes after the last change. The file need not
    /// exist. Changes before this returns are not noticed, so read the file after it.
    /// The thread gives signs of life to `beat`.
    pub(crate) fn start(path: &Path, beat: Arc<Heartbeat>, on_change: impl FnMut() + Send + 'static) -> io::Result<Self> {
        Self::start_with(path, &MEANS, beat, on_change)
    }

    /// Has the call made as if the file had changed, without waiting for quiet.
    pub fn poke(&self) {
        self.signals.send(|pending| pending.poked = true);
    }

    fn start_with(
        path: &Path,
        means: &Means,
        beat: Arc<Heartbeat>,
        on_change: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let signals = Arc::new(Signals::default());
        let handler = {
            let signals = Arc::clone(&signals);
            move |event: notify::Result<Event>| signals.event(&event)
        };
        let notifier = if means.events { notify::recommended_watcher(handler).inspect_err(warn).ok() } else { None };
        let mut places = Places::new(path, notifier);
        signals.concerns(places.refresh());
        let stamp = places.stamp();
        let thread = {
            let signals = Arc::clone(&signals);
            let means = *means;
            supervise::spawn("watcher", move || watch(&signals, places, stamp, &means, &beat, on_change))?
        };
        Ok(Self { signals, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    /// Waits for the end of a call under way; must therefore not happen within one.
    fn drop(&mut self) {
        self.signals.send(|pending| pending.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic in it has ended the program.
            let _ = thread.join();
        }
    }
}

/// By what means changes are noticed, and when they are told.
#[derive(Debug, Clone, Copy)]
struct Means {
    /// The system is asked to tell of them.
    events: bool,
    /// Time after which the file is looked at if nothing was told.
    look_every: Duration,
    /// Time without a change after which a burst of them is over.
    quiet: Duration,
    /// The longest that a burst may last before it is told.
    burst_max: Duration,
}

const MEANS: Means = Means { events: true, look_every: LOOK_EVERY, quiet: QUIET, burst_max: BURST_MAX };

fn warn(error: &notify::Error) {
    log::warn!("the system does not tell of changed files, so they are looked at every second: {error}");
}

/// What the thread has been told and not yet looked at.
#[derive(Debug, Default)]
struct Pending {
    changed: bool,
    poked: bool,
    stop: bool,
}

/// Takes what happens to the thread; bounded, as all of a kind is one.
#[derive(Debug, Default)]
struct Signals {
    pending: Mutex<Pending>,
    arrived: Condvar,
    /// The file, and every symbolic link on the way to it.
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

    /// Takes what the system tells. A folder with the file in it may be a busy one, so other files' events must not count,
    /// nor may reading do: the call reads the file.
    fn event(&self, event: &notify::Result<Event>) {
        let counts = match event {
            Ok(event) if event.need_rescan() => true,
            Ok(Event { kind: EventKind::Access(kind), .. }) if *kind != AccessKind::Close(AccessMode::Write) => false,
            Ok(event) => {
                let concerned = lock(&self.concerned);
                // A watched folder that itself goes or changes is named alone, and may take the file with it.
                event.paths.iter().any(|path| concerned.iter().any(|c| c == path || c.parent() == Some(path)))
            }
            Err(_) => true,
        };
        if counts {
            self.send(|pending| pending.changed = true);
        }
    }

    /// Waits until something arrives, at most for `time`, and takes it.
    fn take(&self, time: Duration) -> Pending {
        let nothing = |p: &mut Pending| !(p.changed || p.poked || p.stop);
        let waited = self.arrived.wait_timeout_while(lock(&self.pending), time, nothing);
        mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// What the locks guard is whole at any moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(
    signals: &Signals,
    mut places: Places,
    mut known: Option<Stamp>,
    means: &Means,
    beat: &Heartbeat,
    mut on_change: impl FnMut(),
) {
    loop {
        beat.beat(Instant::now());
        supervise::fault_point("watcher");
        let mut news = signals.take(means.look_every);
        if !(news.changed || news.poked || news.stop) {
            news.changed = places.stamp() != known;
        }
        if news.changed && !news.poked {
            let burst = Instant::now();
            while news.changed && !news.poked && !news.stop && burst.elapsed() < means.burst_max {
                news = signals.take(means.quiet);
            }
            news.changed = true;
        }
        if news.stop {
            return;
        }
        if news.changed || news.poked {
            // In this order: what changes after the look is noticed, what changed before is what the call sees.
            signals.concerns(places.refresh());
            known = places.stamp();
            beat.beat_for(Instant::now(), CALL_MAX);
            on_change();
        }
    }
}

#[cfg(test)]
mod tests;
