//! Notices: changes of states told to programs and servers, each on a thread of its own, so that a receiver that is slow, hangs
//! or is gone costs the loop nothing.

mod queue;
mod selection;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::queue::{Next, Queue};
use self::selection::Selection;
use super::Decision;
use super::command::CommandSender;
use super::notice::{Notice, NoticePicture, Sender};
use crate::config::Notify;
#[cfg(feature = "http")]
use crate::config::notify::Form;
use crate::config::notify::{Http, Receiver};
use crate::process::children::kill_all;
use crate::process::group::{END_GRACE, is_program};
use crate::process::supervise::{Heartbeat, fault_point, spawn};
use crate::process::{STOP_CHECK, Stop};

/// Heartbeat interval of a sender that has nothing to send.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Time beyond its limit after which an attempt counts as hung: the limits of programs and requests are kept by themselves.
const SLACK: Duration = Duration::from_secs(30);

/// Wait before the second attempt; doubled for each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Shortest time between two reports of notices that were lost by one receiver.
const LOSS_REPORT_EVERY: Duration = Duration::from_secs(5);

/// Time that what waits gets at the end of a source. A signal cuts it short.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// The receivers.
#[derive(Debug)]
pub(crate) struct Notifiers {
    list: Vec<Notifier>,
    /// Set when attempts are to end.
    ending: Stop,
}

/// A receiver.
#[derive(Debug)]
struct Notifier {
    selection: Selection,
    takes_pictures: bool,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Lost notices that were reported, and when.
    told: (u64, Option<Instant>),
}

/// What the loop and a sender share.
#[derive(Debug)]
struct Shared {
    /// The receiver for people, without secrets.
    name: String,
    queue: Queue,
    beat: Heartbeat,
    /// A notice was taken and has neither arrived nor failed.
    is_sending: AtomicBool,
    sent: AtomicU64,
    lost: AtomicU64,
    /// Why the last one was lost.
    why: Mutex<String>,
}

/// How many notices arrived, and how many were lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

impl Notifiers {
    /// Starts a thread for each receiver.
    ///
    /// # Errors
    /// The system cannot start another thread.
    pub(crate) fn start(receivers: &[Notify]) -> io::Result<Self> {
        let ending = Stop::new();
        let start = |notify: &Notify| Notifier::start(notify, sender(notify), &ending);
        let list = receivers.iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { list, ending })
    }

    /// Hands a change to the receivers that want it; `picture` copies the frame, if there is one. Never waits.
    pub(crate) fn tell(&mut self, decision: &Decision, picture: impl Fn() -> Option<NoticePicture>) {
        let mut copied: Option<Option<Arc<NoticePicture>>> = None;
        for Notifier { selection, takes_pictures, shared, .. } in &mut self.list {
            if !selection.takes(&decision.change) {
                continue;
            }
            let picture =
                takes_pictures.then(|| copied.get_or_insert_with(|| picture().map(Arc::new)).clone()).flatten();
            let lost = shared.queue.push(Notice { decision: decision.clone(), picture });
            if lost > 0 {
                shared.lose(lost, "the receiver is too slow".to_owned());
            }
        }
    }

    /// What is to be reported about lost notices, one message a receiver; from time to time.
    pub(crate) fn losses(&mut self, now: Instant) -> Vec<String> {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= LOSS_REPORT_EVERY);
        self.list
            .iter_mut()
            .filter(|notifier| is_due(notifier.told.1))
            .filter_map(|notifier| notifier.loss(now))
            .collect()
    }

    /// The sums over all receivers.
    pub(crate) fn counts(&self) -> Counts {
        let sum = |of: fn(&Shared) -> &AtomicU64| self.list.iter().map(|n| of(&n.shared).load(Ordering::Relaxed)).sum();
        Counts { sent: sum(|shared| &shared.sent), lost: sum(|shared| &shared.lost) }
    }

    /// Returns whether a sender hangs beyond all its limits.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        self.list.iter().any(|notifier| notifier.shared.beat.is_missed(now))
    }

    /// Lets what waits be sent for up to [`FINISH_MAX`], or until `signalled` is set, then ends the senders; returns what is
    /// to be reported. A request that still waits for its answer is left behind, since nothing can end it.
    pub(crate) fn finish(mut self, signalled: &AtomicBool) -> Vec<String> {
        self.list.iter().for_each(|notifier| notifier.shared.queue.close());
        let is_running = |n: &Notifier| n.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        let wait = |limit: Duration, also: &dyn Fn() -> bool| {
            let start = Instant::now();
            while self.list.iter().any(is_running) && start.elapsed() < limit && also() {
                std::thread::sleep(STOP_CHECK);
            }
        };
        wait(FINISH_MAX, &|| !signalled.load(Ordering::Acquire));
        self.ending.set();
        wait(END_GRACE + STOP_CHECK, &|| true);
        if self.list.iter().any(is_running) {
            // Of a program that did not end in time nothing may stay.
            kill_all();
        }
        let now = Instant::now();
        for Notifier { shared, .. } in &self.list {
            let left = shared.queue.clear() + u64::from(shared.is_sending.load(Ordering::Acquire));
            if left > 0 {
                shared.lose(left, "this program ended first".to_owned());
            }
        }
        self.list.iter_mut().filter_map(|notifier| notifier.loss(now)).collect()
    }
}

impl Notifier {
    fn start(notify: &Notify, sender: Option<Box<dyn Sender>>, ending: &Stop) -> io::Result<Self> {
        let (retries, takes_pictures) = match &notify.receiver {
            Receiver::Command(_) => (0, false),
            Receiver::Http(http) => (http.retries, takes_pictures(http)),
        };
        let shared = Arc::new(Shared {
            name: name(&notify.receiver),
            queue: Queue::default(),
            beat: Heartbeat::new(Some(SLACK), Instant::now()),
            is_sending: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            why: Mutex::default(),
        });
        let thread = sender
            .map(|mut sender| {
                let (shared, ending) = (Arc::clone(&shared), ending.clone());
                spawn("notify", move || shared.work(&mut *sender, retries, &ending))
            })
            .transpose()?;
        Ok(Self { selection: Selection::new(notify), takes_pictures, shared, thread, told: (0, None) })
    }

    /// What is to be reported about lost notices, if there are more than were told of.
    fn loss(&mut self, now: Instant) -> Option<String> {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let new = lost - self.told.0;
        if new == 0 {
            return None;
        }
        self.told = (lost, Some(now));
        let why = self.shared.why.lock().unwrap_or_else(PoisonError::into_inner);
        let notices = if new == 1 { "notice" } else { "notices" };
        Some(format!("{new} {notices} to {} ({lost} so far), the last: {why}", self.shared.name))
    }
}

impl Shared {
    /// Counts notices as lost.
    fn lose(&self, count: u64, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// The life of a sender's thread.
    fn work(&self, sender: &mut dyn Sender, retries: u32, ending: &Stop) {
        loop {
            self.beat.beat(Instant::now());
            fault_point("notify");
            match self.queue.take(BEAT_EVERY) {
                Next::Notice(notice) => {
                    self.is_sending.store(true, Ordering::Release);
                    self.deliver(&notice, sender, retries, ending);
                    self.is_sending.store(false, Ordering::Release);
                }
                Next::Nothing => {}
                Next::Closed => break,
            }
            if ending.is_set() {
                break;
            }
        }
        self.beat.pause();
    }

    fn deliver(&self, notice: &Notice, sender: &mut dyn Sender, retries: u32, ending: &Stop) {
        let mut wait = RETRY_FIRST;
        for attempt in 0.. {
            self.beat.beat_for(Instant::now(), sender.step_max() + SLACK);
            let failure = match sender.send(notice, ending) {
                Ok(()) => {
                    self.sent.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(failure) => failure,
            };
            log::debug!("{}: {}", self.name, failure.message);
            self.beat.beat_for(Instant::now(), wait + SLACK);
            if !failure.is_transient || attempt == retries || ending.sleep(wait) {
                return self.lose(1, failure.message);
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}

/// A receiver for people: without arguments, path and query, which may be secret.
fn name(receiver: &Receiver) -> String {
    match receiver {
        Receiver::Command(words) => format!("`{}`", words.first().map_or("", String::as_str)),
        Receiver::Http(http) => {
            let path = http.url.find("://").and_then(|at| Some(at + 3 + http.url[at + 3..].find(['/', '?', '#'])?));
            http.url[..path.unwrap_or(http.url.len())].to_owned()
        }
    }
}

#[cfg(feature = "http")]
fn takes_pictures(http: &Http) -> bool {
    match &http.form {
        Form::Webhook => false,
        Form::Ntfy(message, _) | Form::Apprise(message) => message.picture,
    }
}

#[cfg(not(feature = "http"))]
fn takes_pictures(_http: &Http) -> bool {
    false
}

/// The sender for a receiver; `None` if this build has none, which the configuration refuses.
fn sender(notify: &Notify) -> Option<Box<dyn Sender>> {
    match &notify.receiver {
        Receiver::Command(words) => Some(Box::new(CommandSender::new(words, notify.timeout))),
        Receiver::Http(http) => http_sender(http, notify.timeout),
    }
}

#[cfg(feature = "http")]
fn http_sender(http: &Http, timeout: Duration) -> Option<Box<dyn Sender>> {
    let client = super::http::Client::new(http, timeout);
    Some(match &http.form {
        Form::Webhook => Box::new(super::webhook::Webhook::new(client)),
        Form::Ntfy(message, options) => Box::new(super::ntfy::Ntfy::new(client, message, options)),
        Form::Apprise(message) => Box::new(super::apprise::Apprise::new(client, message)),
    })
}

#[cfg(not(feature = "http"))]
fn http_sender(_http: &Http, _timeout: Duration) -> Option<Box<dyn Sender>> {
    None
}

/// Finds what would keep notices from arriving, without sending any: missing programs, unreadable secrets and certificates.
pub(crate) fn problems(receivers: &[Notify]) -> Vec<String> {
    let found = receivers.iter().flat_map(|notify| {
        let of: Vec<String> = match &notify.receiver {
            Receiver::Command(words) => {
                let program = words.first().map_or("", String::as_str);
                let missing = || format!("{program}: not found, or not a program");
                (!is_program(program)).then(missing).into_iter().collect()
            }
            #[cfg(feature = "http")]
            Receiver::Http(http) => super::http::problems(http),
            #[cfg(not(feature = "http"))]
            Receiver::Http(_) => Vec::new(),
        };
        let line = notify.position.line;
        of.into_iter().map(move |problem| format!("`[[notify]]` in line {line}: {problem}"))
    });
    found.collect()
}

/// Finds chosen labels that are neither among `labels`, which are pairs of question and name, nor a question.
pub(crate) fn unknown_labels<'a>(
    receivers: &[Notify],
    labels: impl Iterator<Item = (Option<&'a str>, &'a str)> + Clone,
) -> Vec<String> {
    let is_known = |chosen: &str| {
        labels.clone().any(|(question, name)| {
            name == chosen || question == Some(chosen) || super::full_name(question, name) == chosen
        })
    };
    let mut found = Vec::new();
    for notify in receivers {
        for chosen in notify.labels.iter().flatten().filter(|chosen| !is_known(chosen)) {
            let line = notify.position.line;
            found.push(format!(
                "`[[notify]]` in line {line}: `labels`: no label or question `{chosen}`, so nothing is told about it; a label \
                 of a question may be written `question: label`"
            ));
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
