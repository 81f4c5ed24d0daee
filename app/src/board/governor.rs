//! How many frames a second are labelled: as many as are wanted, and fewer while the board is too hot, held back by its
//! firmware, or short of CPU time.
//!
//! A board that is too hot lowers its own clock, all at once and for all programs. The governor is there first: it takes
//! a quarter off the rate, waits for that to show, and takes another if need be; it gives back as slowly.

pub mod sensors;

use std::time::{Duration, Instant};

use sensors::{Readings, Sensors};

use crate::config::Rate;

/// A step down leaves this share of the rate.
const STEP: f32 = 0.75;

/// Temperatures change within seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a step down brings shows after about this long.
const DOWN_EVERY: Duration = Duration::from_secs(6);

/// A step up is made after this long without need. Longer than a step down takes to show, so that the rate settles.
const UP_AFTER: Duration = Duration::from_secs(20);

/// Degrees below the limit at which the rate may rise again.
const COOL_BELOW_C: f32 = 4.0;

/// Share of the CPU quota above which the kernel is about to hold the program back.
const CPU_SHARE_MAX: f32 = 0.9;

/// Share of the CPU quota below which the rate may rise; a step up from here stays below the other.
const CPU_SHARE_FINE: f32 = 0.6;

/// What the readings ask for.
#[derive(Debug, Clone, PartialEq)]
enum Need {
    /// Fewer frames, and why.
    Less(String),
    /// What it is.
    Same,
    /// More, if more are wanted.
    More,
}

/// Holds the rate.
#[derive(Debug)]
pub struct Governor {
    /// `None` where nobody is to look.
    sensors: Option<Sensors>,
    /// Frames a second that are wanted at most.
    max_hz: Option<f32>,
    /// Frames a second that are left whatever happens.
    min_hz: f32,
    /// The rate that is held, and why.
    held: Option<Held>,
    /// When was looked last, and how many frames there had been.
    looked: Option<(Instant, u64)>,
    /// Since when there was no need.
    fine_since: Option<Instant>,
    /// When the next frame may begin.
    next: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Held {
    hz: f32,
    /// The rate before the first step.
    full_hz: f32,
    since: Instant,
    reason: String,
}

impl Governor {
    /// Holds the rate as the configuration says, and as the sensors demand.
    pub fn new(rate: &Rate, sensors: Option<Sensors>) -> Self {
        Self {
            sensors,
            max_hz: (rate.max_fps > 0.0).then_some(rate.max_fps),
            min_hz: rate.min_fps,
            held: None,
            looked: None,
            fine_since: None,
            next: None,
        }
    }

    /// Frames a second that are allowed now; `None` for any number.
    pub fn limit_hz(&self) -> Option<f32> {
        let wanted = self.max_hz;
        match &self.held {
            Some(held) => Some(wanted.map_or(held.hz, |wanted| wanted.min(held.hz))),
            None => wanted,
        }
    }

    /// Why the rate is held below the wanted one, if it is.
    pub fn reason(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.reason.as_str())
    }

    /// Time until the next frame may begin, if it may not yet.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        self.limit_hz()?;
        self.next.map(|next| next.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// A frame begins. Frames that come late are made up for, by one at most, so that the mean rate is the allowed one.
    pub fn began(&mut self, now: Instant) {
        let Some(hz) = self.limit_hz() else { return };
        let period = Duration::from_secs_f32(1.0 / hz);
        let due = self.next.map_or(now, |next| next.max(now.checked_sub(period).unwrap_or(now)));
        self.next = Some(due + period);
    }

    /// Looks at the board, if it is time to, after `frames` frames in all; says what it changed.
    pub fn look(&mut self, now: Instant, frames: u64) -> Option<String> {
        let sensors = self.sensors.as_mut()?;
        let Some((looked, frames_then)) = self.looked else {
            self.looked = Some((now, frames));
            // Use of the CPU is told from one look to the next.
            sensors.read(now);
            return None;
        };
        let passed = now.saturating_duration_since(looked);
        if passed < LOOK_EVERY {
            return None;
        }
        self.looked = Some((now, frames));
        let hz = frames.saturating_sub(frames_then) as f32 / passed.as_secs_f32();
        let need = need(&sensors.read(now));
        self.follow(now, hz, need)
    }

    /// Does what is needed, at a rate of `hz` of late.
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
        // A limit above what there really is would change nothing.
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
        // The last step is a whole one or a part of one.
        if to >= held.full_hz {
            self.held = None;
            return Some("as many frames as are wanted again".to_owned());
        }
        (held.hz, held.since) = (to, now);
        Some(format!("at most {to:.1} frames/s, which is more again"))
    }
}

/// What is needed, by the worst of the readings.
fn need(readings: &Readings) -> Need {
    if let Some(why) = readings.throttled.and_then(sensors::throttling) {
        return Need::Less(format!("the board's firmware holds the CPU back: {why}"));
    }
    if readings.low_voltage == Some(true) {
        return Need::Less("the board's supply voltage is too low".to_owned());
    }
    let hottest = readings.zones.iter().max_by(|a, b| (a.celsius - a.limit_c).total_cmp(&(b.celsius - b.limit_c)));
    if let Some(zone) = hottest.filter(|zone| zone.celsius >= zone.limit_c) {
        let (name, celsius, limit) = (&zone.name, zone.celsius, zone.limit_c);
        return Need::Less(format!("{name} is at {celsius:.0} °C and kept below {limit:.0}"));
    }
    if let Some(cpu) = readings.cpu.filter(|cpu| cpu.share >= CPU_SHARE_MAX || cpu.held_back) {
        let (percent, cores) = (cpu.share * 100.0, cpu.quota_cores);
        return Need::Less(format!("{percent:.0}% of the CPU quota of {cores:.2} cores is used"));
    }
    let warm = hottest.is_some_and(|zone| zone.celsius > zone.limit_c - COOL_BELOW_C);
    let busy = readings.cpu.is_some_and(|cpu| cpu.share > CPU_SHARE_FINE);
    if warm || busy { Need::Same } else { Need::More }
}

#[cfg(test)]
mod tests;
