//! The inference thread: takes frames from the mailbox and turns them into reports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use spotter_engine::decide::Reason;
use spotter_engine::preprocess::PreprocessError;
use spotter_engine::score::Score;
use spotter_engine::view::View;

use super::decisions::Decisions;
use super::health::Health;
use super::latest_frame::{LatestFrame, Taken};
use super::unchanged::Unchanged;
use super::{LOSS_REPORT_EVERY, SKIP_REPORT_EVERY};
use crate::board::governor::Governor;
use crate::board::service::Service;
use crate::live::{Labels, Live};
use crate::output::notify::Notifiers;
use crate::output::prometheus::Metrics;
use crate::output::{Event, EventKind, Item, NoticePicture, Report};
use crate::process::LoopControl;
use crate::process::supervise::{Heartbeat, fault_point};
use crate::recognizer::Latency;
use crate::source::Frame;

/// Longest wait for a frame before the loop does its other work: heartbeat, reload, governor, metrics.
const TICK: Duration = Duration::from_millis(100);

/// Weight of the newest frame in the smoothed rate, which covers about the last ten frames.
const RATE_WEIGHT: f32 = 0.1;

/// State of the loop.
pub(super) struct Loop<'a> {
    pub(super) model: Live,
    pub(super) send: SyncSender<Item>,
    /// True if the source is live, so that reports may be lost but must not wait.
    pub(super) live: bool,
    pub(super) mailbox: &'a LatestFrame,
    pub(super) health: &'a Health,
    /// Heartbeats of the output thread and the metrics thread.
    pub(super) heartbeats: [&'a Heartbeat; 2],
    /// Description of the source.
    pub(super) source: &'a str,
    pub(super) control: &'a LoopControl,
    pub(super) top_k: usize,
    pub(super) service: Service,
    pub(super) governor: Governor,
    pub(super) unchanged: Option<Unchanged>,
    pub(super) decisions: Decisions,
    pub(super) notifiers: &'a mut Notifiers,
    pub(super) metrics: Option<&'a Metrics>,
    pub(super) stats: Stats,
}

/// Counters of the loop, and the last scores.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) labelled: u64,
    pub(super) skipped: u64,
    /// Labelled frames that got the scores of an earlier frame, since they showed the same.
    pub(super) unchanged: u64,
    reports_lost: u64,
    /// Lost reports that the output was told of.
    losses_told: u64,
    losses_told_at: Option<Instant>,
    skip_reported: Option<Instant>,
    rate: Rate,
    /// Why the view lets nothing be judged, as the output was told.
    blind: Option<Reason>,
    /// The last scores and their labels.
    last: Option<(Labels, Vec<Score>)>,
}

impl Loop<'_> {
    /// Runs until the source ends, enough frames were labelled, or it is stopped.
    pub(super) fn run(mut self) -> Result<Stats> {
        let mut frame = Frame::default();
        while !self.control.stop.is_set() && self.control.frames != Some(self.stats.labelled) {
            let now = Instant::now();
            fault_point("inference");
            self.tell_service(now);
            self.tell_losses(now);
            self.decisions.follow(self.health.losses(), now);
            self.notify(false);
            self.send_decisions();
            if self.control.reload.swap(false, Ordering::AcqRel) {
                self.model.reload();
            }
            self.govern(now);
            self.tell_metrics();
            // After the pause the newest frame of that moment is taken.
            if let Some(pause) = self.governor.pause(now) {
                self.control.stop.sleep(pause.min(TICK));
                continue;
            }
            match self.mailbox.take(&mut frame, TICK) {
                Taken::Frame => self.governor.began(Instant::now()),
                Taken::TimedOut => continue,
                Taken::Ended => break,
            }
            self.model.refresh();
            let mut latency = Latency::of(&frame);
            match self.model.parts().0.decode(&frame, &mut latency) {
                Ok(()) => {
                    let report = match self.report(&mut frame, latency) {
                        Ok(report) => report,
                        // This image's fault and not the model's: the next one may work.
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
                    self.stats.labelled += 1;
                    self.count(&report);
                    if !self.send_report(report) || !self.send_decisions() {
                        break;
                    }
                }
                Err(error) => self.skip(&frame, &error.into()),
            }
        }
        self.service.stopping();
        if self.stats.reports_lost > 0 {
            log::warn!("{} reports were lost because standard output was too slow", self.stats.reports_lost);
        }
        Ok(self.stats)
    }

    /// Hands new events to those who are told about them, with the decoded frame if they were decided at it.
    fn notify(&mut self, has_frame: bool) {
        let Self { decisions, notifiers, model, .. } = self;
        let picture = model.parts().0.picture();
        for decision in decisions.fresh() {
            notifiers.tell(&decision, || has_frame.then(|| NoticePicture::new(picture)));
        }
    }

    /// Says that reports or notices were lost: in the log, and in the output once it accepts something again.
    fn tell_losses(&mut self, now: Instant) {
        for message in self.notifiers.losses(now) {
            log::warn!("lost: {message}");
            // Events that find no room are lost; the log has them.
            let _ = self.send.try_send(Item::Event(Event::now(EventKind::NoticesLost, message)));
        }
        let Stats { reports_lost, losses_told, losses_told_at, .. } = &mut self.stats;
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

    /// Feeds the service manager's watchdog, unless another thread that must live hangs. A hanging tower or driver is thus
    /// noticed from outside, while a lost camera that is being reopened does not count.
    fn tell_service(&mut self, now: Instant) {
        let is_missed = self.heartbeats.iter().any(|heartbeat| heartbeat.is_missed(now));
        if !is_missed && !self.health.is_stuck(now) && !self.model.is_stuck(now) && !self.notifiers.is_stuck(now) {
            self.service.alive(now);
        }
        let Self { health, source, model, governor, stats, .. } = self;
        self.service.status(now, || {
            let lost = if health.is_lost() { ", which is lost and being reopened" } else { "" };
            let held = governor.reason().map_or_else(String::new, |reason| format!(", limited: {reason}"));
            let (labelled, hz, bundle) = (stats.labelled, stats.rate.hz, model.bundle());
            format!("{labelled} frames labelled, {hz:.1} a second{held}, bundle {bundle}, from {source}{lost}")
        });
    }

    /// Runs the governor and reports what it changes.
    fn govern(&mut self, now: Instant) {
        if let Some(message) = self.governor.update(now, self.stats.labelled) {
            log::info!("rate: {message}");
            // Events that find no room are lost; the log has them.
            let _ = self.send.try_send(Item::Event(Event::now(EventKind::Rate, message)));
        }
    }

    /// Says that the view lets nothing be judged, or does again.
    fn tell_view(&mut self, view: &View) {
        let blind = self.decisions.blind();
        if blind == std::mem::replace(&mut self.stats.blind, blind) {
            return;
        }
        let (kind, message) = match blind {
            Some(reason) => (EventKind::ViewLost, describe_view(reason, view)),
            None => (EventKind::ViewBack, "the view can be judged again".to_owned()),
        };
        log::warn!("view: {message}");
        // Events that find no room are lost; the log has them.
        let _ = self.send.try_send(Item::Event(Event::now(kind, message)));
    }

    /// Updates the metrics that change without a frame.
    fn tell_metrics(&self) {
        let Some(metrics) = self.metrics else { return };
        metrics.change(|values| {
            values.source_up = !self.health.is_lost();
            values.limit_hz = self.governor.limit_hz();
            values.held = self.governor.reason().is_some();
            values.skipped = self.stats.skipped;
            values.reports_lost = self.stats.reports_lost;
            values.notices = self.notifiers.counts();
            if values.bundle != self.model.bundle() {
                self.model.bundle().clone_into(&mut values.bundle);
            }
        });
    }

    fn count(&self, report: &Report) {
        let Some(metrics) = self.metrics else { return };
        metrics.change(|values| {
            values.labelled = self.stats.labelled - self.stats.unchanged;
            values.unchanged = self.stats.unchanged;
            values.dropped = report.dropped;
            values.rate_hz = report.rate_hz;
            values.add(&report.latency);
            values.labels = Some(Arc::clone(&report.labels));
            values.scores.clone_from(&report.scores);
        });
    }

    fn report(&mut self, frame: &mut Frame, mut latency: Latency) -> Result<Report> {
        let view = self.model.parts().0.view(&mut latency);
        self.score(&mut latency)?;
        let age = frame.captured.elapsed();
        let now = jiff::Timestamp::now();
        let time = now.checked_sub(age).unwrap_or(now);
        let (labels, scores) = self.stats.last.as_ref().context("a frame was scored")?;
        self.decisions.frame(&labels.rules, frame.captured, time, &view, scores);
        let report = Report {
            time,
            frame: frame.number,
            path: frame.path.take(),
            truth: frame.truth.take(),
            labels: Arc::clone(&labels.embeddings),
            rules: Arc::clone(&labels.rules),
            scores: scores[..self.top_k.min(scores.len())].to_vec(),
            states: self.decisions.states(frame.captured, time),
            view: self.decisions.blind(),
            latency,
            rate_hz: self.stats.rate.tick(),
            dropped: self.mailbox.dropped(),
            unchanged: self.unchanged.is_some().then_some(self.stats.unchanged),
        };
        self.tell_view(&view);
        self.notify(true);
        Ok(report)
    }

    /// Scores the decoded frame, or keeps the last scores if both show the same.
    fn score(&mut self, latency: &mut Latency) -> Result<()> {
        let (recognizer, labels) = self.model.parts();
        let stats = &mut self.stats;
        if let Some(unchanged) = &mut self.unchanged {
            let start = Instant::now();
            let same = unchanged.is_same(recognizer.picture(), start);
            latency.preprocess += start.elapsed();
            // Scores of other labels, or of another bundle, do not count.
            let is_known = |last: &Labels| Arc::ptr_eq(&last.embeddings, &labels.embeddings);
            if same && stats.last.as_ref().is_some_and(|(last, _)| is_known(last)) {
                stats.unchanged += 1;
                return Ok(());
            }
            unchanged.keep(start);
        }
        let scores = recognizer.recognize(&labels.embeddings, latency)?;
        let (last, kept) = stats.last.get_or_insert_with(|| (labels.clone(), Vec::new()));
        last.clone_from(labels);
        kept.clear();
        kept.extend_from_slice(scores);
        Ok(())
    }

    fn skip(&mut self, frame: &Frame, error: &anyhow::Error) {
        self.stats.skipped += 1;
        // Every file gets a line, broken frames of a stream only from time to time.
        if frame.path.is_some() || self.stats.skip_reported.is_none_or(|at| at.elapsed() >= SKIP_REPORT_EVERY) {
            let message = format!("{error:#} ({} so far)", self.stats.skipped);
            log::warn!("skipped: {message}");
            let _ = self.send.try_send(Item::Event(Event::now(EventKind::FramesSkipped, message)));
            self.stats.skip_reported = Some(Instant::now());
        }
    }

    /// Passes a report to the output. Returns whether the output still exists.
    fn send_report(&mut self, report: Report) -> bool {
        if !self.live {
            return self.send.send(Item::Report(report)).is_ok();
        }
        match self.send.try_send(Item::Report(report)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.stats.reports_lost += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// Passes decisions to the output; those that find no room are sent later. Returns whether the output still exists.
    fn send_decisions(&mut self) -> bool {
        while let Some(decision) = self.decisions.take() {
            let item = Item::Decision(decision);
            if !self.live {
                if self.send.send(item).is_err() {
                    return false;
                }
                continue;
            }
            match self.send.try_send(item) {
                Ok(()) => {}
                Err(TrySendError::Full(item)) => {
                    if let Item::Decision(decision) = item {
                        self.decisions.put_back(decision);
                    }
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        self.stats.reports_lost += self.decisions.take_lost();
        true
    }
}

/// What is wrong with a view, for people.
fn describe_view(reason: Reason, view: &View) -> String {
    let View { brightest, step, sharpness, .. } = view;
    let wrong = match reason {
        Reason::Dark => format!("dark: even its brightest parts have {brightest:.0} of 255"),
        Reason::Covered => format!("covered, or empty: nothing in it has an outline (steps of {step:.1} of 255)"),
        Reason::Blurred => format!("blurred: its outlines are no steeper than {sharpness:.2} of its contrast"),
        _ => "frozen: its image has been the same, to the last bit, for too long".to_owned(),
    };
    format!("the view is {wrong}; all states are unknown")
}

/// Smoothed rate of labelled frames.
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
