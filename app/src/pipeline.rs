//! The loop: source thread, newest-frame slot, inference thread, output thread.
//!
//! One frame waits at most and the newest wins; pictures and recordings wait instead, so that none is left out. A slow
//! output of a live source loses reports, never frames.

mod capture;
mod health;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::capture::Target;
use self::health::Health;
use crate::compute;
use crate::config::Config;
use crate::demo;
use crate::live_labels::LiveLabels;
use crate::output::{Event, EventKind, Item, Output, Report};
use crate::recognizer::{Latency, Recognizer};
use crate::service::Service;
use crate::slot::{Slot, Taken};
use crate::source::{self, Frame, Stop, Uri};

/// How often the loop looks at its signals while no frame comes.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// Reports that wait for a slow output: two seconds of a camera, so that a short pause loses nothing.
const REPORTS_WAITING: usize = 64;

/// Broken frames of a stream or camera are reported no more often than this.
const SKIP_REPORT_EVERY: Duration = Duration::from_secs(5);

/// Weight of the newest frame in the smoothed rate: about the last ten frames count.
const RATE_WEIGHT: f32 = 0.1;

/// What the loop is given from outside.
#[derive(Debug, Clone, Default)]
pub struct Deps {
    /// Ends the loop.
    pub stop: Stop,
    /// Set once somebody outside asked for the end.
    pub signalled: Arc<AtomicBool>,
    /// Set by the loop once everything is loaded, so that `stop` is looked at often from then on.
    pub running: Arc<AtomicBool>,
    /// Set to have the labels read anew.
    pub reload: Arc<AtomicBool>,
    /// Labelled frames after which the loop ends.
    pub frames: Option<u64>,
}

/// Runs until the source ends, `deps.frames` were labelled, or `deps.stop` is set.
pub fn run(config: &Config, uri: &Uri, output: Box<dyn Output>, deps: &Deps) -> Result<()> {
    let mut service = Service::from_environment();
    service.starting("opening the source");
    let options = config.capture.options();
    // Before the model, which takes its time: that a camera is missing is told at once.
    let opened = source::open(uri, &options)?;
    let described = opened.source.describe();
    log::info!("source: {described}");
    service.starting("loading the model and embedding the labels");
    let bundle = Arc::new(demo::bundle(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let recognizer = Recognizer::open(&bundle, &threads)?;
    let labels = LiveLabels::start(config, &bundle, &threads)?;
    let live = opened.source.is_live();
    let slot = Slot::new();
    let health = Health::new(&opened.uri, options.timeout, Instant::now());
    let (send, receive) = sync_channel(REPORTS_WAITING);

    thread::scope(|scope| {
        let events = send.clone();
        let capture = scope.spawn(|| {
            let target = Target { slot: &slot, stop: &deps.stop, events, health: &health };
            let result = capture::run(opened, &options, target);
            slot.close();
            result
        });
        let writer = scope.spawn(|| write(output, receive, &deps.stop));
        deps.running.store(true, Ordering::Release);
        service.ready(&format!("waiting for the first frame of {described}"));
        let (top_k, source) = (config.inference.top_k, described.as_str());
        let looped =
            Loop { recognizer, labels, send, live, slot: &slot, health: &health, source, deps, top_k, service }.run();
        // Whatever ended the loop ends the other threads too.
        deps.stop.set();
        slot.close();
        let captured = capture.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let seen = looped?;
        captured?;
        written.context("standard output")?;
        log::info!("{} frames labelled, {} skipped, {} dropped", seen.labelled, seen.skipped, slot.dropped());
        if seen.labelled == 0 && seen.skipped > 0 {
            bail!("none of the {} frames could be decoded", seen.skipped);
        }
        Ok(())
    })
}

/// The inference thread.
struct Loop<'a> {
    recognizer: Recognizer,
    labels: LiveLabels,
    send: SyncSender<Item>,
    live: bool,
    slot: &'a Slot,
    health: &'a Health,
    /// What was negotiated with the source.
    source: &'a str,
    deps: &'a Deps,
    top_k: usize,
    service: Service,
}

#[derive(Default)]
struct Seen {
    labelled: u64,
    skipped: u64,
    reports_lost: u64,
}

impl Loop<'_> {
    fn run(mut self) -> Result<Seen> {
        let mut frame = Frame::default();
        let mut seen = Seen::default();
        let mut skip_reported: Option<Instant> = None;
        let mut rate = Rate::default();
        while !self.deps.stop.is_set() && self.deps.frames != Some(seen.labelled) {
            self.tell_service(&seen, &rate);
            if self.deps.reload.swap(false, Ordering::AcqRel) {
                self.labels.reload();
            }
            match self.slot.take(&mut frame, SIGNAL_CHECK) {
                Taken::Frame => {}
                Taken::TimedOut => continue,
                Taken::Ended => break,
            }
            match self.recognizer.decode(&frame) {
                Ok(decode) => {
                    let latency = Latency { capture: frame.capture_time, decode, ..Latency::default() };
                    let report = self.report(&mut frame, latency, &mut rate)?;
                    seen.labelled += 1;
                    if !self.hand_over(report, &mut seen) {
                        break;
                    }
                }
                Err(error) => {
                    seen.skipped += 1;
                    // Each file is worth a line; a stream of broken frames is not.
                    if frame.path.is_some() || skip_reported.is_none_or(|at| at.elapsed() >= SKIP_REPORT_EVERY) {
                        let message = format!("{:#} ({} so far)", anyhow::Error::from(error), seen.skipped);
                        log::warn!("skipped: {message}");
                        let _ = self.send.try_send(Item::Event(Event::now(EventKind::FramesSkipped, message)));
                        skip_reported = Some(Instant::now());
                    }
                }
            }
        }
        self.service.stopping();
        if seen.reports_lost > 0 {
            log::warn!("{} reports were lost because standard output was too slow", seen.reports_lost);
        }
        Ok(seen)
    }

    /// Tells the service manager that this thread gets round, unless the source thread hangs: a stuck tower or driver is
    /// seen from outside, a camera that is lost and tried again is not held against the program.
    fn tell_service(&mut self, seen: &Seen, rate: &Rate) {
        let now = Instant::now();
        if !self.health.is_stuck(now) {
            self.service.alive(now);
        }
        let (health, source) = (self.health, self.source);
        self.service.status(now, || {
            let lost = if health.is_lost() { ", which is lost and tried again and again" } else { "" };
            let labelled = seen.labelled;
            format!("{labelled} frames labelled, {:.1} a second, from {source}{lost}", rate.hz)
        });
    }

    fn report(&mut self, frame: &mut Frame, mut latency: Latency, rate: &mut Rate) -> Result<Report> {
        let labels = Arc::clone(self.labels.current());
        let scores = self.recognizer.recognize(&labels, &mut latency)?;
        let scores = scores[..self.top_k.min(scores.len())].to_vec();
        let age = frame.captured.elapsed();
        let now = jiff::Timestamp::now();
        Ok(Report {
            time: now.checked_sub(age).unwrap_or(now),
            frame: frame.number,
            path: frame.path.take(),
            truth: frame.truth.take(),
            labels,
            scores,
            latency,
            rate_hz: rate.tick(),
            dropped: self.slot.dropped(),
        })
    }

    /// Says whether anybody still takes reports.
    fn hand_over(&self, report: Report, seen: &mut Seen) -> bool {
        if !self.live {
            return self.send.send(Item::Report(report)).is_ok();
        }
        match self.send.try_send(Item::Report(report)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                seen.reports_lost += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Labelled frames per second.
#[derive(Default)]
struct Rate {
    last: Option<Instant>,
    hz: f32,
}

impl Rate {
    fn tick(&mut self) -> f32 {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            let hz = 1.0 / (now - last).as_secs_f32().max(1e-6);
            self.hz = if self.hz == 0.0 { hz } else { self.hz + RATE_WEIGHT * (hz - self.hz) };
        }
        self.hz
    }
}

/// The output thread. A reader that went away ends the loop, and is no error.
fn write(mut output: Box<dyn Output>, items: Receiver<Item>, stop: &Stop) -> io::Result<()> {
    let work = || {
        for item in items {
            match item {
                Item::Report(report) => output.write(&report)?,
                Item::Event(event) => output.event(&event)?,
            }
        }
        output.finish()
    };
    match work() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            stop.set();
            Ok(())
        }
        Err(error) => {
            stop.set();
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}
