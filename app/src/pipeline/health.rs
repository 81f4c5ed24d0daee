//! Health of the source thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::process::supervise::Heartbeat;
use crate::source::ffmpeg::NETWORK_FIRST_FRAME;
use crate::source::{FIRST_FRAME, Uri};

/// Longest driver call, even while a bus is being reset.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Heartbeat and state of the source thread, which the inference thread checks.
#[derive(Debug)]
pub(super) struct Health {
    beat: Heartbeat,
    lost: AtomicBool,
    /// How often it was lost.
    losses: AtomicU64,
}

impl Health {
    /// For a source with a time limit of `timeout` per frame. Cameras and camera programs give a frame or an error in bounded
    /// time; a silent live pipe has a hung camera at its other end. Files have no limit, since disks may sleep.
    pub(super) fn new(uri: &Uri, live: bool, timeout: Duration, now: Instant) -> Self {
        let silence_max = match uri {
            Uri::V4l2(_) => Some(timeout + CALL_MAX),
            Uri::Csi(_) | Uri::Command(_) => Some(timeout.max(FIRST_FRAME) + CALL_MAX),
            Uri::Stdin if live => Some(timeout.max(FIRST_FRAME) + CALL_MAX),
            Uri::Network(_) => Some(timeout.max(NETWORK_FIRST_FRAME) + CALL_MAX),
            Uri::Stdin | Uri::Auto | Uri::Images(_) | Uri::Video(_) | Uri::Shapes(_) => None,
        };
        Self { beat: Heartbeat::new(silence_max, now), lost: AtomicBool::new(false), losses: AtomicU64::new(0) }
    }

    /// Says that the source thread is about to take its next bounded step.
    pub(super) fn beat(&self, now: Instant) {
        self.beat.beat(now);
    }

    /// Says that the source is lost and being reopened, or is back.
    pub(super) fn set_lost(&self, lost: bool) {
        if !self.lost.swap(lost, Ordering::Relaxed) && lost {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the source was lost, including losses that are over.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns whether the source thread hangs. One that keeps reopening a lost source does not.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.beat.is_missed(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_that_hangs_is_stuck() {
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
            (&"rtsp://cam/1".parse().expect("a camera"), &[0], 35, false),
            (&"rtsp://cam/1".parse().expect("a camera"), &[0], 36, true),
            (&"x.mp4".parse().expect("a video"), &[0], 1_000_000, false),
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
    fn a_lost_source_is_not_stuck_while_it_is_reopened() {
        let start = Instant::now();
        let health = Health::new(&Uri::V4l2("/dev/video0".into()), true, Duration::from_secs(2), start);
        health.set_lost(true);
        for second in (0..600).step_by(2) {
            let now = start + Duration::from_secs(second);
            health.beat(now);
            assert!(health.is_lost() && !health.is_stuck(now + Duration::from_secs(2)), "{second}");
        }
        for lost in [true, false, false, true] {
            health.set_lost(lost);
        }
        assert_eq!(health.losses(), 2, "telling a loss twice is one loss");
    }
}
