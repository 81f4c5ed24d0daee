//! Limits the frame rate: to the configured maximum, and below that while the board is too hot, throttled by its firmware, or
//! short of CPU time.
//!
//! A board that is too hot lowers its clock abruptly and for all programs. The governor acts earlier: it lowers the rate by a
//! quarter, waits for the effect, and repeats if necessary; it raises the rate as slowly.

pub(crate) mod sensors;

use std::time::{Duration, Instant};

use sensors::{Readings, Sensors};

use crate::config::Rate;

/// Factor on the rate of one step down.
const STEP: f32 = 0.75;

/// Interval between two readings; temperatures change within seconds.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Shortest time between two steps down: the effect of one shows after about this time.
const DOWN_EVERY: Duration = Duration::from_secs(6);

/// Time without need after which the rate is raised. Longer than the effect of a step down takes, so that the rate settles.
const UP_AFTER: Duration = Duration::from_secs(20);

/// Degrees Celsius below the limit at which the rate may rise again.
const COOL_BELOW_C: f32 = 4.0;

/// Share of the CPU quota above which the kernel is about to throttle the program.
const CPU_SHARE_MAX: f32 = 0.9;

/// Share of the CPU quota below which the rate may rise; after one step up it is still below [`CPU_SHARE_MAX`].
const CPU_SHARE_FINE: f32 = 0.6;

/// Change of the rate that the readings call for.
#[derive(Debug, Clone, PartialEq)]
enum Need {
    /// A lower rate, with the reason.
    Less(String),
    /// The current rate.
    Same,
    /// A higher rate, up to the configured one.
    More,
}

/// Limits the frame rate.
#[derive(Debug)]
pub(crate) struct Governor {
    /// `None` if the governor is off.
    sensors: Option<Sensors>,
    /// Configured maximum in frames a second.
    max_hz: Option<f32>,
    /// Configured minimum in frames a second.
    min_hz: f32,
    /// The lowered rate, if it is lowered.
    held: Option<Held>,
    /// Time of the last reading, and the number of frames then.
    last_read: Option<(Instant, u64)>,
    /// Since when the readings allow a higher rate.
    fine_since: Option<Instant>,
    /// Earliest start of the next frame.
    next: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Held {
    hz: f32,
    /// The rate before the first step down.
    full_hz: f32,
    since: Instant,
    reason: String,
}

impl Governor {
    /// A governor with the configured limits, and with sensors if it is on.
    pub(crate) fn new(rate: &Rate, sensors: Option<Sensors>) -> Self {
        Self {
            sensors,
            max_hz: (rate.max_fps > 0.0).then_some(rate.max_fps),
            min_hz: rate.min_fps,
            held: None,
            last_read: None,
            fine_since: None,
            next: None,
        }
    }

    /// Current limit in frames a second; `None` for no limit.
    pub(crate) fn limit_hz(&self) -> Option<f32> {
        let wanted = self.max_hz;
        match &self.held {
            Some(held) => Some(wanted.map_or(held.hz, |wanted| wanted.min(held.hz))),
            None => wanted,
        }
    }

    /// Why the rate is lowered, if it is.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.reason.as_str())
    }

    /// Time until the next frame may start; `None` if it may start now.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.limit_hz()?;
        self.next.map(|next| next.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// Notes that a frame starts. A late frame is made up for, by one frame at most, so that the mean rate meets the limit.
    pub(crate) fn began(&mut self, now: Instant) {
        let Some(hz) = self.limit_hz() else { return };
        let period = Duration::from_secs_f32(1.0 / hz);
        let due = self.next.map_or(now, |next| next.max(now.checked_sub(period).unwrap_or(now)));
        self.next = Some(due + period);
    }

    /// Reads the sensors if it is time, after `frames` frames in all. Returns a message if it changed the rate.
    pub(crate) fn update(&mut self, now: Instant, frames: u64) -> Option<String> {
        let sensors = self.sensors.as_mut()?;
        let Some((last_read, frames_then)) = self.last_read else {
            self.last_read = Some((now, frames));
            // CPU usage is measured between two readings.
            sensors.read(now);
            return None;
        };
        let passed = now.saturating_duration_since(last_read);
        if passed < READ_EVERY {
            return None;
        }
        self.last_read = Some((now, frames));
        let hz = frames.saturating_sub(frames_then) as f32 / passed.as_secs_f32();
        let need = need(&sensors.read(now));
        self.follow(now, hz, need)
    }

    /// Steps down or up as needed; `hz` is the recent rate.
    fn follow(&mut self, now: Instant, hz: f32, need: Need) -> Option<String> {
        let since = self.held.as_ref().map(|held| held.since);
        let waited = |time: Duration| since.is_none_or(|since| now.saturating_duration_since(since) >= time);
        match need {
            Need::Less(reason) => {
                self.fine_since = None;
                if let Some(held) = &mut self.held {
                    held.reason.clone_from(&reason);
                }
                if waited(DOWN_EVERY) { self.step_down(now, hz, reason) } else { None }
            }
            Need::Same => {
                self.fine_since = None;
                None
            }
            Need::More => {
                let fine_since = *self.fine_since.get_or_insert(now);
                if now.saturating_duration_since(fine_since) >= UP_AFTER && waited(UP_AFTER) {
                    self.step_up(now)
                } else {
                    None
                }
            }
        }
    }

    fn step_down(&mut self, now: Instant, hz: f32, reason: String) -> Option<String> {
        // A limit above the real rate would change nothing.
        let from = self.limit_hz().map_or(hz, |limit| limit.min(hz));
        if from <= self.min_hz {
            return None;
        }
        let to = (from * STEP).max(self.min_hz);
        let full_hz = self.held.as_ref().map_or(from, |held| held.full_hz);
        let message = format!("at most {to:.1} frames/s: {reason}");
        self.held = Some(Held { hz: to, full_hz, since: now, reason });
        Some(message)
    }

    fn step_up(&mut self, now: Instant) -> Option<String> {
        let held = self.held.as_mut()?;
        let to = held.hz / STEP;
        // The last step may be a partial one.
        if to >= held.full_hz {
            self.held = None;
            return Some("no longer limited".to_owned());
        }
        (held.hz, held.since) = (to, now);
        Some(format!("at most {to:.1} frames/s, raised again"))
    }
}

/// The need according to the worst reading.
fn need(readings: &Readings) -> Need {
    if let Some(why) = readings.throttled.and_then(sensors::throttling) {
        return Need::Less(format!("the board's firmware throttles the CPU: {why}"));
    }
    if readings.low_voltage == Some(true) {
        return Need::Less("the board's supply voltage is too low".to_owned());
    }
    let hottest = readings.zones.iter().max_by(|a, b| (a.celsius - a.limit_c).total_cmp(&(b.celsius - b.limit_c)));
    if let Some(zone) = hottest.filter(|zone| zone.celsius >= zone.limit_c) {
        let (name, celsius, limit) = (&zone.name, zone.celsius, zone.limit_c);
        return Need::Less(format!("{name} is at {celsius:.0} °C, limit {limit:.0} °C"));
    }
    if let Some(cpu) = readings.cpu.filter(|cpu| cpu.share >= CPU_SHARE_MAX || cpu.is_throttled) {
        let (percent, cores) = (cpu.share * 100.0, cpu.quota_cores);
        return Need::Less(format!("{percent:.0}% of the CPU quota of {cores:.2} cores is used"));
    }
    let warm = hottest.is_some_and(|zone| zone.celsius > zone.limit_c - COOL_BELOW_C);
    let busy = readings.cpu.is_some_and(|cpu| cpu.share > CPU_SHARE_FINE);
    if warm || busy { Need::Same } else { Need::More }
}

#[cfg(test)]
mod tests;
