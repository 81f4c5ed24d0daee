//! The loop: source thread, mailbox for the latest frame, inference thread, output thread.
//!
//! At most one frame waits, and the newest wins. Image files and recordings wait instead, so that none is left out. With a live
//! source a slow output loses reports, never frames.

mod capture;
mod decisions;
mod health;
mod inference;
mod latest_frame;
mod unchanged;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use spotter_engine::bundle::Bundle;

use self::capture::Target;
use self::decisions::Decisions;
use self::health::Health;
use self::inference::{Loop, Stats};
use self::latest_frame::LatestFrame;
use self::unchanged::Unchanged;
use crate::board::governor::Governor;
use crate::board::governor::sensors::Sensors;
use crate::board::service::Service;
use crate::bundles::BUILT_IN;
use crate::config::{Config, GovernorMode};
use crate::labels::demo::Scene;
use crate::labels::label_file::ParsedLabels;
use crate::live::{Given, GivenLabels, Live};
use crate::output::notify::Notifiers;
use crate::output::prometheus::{self, Metrics};
use crate::output::{Item, Output};
use crate::process::supervise::{Heartbeat, fault_point, supervised};
use crate::process::{LoopControl, Stop};
use crate::recognizer::compute;
use crate::source::Uri;

/// Maximum number of reports that wait for a slow output: two seconds of a camera, so that a short pause loses nothing.
const REPORTS_WAITING: usize = 64;

/// Heartbeat interval of the output thread while it has nothing to write.
const OUTPUT_BEAT_EVERY: Duration = Duration::from_secs(1);

/// Longest step of the output thread, apart from writes.
const OUTPUT_STEP_MAX: Duration = Duration::from_secs(10);

/// Shortest time between two reports of lost reports.
const LOSS_REPORT_EVERY: Duration = Duration::from_secs(5);

/// Shortest time between two reports of broken frames.
const SKIP_REPORT_EVERY: Duration = Duration::from_secs(5);

/// How to get a better model than the demo model.
const SMALL: &str = "this is the demo model, which is small and often wrong about photographs: `model-prep export \
                     openai/clip-vit-base-patch32 --out clip.tar` makes a real one, and `--bundle clip.tar` runs it";

/// Sentences, and the bundle to compare them with frames, in place of what the configuration chooses.
pub(crate) struct Typed {
    /// The sentences, as labels.
    pub(crate) labels: ParsedLabels,
    /// The bundle's name.
    pub(crate) name: String,
    /// The bundle.
    pub(crate) bundle: Bundle,
}

/// Runs until the source ends, `control.frames` frames were labelled, or `control.stop` is set.
pub fn run(config: &Config, uri: &Uri, output: Box<dyn Output>, control: &LoopControl) -> Result<()> {
    run_typed(config, uri, None, output, control)
}

/// As [`run`]; `config` must have no state folder if there is something typed.
pub(crate) fn run_typed(
    config: &Config,
    uri: &Uri,
    typed: Option<Typed>,
    output: Box<dyn Output>,
    control: &LoopControl,
) -> Result<()> {
    let mut service = Service::from_environment();
    service.starting("opening the source");
    let options = config.capture.options();
    // Before the model, which takes time to load: a missing camera is reported at once.
    let begun = capture::open(uri, &options, &control.stop)?;
    let described = begun.opened.source.describe();
    log::info!("source: {described}");
    service.starting("loading the model and embedding the labels");
    let threads = compute::threads(config.inference.threads)?;
    let (send, receive) = sync_channel(REPORTS_WAITING);
    let given = match typed {
        Some(Typed { labels, name, bundle }) => {
            Given { bundle: Some((name, bundle)), labels: GivenLabels::Typed(labels) }
        }
        None => Given { bundle: None, labels: GivenLabels::Of(Scene::of(&begun.opened.uri)) },
    };
    let model = Live::start(config, given, &threads, send.clone())?;
    if model.bundle() == BUILT_IN {
        log::info!("{SMALL}");
    }
    let live = begun.opened.source.is_live();
    let mailbox = Arc::new(LatestFrame::new());
    let closed = Arc::clone(&mailbox);
    let _closes = control.stop.on_set(move || closed.close());
    let metrics = Metrics::new(&config.metrics);
    let mut notifiers = Notifiers::start(&config.notify).context("cannot start a thread for [[notify]]")?;
    let health = Health::new(&begun.opened.uri, live, options.timeout, Instant::now());
    let output_beat = Heartbeat::new(Some(OUTPUT_STEP_MAX), Instant::now());
    let metrics_beat = Heartbeat::new(metrics.is_some().then_some(prometheus::STEP_MAX), Instant::now());

    let result = thread::scope(|scope| {
        let events = send.clone();
        let capture = scope.spawn(|| {
            supervised("capture", || {
                let target = Target { mailbox: &mailbox, stop: &control.stop, events, health: &health };
                let result = capture::run(begun, &options, target);
                mailbox.close();
                result
            })
        });
        let beat = &output_beat;
        let writer = scope.spawn(move || supervised("output", || write(output, &receive, &control.stop, beat)));
        if let Some(metrics) = &metrics {
            scope.spawn(|| supervised("metrics", || metrics.run(&control.stop, &metrics_beat)));
        }
        control.running.store(true, Ordering::Release);
        service.ready(&format!("waiting for the first frame of {described}"));
        let decisions = Decisions::new(&model.labels().rules, Instant::now());
        let looped = Loop {
            model,
            send,
            live,
            mailbox: &mailbox,
            health: &health,
            heartbeats: [&output_beat, &metrics_beat],
            source: &described,
            control,
            top_k: config.inference.top_k,
            service,
            governor: governor(config, &control.root),
            unchanged: (config.inference.unchanged > 0.0).then(|| Unchanged::new(config.inference.unchanged)),
            decisions,
            notifiers: &mut notifiers,
            metrics: metrics.as_ref(),
            stats: Stats::default(),
        };
        let looped = supervised("inference", || looped.run());
        // Whatever ended the loop ends the other threads too, and closes the mailbox.
        control.stop.set();
        let captured = capture.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let stats = looped?;
        captured?;
        written.context("standard output")?;
        sum_up(&stats, mailbox.dropped())
    });
    notifiers.finish(&control.signalled).iter().for_each(|message| log::warn!("lost: {message}"));
    result
}

/// Logs how many frames there were.
///
/// # Errors
/// Not one frame could be decoded.
fn sum_up(stats: &Stats, dropped: u64) -> Result<()> {
    let Stats { labelled, skipped, unchanged, .. } = *stats;
    let unchanged = if unchanged > 0 { format!(" ({unchanged} of them unchanged)") } else { String::new() };
    log::info!("{labelled} frames labelled{unchanged}, {skipped} skipped, {dropped} dropped");
    if labelled == 0 && skipped > 0 {
        bail!("none of the {skipped} frames could be decoded");
    }
    Ok(())
}

/// The governor that the configuration asks for; `root` is the root of the file system.
fn governor(config: &Config, root: &Path) -> Governor {
    let rate = &config.rate;
    let sensors = match rate.governor {
        GovernorMode::Auto => {
            let given = (rate.temperature_max_c > 0).then_some(rate.temperature_max_c as f32);
            Some(Sensors::find(root, given))
        }
        GovernorMode::Off => None,
    };
    Governor::new(rate, sensors)
}

/// The output thread. A closed standard output ends the loop and is no error. Neither is a slow reader: the thread waits for
/// it, without heartbeat.
fn write(mut output: Box<dyn Output>, items: &Receiver<Item>, stop: &Stop, beat: &Heartbeat) -> io::Result<()> {
    let mut work = || {
        loop {
            beat.beat(Instant::now());
            fault_point("output");
            let item = match items.recv_timeout(OUTPUT_BEAT_EVERY) {
                Ok(item) => item,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            beat.pause();
            match item {
                Item::Report(report) => output.write(&report)?,
                Item::Event(event) => output.event(&event)?,
                Item::Decision(decision) => output.decision(&decision)?,
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
