//! The source thread: passes frames on and reopens a lost source.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::SKIP_REPORT_EVERY;
use super::health::Health;
use super::latest_frame::LatestFrame;
use crate::output::{Event, EventKind, Item};
use crate::process::Stop;
use crate::process::supervise::fault_point;
use crate::source::{self, CaptureOptions, Frame, Opened, Source, SourceError, Uri};

/// Pauses before a lost source is reopened; each is twice as long as the one before.
#[derive(Debug, Clone, Copy)]
struct BackOff {
    first: Duration,
    max: Duration,
}

/// A replugged camera needs about the first pause, and should be found soon.
const DEVICE: BackOff = BackOff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// A camera program takes about a second and a whole core to start; a camera on the network should not be called in vain too often.
const PROGRAM: BackOff = BackOff { first: Duration::from_millis(500), max: Duration::from_secs(5) };

/// Age at which a frame of a pipe is replaced by a newer one: long enough for a short recording, which comes all at once, to
/// be labelled whole, and short enough for a camera.
const PIPE_AGE_MAX: Duration = Duration::from_millis(500);

/// Maximum number of reported reasons per loss: a program with a different message each time would fill the log.
const REASONS_MAX: u32 = 3;

/// Time for which transient driver errors are retried at the start. The model is not loaded yet, so a permanent error is reported
/// soon.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Destination of the source's frames and events.
pub(super) struct Target<'a> {
    pub(super) mailbox: &'a LatestFrame,
    pub(super) stop: &'a Stop,
    /// Events that find no room are lost; the log has them.
    pub(super) events: SyncSender<Item>,
    pub(super) health: &'a Health,
}

/// An open source, and the error of earlier attempts to open it.
pub(super) struct Begun {
    pub(super) opened: Opened,
    trouble: Option<(Lost, SourceError)>,
}

/// Opens the source at the start. Transient errors of a device are retried for a while; a device that is missing, busy or not
/// permitted is an error at once.
pub(super) fn open(uri: &Uri, options: &CaptureOptions, stop: &Stop) -> Result<Begun, SourceError> {
    begin(stop, |waited| waited >= START_PATIENCE, || source::open(uri, options))
}

/// Retries to open the source until `is_over`, called with the time since the first failure.
fn begin(
    stop: &Stop,
    is_over: impl Fn(Duration) -> bool,
    mut open: impl FnMut() -> Result<Opened, SourceError>,
) -> Result<Begun, SourceError> {
    let mut trouble: Option<(Lost, SourceError)> = None;
    loop {
        let error = match open() {
            Ok(opened) => return Ok(Begun { opened, trouble }),
            Err(error) => error,
        };
        let may_pass = matches!(error, SourceError::Device { .. }) && error.is_transient();
        let mut lost = trouble.take().map_or_else(|| Lost::now(DEVICE), |(lost, _)| lost);
        if !may_pass || is_over(lost.since.elapsed()) || lost.wait(stop) {
            return Err(error);
        }
        trouble = Some((lost, error));
    }
}

/// Passes frames on until the source ends, fails for good, or is stopped. Frames are numbered from 0, across reopenings.
pub(super) fn run(begun: Begun, options: &CaptureOptions, target: Target<'_>) -> Result<(), SourceError> {
    let Begun { opened: Opened { source, uri }, trouble } = begun;
    let open = |uri: &Uri| source::open(uri, options).map(|opened| opened.source);
    let back_off = if uri.is_slow_to_open() { PROGRAM } else { DEVICE };
    let mut capture = Capture::new(target, back_off, &uri);
    if let Some((lost, error)) = trouble {
        capture.lost = Some(lost);
        capture.lose(error, "trying to reopen it");
    }
    capture.run(source, || open(&uri))
}

/// A source that gives no frames.
struct Lost {
    since: Instant,
    tries: u32,
    pause: Duration,
    pause_max: Duration,
    /// The last reported reason.
    reason: String,
    /// Number of reported reasons.
    reported: u32,
}

impl Lost {
    fn now(back_off: BackOff) -> Self {
        let BackOff { first: pause, max: pause_max } = back_off;
        Lost { since: Instant::now(), tries: 0, pause, pause_max, reason: String::new(), reported: 0 }
    }

    /// Waits before the next attempt, longer each time; `true` when stopped.
    fn wait(&mut self, stop: &Stop) -> bool {
        if stop.sleep(self.pause) {
            return true;
        }
        self.tries += 1;
        self.pause = (self.pause * 2).min(self.pause_max);
        false
    }
}

struct Capture<'a> {
    target: Target<'a>,
    frame: Frame,
    number: u64,
    back_off: BackOff,
    /// The source is a camera, which is reopened after any error.
    is_camera: bool,
    /// Frames come through standard input.
    is_pipe: bool,
    /// Start of the loop: earlier frames waited for the model.
    begun: Instant,
    lost: Option<Lost>,
    /// The source is a pipe that gives no frames and stays open.
    silent: bool,
    skip_reported: Option<Instant>,
    /// Shortest time between two reports of skipped frames.
    skip_report_every: Duration,
}

impl<'a> Capture<'a> {
    fn new(target: Target<'a>, back_off: BackOff, uri: &Uri) -> Self {
        let frame = Frame::default();
        let (is_camera, is_pipe, begun) = (uri.is_camera(), uri.is_pipe(), Instant::now());
        Self {
            target,
            frame,
            number: 0,
            back_off,
            is_camera,
            is_pipe,
            begun,
            lost: None,
            silent: false,
            skip_reported: None,
            skip_report_every: SKIP_REPORT_EVERY,
        }
    }

    fn run(
        mut self,
        mut source: Box<dyn Source>,
        mut open: impl FnMut() -> Result<Box<dyn Source>, SourceError>,
    ) -> Result<(), SourceError> {
        loop {
            let pumped = self.pump(&mut *source);
            // That error already describes what was skipped.
            if !matches!(pumped, Err(SourceError::NoFrames { .. })) {
                self.report_skipped(&mut *source);
            }
            match pumped {
                Ok(()) => return Ok(()),
                // A camera program may have been asked to end together with this one.
                Err(_) if self.target.stop.is_set() => return Ok(()),
                Err(error) if self.is_final(&error) => return Err(error),
                // A pipe cannot be reopened, but may continue.
                Err(error @ SourceError::Silent { .. }) => {
                    self.silent = true;
                    self.lose(error, "waiting for it");
                    continue;
                }
                Err(error) => self.lose(error, "trying to reopen it"),
            }
            // A camera can be open only once.
            drop(source);
            match self.reopen(&mut open) {
                Some(again) => source = again,
                None => return Ok(()),
            }
        }
    }

    /// Returns whether an error ends the program. Rare errors of a camera or its program must not: after the first frame it
    /// is reopened after any error.
    fn is_final(&self, error: &SourceError) -> bool {
        match error {
            // A camera program that never gave a frame was called wrongly, or has no camera.
            SourceError::Ended { .. } if self.number == 0 => true,
            // The program that plays a video would begin again.
            SourceError::Ended { .. } | SourceError::Hung { .. } if !self.is_camera => true,
            _ if self.number > 0 && self.is_camera => false,
            _ => !error.is_transient(),
        }
    }

    fn pump(&mut self, source: &mut dyn Source) -> Result<(), SourceError> {
        let live = source.is_live();
        while !self.target.stop.is_set() {
            fault_point("capture");
            // Lasting silence is no heartbeat.
            if !self.silent {
                self.target.health.beat(Instant::now());
            }
            self.frame.reset(self.number);
            if !source.next(&mut self.frame, self.target.stop)? {
                return Ok(());
            }
            self.found(source);
            self.number += 1;
            if live && self.is_pipe {
                let deadline = self.frame.captured.max(self.begun) + PIPE_AGE_MAX;
                self.target.mailbox.put_by(&mut self.frame, deadline);
            } else if live {
                self.target.mailbox.put_newest(&mut self.frame);
            } else if !self.target.mailbox.put_waiting(&mut self.frame) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reports a loss and what is done about it. Until frames come again each reason is reported only once in a row, so that a
    /// restarted program which now writes an error page is noticed.
    fn lose(&mut self, error: SourceError, action: &str) {
        let message = format!("{:#}", anyhow::Error::from(error));
        let lost = self.lost.get_or_insert_with(|| Lost::now(self.back_off));
        if lost.reported == REASONS_MAX || lost.reason == message {
            log::debug!("try {}: {message}", lost.tries);
            return;
        }
        lost.reported += 1;
        lost.reason.clone_from(&message);
        log::warn!("{message}; {action}");
        self.target.health.set_lost(true);
        self.send(EventKind::SourceLost, message);
    }

    /// After a frame: reports that a lost source is back, and from time to time what the source has skipped.
    fn found(&mut self, source: &mut dyn Source) {
        if let Some(lost) = self.lost.take() {
            let seconds = lost.since.elapsed().as_secs_f32();
            let tries = if self.silent { String::new() } else { format!(" and {} tries", lost.tries) };
            let message = format!("after {seconds:.1} s{tries}: {}", source.describe());
            self.silent = false;
            log::info!("source is back {message}");
            self.target.health.set_lost(false);
            self.send(EventKind::SourceBack, message);
        }
        if self.skip_reported.is_none_or(|at| at.elapsed() >= self.skip_report_every) {
            self.report_skipped(source);
        }
    }

    fn report_skipped(&mut self, source: &mut dyn Source) {
        if let Some(message) = source.skipped() {
            log::warn!("skipped: {message}");
            self.skip_reported = Some(Instant::now());
            self.send(EventKind::FramesSkipped, message);
        }
    }

    fn send(&self, kind: EventKind, message: String) {
        let _ = self.target.events.try_send(Item::Event(Event::now(kind, message)));
    }

    /// Reopens the source, with ever longer pauses until a frame comes; `None` when stopped.
    fn reopen(&mut self, open: &mut impl FnMut() -> Result<Box<dyn Source>, SourceError>) -> Option<Box<dyn Source>> {
        loop {
            let lost = self.lost.get_or_insert_with(|| Lost::now(self.back_off));
            if lost.wait(self.target.stop) {
                return None;
            }
            self.target.health.beat(Instant::now());
            match open() {
                Ok(source) => return Some(source),
                Err(error) => log::debug!("try {}: {:#}", lost.tries, anyhow::Error::from(error)),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests;
