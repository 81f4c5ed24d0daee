//! Notifications to the service manager that started the program: ready, alive, stopping, and a status line.
//!
//! This is systemd's notification protocol, which is line-based: line breaks in names of bundles and sources are escaped.
//! Without `$NOTIFY_SOCKET` nothing is sent.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use spotter_engine::printable::printable;

/// Shortest time between two updates of the line that `systemctl status` shows.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Service {
    /// True if a service manager listens.
    listens: bool,
    /// Time between two watchdog notifications; `None` without a watchdog.
    alive_every: Option<Duration>,
    alive_sent: Option<Instant>,
    status: String,
    status_sent: Option<Instant>,
}

impl Service {
    /// The service manager that `$NOTIFY_SOCKET` and `$WATCHDOG_USEC` name.
    pub(crate) fn from_environment() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            listens,
            // Half the timeout, as sd_watchdog_enabled(3) advises.
            alive_every: sd_notify::watchdog_enabled().filter(|_| listens).map(|limit| limit / 2),
            alive_sent: None,
            status: String::new(),
            status_sent: None,
        }
    }

    /// Sends the status while the program starts.
    pub(crate) fn starting(&mut self, status: &str) {
        self.notify(&[NotifyState::Status(&printable(status))]);
    }

    /// Says that the program is ready.
    pub(crate) fn ready(&mut self, status: &str) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(&printable(status))]);
    }

    /// Feeds the watchdog. Call it often; it sends only when due.
    pub(crate) fn alive(&mut self, now: Instant) {
        if self.alive_every.is_some_and(|every| is_due(self.alive_sent, every, now)) {
            self.alive_sent = Some(now);
            self.notify(&[NotifyState::Watchdog]);
        }
    }

    /// Updates the status line. Call it often; `status` is called only when an update is due.
    pub(crate) fn status(&mut self, now: Instant, status: impl FnOnce() -> String) {
        if !self.listens || !is_due(self.status_sent, STATUS_EVERY, now) {
            return;
        }
        self.status_sent = Some(now);
        let status = status();
        if status != self.status {
            self.notify(&[NotifyState::Status(&printable(&status))]);
            self.status = status;
        }
    }

    /// Says that the program is stopping.
    pub(crate) fn stopping(&mut self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn notify(&mut self, states: &[NotifyState<'_>]) {
        if !self.listens {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            log::warn!("cannot notify the service manager: {error}");
            // One warning is enough.
            self.listens = false;
            self.alive_every = None;
        }
    }
}

fn is_due(sent: Option<Instant>, every: Duration, now: Instant) -> bool {
    sent.is_none_or(|sent| now.saturating_duration_since(sent) >= every)
}
