//! The inference thread: a frame from the slot to a report, over and over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use anyhow::Result;
use spotter_engine::labels::LabelEmbeddings;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::score::Score;

use super::health::Health;
use super::{Deps, LOSS_REPORT_EVERY, SKIP_REPORT_EVERY};
use crate::board::governor::Governor;
use crate::live::Live;
use crate::output::prometheus::Metrics;
use crate::output::{Event, EventKind, Item, Report};
use crate::recognizer::Latency;
use crate::board::service::Service;
use crate::pipeline::latest_frame::{Slot, Taken};
use crate::source::Frame;
use crate::process::supervise::{Heartbeat, fault_point};
use crate::pipeline::unchanged::Unchanged;

/// How often the loop looks at its signals while no frame comes.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// Weight of the newest frame in the smoothed rate: about the last ten frames count.
const RATE_WEIGHT: f32 = 0.1;

/// What the loop works with.
pub(super) struct Loop<'a> {
    pub(super) model: Live,
    pub(super) send: SyncSender<Item>,
    /// Whether frames go on without us, so that reports may be lost but must not wait.
    pub(super) live: bool,
    pub(super) slot: &'a Slot,
    pub(super) health: &'a Health,
    /// Of the output thread, and of that of the metrics.
    pub(super) aside: [&'a Heartbeat; 2],
    /// What was negotiated with the source.
    pub(super) source: &'a str,
    pub(super) deps: &'a Deps,
    pub(super) top_k: usize,
    pub(super) service: Service,
    pub(super) governor: Governor,
    pub(super) unchanged: Option<Unchanged>,
    pub(super) metrics: Option<&'a Metrics>,
    pub(super) seen: Seen,
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) labelled: u64,
    pub(super) skipped: u64,
    /// Those of the labelled ones that got the scores of a frame before, since they showed the same.
    pub(super) unchanged: u64,
    reports_lost: u64,
    /// Those that were told of, and when that was last.
    losses_told: u64,
    losses_told_at: Option<Instant>,
    skip_reported: Option<Instant>,
    rate: Rate,
    /// The last scores, and the labels that they belong to.
    last: Option<(Arc<LabelEmbeddings>, Vec<Score>)>,
}

impl Loop<'_> {
    /// Runs until the source ends, enough frames were labelled, or it is stopped.
    pub(super) fn run(mut self) -> Result<Seen> {
        let mut frame = Frame::default();
        while !self.deps.stop.is_set() && self.deps.frames != Some(self.seen.labelled) {
            let now = Instant::now();
            fault_point("inference");
            self.tell_service(now);
            self.tell_losses(now);
            if self.deps.reload.swap(false, Ordering::AcqRel) {
                self.model.reload();
            }
            self.govern(now);
            self.tell_metrics();
            // The frame that is taken after the pause is the newest there is then.
            if let Some(pause) = self.governor.pause(now) {
                self.deps.stop.sleep(pause.min(SIGNAL_CHECK));
                continue;
            }
            match self.slot.take(&mut frame, SIGNAL_CHECK) {
                Taken::Frame => self.governor.began(Instant::now()),
                Taken::TimedOut => continue,
                Taken::Ended => break,
            }
            self.model.refresh();
            match self.model.parts().0.decode(&frame) {
                Ok(decode) => {
                    let latency = Latency { capture: frame.capture_time, decode, ..Latency::default() };
                    let report = match self.report(&mut frame, latency) {
                        Ok(report) => report,
                        // The picture's fault, and not the model's: the next one may be of use.
                        Err(error) if error.is::<PreprocessError>() => {
                            let error = match &frame.path {
                                Some(path) => error.context(path.display().to_string()),
                                None => error,
                            };
                            self.skip(&frame, &error);
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    self.seen.labelled += 1;
                    self.count(&report);
                    if !self.hand_over(report) {
                        break;
                    }
                }
                Err(error) => self.skip(&frame, &error.into()),
            }
        }
        self.service.stopping();
        if self.seen.reports_lost > 0 {
            log::warn!("{} reports were lost because standard output was too slow", self.seen.reports_lost);
        }
        Ok(self.seen)
    }

    /// Says that reports were lost, while they are: in the log, and in the output as soon as that takes something again.
    fn tell_losses(&mut self, now: Instant) {
        let Seen { reports_lost, losses_told, losses_told_at, .. } = &mut self.seen;
        let is_due = losses_told_at.is_none_or(|at| now.saturating_duration_since(at) >= LOSS_REPORT_EVERY);
        if *reports_lost == *losses_told || !is_due {
            return;
        }
        let message =
            format!("{} reports, as the output is too slow ({reports_lost} so far)", *reports_lost - *losses_told);
        log::warn!("lost: {message}");
        *losses_told_at = Some(now);
        if self.send.try_send(Item::Event(Event::now(EventKind::ReportsLost, message))).is_ok() {
            *losses_told = *reports_lost;
        }
    }

    /// Tells the service manager that this thread gets round, unless another one hangs that must live: a stuck tower or
    /// driver is seen from outside, a camera that is lost and tried again is not held against the program.
    fn tell_service(&mut self, now: Instant) {
        let aside = self.aside.iter().any(|beat| beat.is_missed(now));
        if !aside && !self.health.is_stuck(now) && !self.model.is_stuck(now) {
            self.service.alive(now);
        }
        let Self { health, source, model, governor, seen, .. } = self;
        self.service.status(now, || {
            let lost = if health.is_lost() { ", which is lost and tried again and again" } else { "" };
            let held = governor.reason().map_or_else(String::new, |reason| format!(", held down: {reason}"));
            let (labelled, hz, bundle) = (seen.labelled, seen.rate.hz, model.bundle());
            format!("{labelled} frames labelled, {hz:.1} a second{held}, bundle {bundle}, from {source}{lost}")
        });
    }

    /// Has the governor look at the board, and says what it does about it.
    fn govern(&mut self, now: Instant) {
        if let Some(message) = self.governor.look(now, self.seen.labelled) {
            log::info!("rate: {message}");
            // News that find no room are lost; the log has them.
            let _ = self.send.try_send(Item::Event(Event::now(EventKind::Rate, message)));
        }
    }

    /// What may have changed without a frame.
    fn tell_metrics(&self) {
        let Some(metrics) = self.metrics else { return };
        metrics.change(|figures| {
            figures.source_up = !self.health.is_lost();
            figures.limit_hz = self.governor.limit_hz();
            figures.held = self.governor.reason().is_some();
            figures.skipped = self.seen.skipped;
            figures.reports_lost = self.seen.reports_lost;
            if figures.bundle != self.model.bundle() {
                self.model.bundle().clone_into(&mut figures.bundle);
            }
        });
    }

    fn count(&self, report: &Report) {
        let Some(metrics) = self.metrics else { return };
        metrics.change(|figures| {
            figures.labelled = self.seen.labelled - self.seen.unchanged;
            figures.unchanged = self.seen.unchanged;
            figures.dropped = report.dropped;
            figures.rate_hz = report.rate_hz;
            figures.add(&report.latency);
            figures.labels = Some(Arc::clone(&report.labels));
            figures.scores.clone_from(&report.scores);
        });
    }

    fn report(&mut self, frame: &mut Frame, mut latency: Latency) -> Result<Report> {
        let top_k = self.top_k;
        let (labels, scores) = self.scores(&mut latency)?;
        let scores = scores[..top_k.min(scores.len())].to_vec();
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
            rate_hz: self.seen.rate.tick(),
            dropped: self.slot.dropped(),
            unchanged: self.unchanged.is_some().then_some(self.seen.unchanged),
        })
    }

    /// The scores of the decoded frame: those of the last one where both show the same.
    fn scores(&mut self, latency: &mut Latency) -> Result<(Arc<LabelEmbeddings>, &[Score])> {
        let (recognizer, labels) = self.model.parts();
        let seen = &mut self.seen;
        if let Some(unchanged) = &mut self.unchanged {
            let start = Instant::now();
            let same = unchanged.is_same(recognizer.picture(), start);
            latency.preprocess = start.elapsed();
            // Scores of other labels, or of another bundle's, say nothing.
            let known = seen.last.as_ref().is_some_and(|(scored, _)| Arc::ptr_eq(scored, labels));
            if same && known {
                seen.unchanged += 1;
                let (labels, scores) = seen.last.as_ref().map_or((labels, &[][..]), |(l, s)| (l, s.as_slice()));
                return Ok((Arc::clone(labels), scores));
            }
            unchanged.keep(start);
        }
        let compared = latency.preprocess;
        let scores = recognizer.recognize(labels, latency)?;
        latency.preprocess += compared;
        let (last, kept) = seen.last.get_or_insert_with(|| (Arc::clone(labels), Vec::new()));
        if !Arc::ptr_eq(last, labels) {
            *last = Arc::clone(labels);
        }
        kept.clear();
        kept.extend_from_slice(scores);
        Ok((Arc::clone(labels), kept))
    }

    fn skip(&mut self, frame: &Frame, error: &anyhow::Error) {
        self.seen.skipped += 1;
        // Each file is worth a line; a stream of broken frames is not.
        if frame.path.is_some() || self.seen.skip_reported.is_none_or(|at| at.elapsed() >= SKIP_REPORT_EVERY) {
            let message = format!("{error:#} ({} so far)", self.seen.skipped);
            log::warn!("skipped: {message}");
            let _ = self.send.try_send(Item::Event(Event::now(EventKind::FramesSkipped, message)));
            self.seen.skip_reported = Some(Instant::now());
        }
    }

    /// Says whether anybody still takes reports.
    fn hand_over(&mut self, report: Report) -> bool {
        if !self.live {
            return self.send.send(Item::Report(report)).is_ok();
        }
        match self.send.try_send(Item::Report(report)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.seen.reports_lost += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Labelled frames per second.
#[derive(Debug, Default)]
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
