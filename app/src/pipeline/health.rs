//! Whether the source thread still moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::source::Uri;
use crate::source::command::FIRST_FRAME;
use crate::process::supervise::Heartbeat;

/// A driver that answers at all answers a call within this time, even while a bus is being reset.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Signs of life of the source thread, which the inference thread looks at.
#[derive(Debug)]
pub(super) struct Health {
    beat: Heartbeat,
    lost: AtomicBool,
}

impl Health {
    /// Of a source that is given `timeout` for a frame, and is `live` or not. A camera gives a frame or an error in bounded
    /// time, and so does a camera program; a pipe that gives nothing for long has a hung camera at its other end. Files
    /// lie on disks that sleep.
    pub(super) fn new(uri: &Uri, live: bool, timeout: Duration, now: Instant) -> Self {
        let silence_max = match uri {
            Uri::V4l2(_) => Some(timeout + CALL_MAX),
            Uri::Csi(_) | Uri::Command(_) => Some(timeout.max(FIRST_FRAME) + CALL_MAX),
            Uri::Stdin if live => Some(timeout.max(FIRST_FRAME) + CALL_MAX),
            Uri::Stdin | Uri::Auto | Uri::Pictures(_) | Uri::Shapes(_) => None,
        };
        Self { beat: Heartbeat::new(silence_max, now), lost: AtomicBool::new(false) }
    }

    /// The source thread is about to make the next bounded step.
    pub(super) fn beat(&self, now: Instant) {
        self.beat.beat(now);
    }

    /// The source gives no frames and is being opened again, or is back.
    pub(super) fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether the source thread hangs within one step. A source that is lost and tried again and again does not.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.beat.is_missed(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_without_end_is_stuck() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (camera, command) = (Uri::V4l2("/dev/video0".into()), Uri::Command(vec!["camera".to_owned()]));
        for (uri, beats, now, expected) in [
            (&camera, &[0][..], 12, false),
            (&camera, &[0], 13, true),
            (&camera, &[0, 12, 20, 32], 44, false),
            (&camera, &[0, 12, 20, 32], 45, true),
            (&command, &[0], 20, false),
            (&command, &[0], 21, true),
            (&Uri::Csi(0), &[0, 15], 36, true),
            (&Uri::Stdin, &[0], 20, false),
            (&Uri::Stdin, &[0], 21, true),
            (&Uri::Auto, &[0], 1_000_000, false),
        ] {
            let health = Health::new(uri, true, Duration::from_secs(2), start);
            beats.iter().for_each(|beat| health.beat(at(*beat)));
            assert_eq!(health.is_stuck(at(now)), expected, "{uri:?} {beats:?} {now}");
        }
        let recording = Health::new(&Uri::Stdin, false, Duration::from_secs(2), start);
        assert!(!recording.is_stuck(at(1_000_000)));
    }

    #[test]
    fn a_source_that_is_lost_is_not_stuck_while_it_is_tried() {
        let start = Instant::now();
        let health = Health::new(&Uri::V4l2("/dev/video0".into()), true, Duration::from_secs(2), start);
        health.set_lost(true);
        for second in (0..600).step_by(2) {
            let now = start + Duration::from_secs(second);
            health.beat(now);
            assert!(health.is_lost() && !health.is_stuck(now + Duration::from_secs(2)), "{second}");
        }
    }
}
