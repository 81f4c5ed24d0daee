//! The loop: source thread, newest-frame slot, inference thread, output thread.
//!
//! One frame waits at most and the newest wins; pictures and recordings wait instead, so that none is left out. A slow
//! output of a live source loses reports, never frames.

mod capture;
mod health;
mod inference;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::capture::Target;
use self::health::Health;
use self::inference::{Loop, Seen};
use crate::recognizer::compute;
use crate::config::{Config, Governing};
use crate::board::governor::Governor;
use crate::board::governor::sensors::Sensors;
use crate::live::Live;
use crate::output::prometheus::{self, Metrics};
use crate::output::{Item, Output};
use crate::board::service::Service;
use crate::pipeline::latest_frame::Slot;
use crate::source::{Stop, Uri};
use crate::process::supervise::{Heartbeat, fault_point, supervised};
use crate::pipeline::unchanged::Unchanged;

/// Reports that wait for a slow output: two seconds of a camera, so that a short pause loses nothing.
const REPORTS_WAITING: usize = 64;

/// How often the output thread gives a sign of life while it has nothing to write.
const OUTPUT_LOOK_EVERY: Duration = Duration::from_secs(1);

/// It takes less for anything but a write.
const OUTPUT_STEP_MAX: Duration = Duration::from_secs(10);

/// Lost reports are told no more often than this.
const LOSS_REPORT_EVERY: Duration = Duration::from_secs(5);

/// Broken frames of a stream or camera are reported no more often than this.
const SKIP_REPORT_EVERY: Duration = Duration::from_secs(5);

/// What the loop is given from outside.
#[derive(Debug, Clone)]
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
    /// Below it lies what the system says of heat and CPU quota; `/` but for tests.
    pub root: PathBuf,
}

impl Default for Deps {
    fn default() -> Self {
        Self {
            stop: Stop::new(),
            signalled: Arc::default(),
            running: Arc::default(),
            reload: Arc::default(),
            frames: None,
            root: PathBuf::from("/"),
        }
    }
}

/// Runs until the source ends, `deps.frames` were labelled, or `deps.stop` is set.
pub fn run(config: &Config, uri: &Uri, output: Box<dyn Output>, deps: &Deps) -> Result<()> {
    let mut service = Service::from_environment();
    service.starting("opening the source");
    let options = config.capture.options();
    // Before the model, which takes its time: that a camera is missing is told at once.
    let begun = capture::open(uri, &options, &deps.stop)?;
    let described = begun.opened.source.describe();
    log::info!("source: {described}");
    service.starting("loading the model and embedding the labels");
    let threads = compute::threads(config.inference.threads)?;
    let (send, receive) = sync_channel(REPORTS_WAITING);
    let model = Live::start(config, &threads, send.clone())?;
    let live = begun.opened.source.is_live();
    let slot = Slot::new();
    let metrics = Metrics::new(&config.metrics);
    let health = Health::new(&begun.opened.uri, live, options.timeout, Instant::now());
    let output_beat = Heartbeat::new(Some(OUTPUT_STEP_MAX), Instant::now());
    let metrics_beat = Heartbeat::new(metrics.is_some().then_some(metrics::STEP_MAX), Instant::now());

    thread::scope(|scope| {
        let events = send.clone();
        let capture = scope.spawn(|| {
            supervised("capture", || {
                let target = Target { slot: &slot, stop: &deps.stop, events, health: &health };
                let result = capture::run(begun, &options, target);
                slot.close();
                result
            })
        });
        let beat = &output_beat;
        let writer = scope.spawn(move || supervised("output", || write(output, &receive, &deps.stop, beat)));
        if let Some(metrics) = &metrics {
            scope.spawn(|| supervised("metrics", || metrics.keep(&deps.stop, &metrics_beat)));
        }
        deps.running.store(true, Ordering::Release);
        service.ready(&format!("waiting for the first frame of {described}"));
        let looped = Loop {
            model,
            send,
            live,
            slot: &slot,
            health: &health,
            aside: [&output_beat, &metrics_beat],
            source: &described,
            deps,
            top_k: config.inference.top_k,
            service,
            governor: governor(config, &deps.root),
            unchanged: (config.inference.unchanged > 0.0).then(|| Unchanged::new(config.inference.unchanged)),
            metrics: metrics.as_ref(),
            seen: Seen::default(),
        };
        let looped = supervised("inference", || looped.run());
        // Whatever ended the loop ends the other threads too.
        deps.stop.set();
        slot.close();
        let captured = capture.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let seen = looped?;
        captured?;
        written.context("standard output")?;
        let Seen { labelled, skipped, unchanged, .. } = seen;
        let unchanged = if unchanged > 0 { format!(" ({unchanged} of them unchanged)") } else { String::new() };
        log::info!("{labelled} frames labelled{unchanged}, {skipped} skipped, {} dropped", slot.dropped());
        if seen.labelled == 0 && seen.skipped > 0 {
            bail!("none of the {} frames could be decoded", seen.skipped);
        }
        Ok(())
    })
}

/// Holds the wanted rate, and looks at the board below `root` where it is to.
fn governor(config: &Config, root: &Path) -> Governor {
    let rate = &config.rate;
    let sensors = match rate.governor {
        Governing::Auto => {
            let given = (rate.temperature_max_c > 0).then_some(rate.temperature_max_c as f32);
            Some(Sensors::find(root, given))
        }
        Governing::Off => None,
    };
    Governor::new(rate, sensors)
}

/// The output thread. A reader that went away ends the loop, and is no error. A reader that does not read for a while is
/// none either: it is waited for, which counts as life.
fn write(mut output: Box<dyn Output>, items: &Receiver<Item>, stop: &Stop, beat: &Heartbeat) -> io::Result<()> {
    let mut work = || {
        loop {
            beat.beat(Instant::now());
            fault_point("output");
            let item = match items.recv_timeout(OUTPUT_LOOK_EVERY) {
                Ok(item) => item,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            beat.pause();
            match item {
                Item::Report(report) => output.write(&report)?,
                Item::Event(event) => output.event(&event)?,
            }
        }
        beat.pause();
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
