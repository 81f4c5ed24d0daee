//! What the service manager is told, where one started the program: ready, alive, stopping, and how it goes.
//!
//! This is systemd's notification protocol, which has a line for each thing that is told: names of bundles and sources
//! make no lines of their own. Without `$NOTIFY_SOCKET` nothing is told and nothing costs anything.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use spotter_engine::printable::printable;

/// The line that `systemctl status` shows is renewed this often, if it changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Service {
    /// Whether there is one that listens.
    listens: bool,
    /// Time from one sign of life to the next; `None` where nobody waits for any.
    alive_every: Option<Duration>,
    alive_told: Option<Instant>,
    status: String,
    status_told: Option<Instant>,
}

impl Service {
    /// The one that `$NOTIFY_SOCKET` and `$WATCHDOG_USEC` speak of.
    pub fn from_environment() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            listens,
            // Half the time that may pass, as sd_watchdog_enabled(3) advises.
            alive_every: sd_notify::watchdog_enabled().filter(|_| listens).map(|limit| limit / 2),
            alive_told: None,
            status: String::new(),
            status_told: None,
        }
    }

    /// Says what the program does on its way to being ready.
    pub fn starting(&mut self, status: &str) {
        self.tell(&[NotifyState::Status(&printable(status))]);
    }

    /// Says that the program does its work from now on.
    pub fn ready(&mut self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&printable(status))]);
    }

    /// Says that the program is alive; to be called often, it tells no more than it has to.
    pub fn alive(&mut self, now: Instant) {
        if self.alive_every.is_some_and(|every| is_due(self.alive_told, every, now)) {
            self.alive_told = Some(now);
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Says how it goes; to be called often. `status` is asked for only when it is time to tell.
    pub fn status(&mut self, now: Instant, status: impl FnOnce() -> String) {
        if !self.listens || !is_due(self.status_told, STATUS_EVERY, now) {
            return;
        }
        self.status_told = Some(now);
        let status = status();
        if status != self.status {
            self.tell(&[NotifyState::Status(&printable(&status))]);
            self.status = status;
        }
    }

    /// Says that the program is about to end.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&mut self, what: &[NotifyState<'_>]) {
        if !self.listens {
            return;
        }
        if let Err(error) = sd_notify::notify(what) {
            log::warn!("the service manager cannot be told anything: {error}");
            // It will find that out by itself; a warning for every sign of life helps nobody.
            self.listens = false;
            self.alive_every = None;
        }
    }
}

fn is_due(told: Option<Instant>, every: Duration, now: Instant) -> bool {
    told.is_none_or(|told| now.saturating_duration_since(told) >= every)
}
