use std::thread;

use super::*;
use crate::process::Stop;
use crate::source::{Source, SourceError};

/// Longest wait on a busy machine.
const SOON: Duration = Duration::from_secs(300);

/// Gives `count` frames whose bytes repeat their number, and numbers them itself.
struct Counter {
    next: u64,
    count: u64,
    live: bool,
}

impl Source for Counter {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        if self.next == self.count || stop.is_set() {
            return Ok(false);
        }
        frame.number = self.next;
        frame.bytes.clear();
        frame.bytes.extend(self.next.to_le_bytes().iter().cycle().take(512));
        self.next += 1;
        Ok(true)
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn describe(&self) -> String {
        "counter".into()
    }
}

/// Passes frames from one thread to another; returns the numbers that came out, and how many frames were dropped.
fn pass(count: u64, live: bool, take_pause: Duration) -> (Vec<u64>, u64) {
    let (mailbox, stop) = (LatestFrame::new(), Stop::new());
    let mut numbers = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut source = Counter { next: 0, count, live };
            let mut frame = Frame::default();
            while source.next(&mut frame, &stop).unwrap() {
                if source.is_live() {
                    mailbox.put_newest(&mut frame);
                } else {
                    assert!(mailbox.put_waiting(&mut frame));
                }
            }
            mailbox.close();
        });
        let mut frame = Frame::default();
        while mailbox.take(&mut frame, SOON) == Taken::Frame {
            assert!(frame.bytes.chunks(8).all(|chunk| chunk == frame.number.to_le_bytes()), "a torn frame");
            numbers.push(frame.number);
            thread::sleep(take_pause);
        }
    });
    assert_eq!(mailbox.take(&mut Frame::default(), SOON), Taken::Ended);
    (numbers, mailbox.dropped())
}

#[test]
fn live_frames_are_in_order_unique_and_all_accounted_for() {
    for (count, pause) in [(200_000, Duration::ZERO), (100_000, Duration::from_micros(50)), (1, Duration::ZERO)] {
        let (numbers, dropped) = pass(count, true, pause);
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(numbers.len() as u64 + dropped, count);
        assert_eq!(numbers.last(), Some(&(count - 1)), "the newest frame is never lost");
    }
}

#[test]
fn waiting_frames_all_arrive() {
    let (numbers, dropped) = pass(20_000, false, Duration::ZERO);
    assert_eq!((numbers, dropped), ((0..20_000).collect(), 0));
    assert_eq!(pass(0, false, Duration::ZERO), (vec![], 0));
}

#[test]
fn the_newest_wins() {
    let mailbox = LatestFrame::new();
    for number in 0..3 {
        mailbox.put_newest(&mut Frame { number, ..Frame::default() });
    }
    let mut frame = Frame::default();
    assert_eq!(mailbox.take(&mut frame, Duration::ZERO), Taken::Frame);
    assert_eq!((frame.number, mailbox.dropped()), (2, 2));
    assert_eq!(mailbox.take(&mut frame, Duration::ZERO), Taken::TimedOut);
}

#[test]
fn buffers_are_reused() {
    let mailbox = LatestFrame::new();
    let mut capture = Frame { bytes: Vec::with_capacity(1000), ..Frame::default() };
    let mut taken = Frame { bytes: Vec::with_capacity(2000), ..Frame::default() };
    mailbox.put_newest(&mut capture);
    assert_eq!(capture.bytes.capacity(), 0);
    mailbox.take(&mut taken, Duration::ZERO);
    assert_eq!(taken.bytes.capacity(), 1000);
    mailbox.put_newest(&mut capture);
    assert_eq!(capture.bytes.capacity(), 2000);
}

#[test]
fn close_wakes_a_waiting_putter() {
    for until in [None, Some(Instant::now() + SOON)] {
        let mailbox = LatestFrame::new();
        assert!(mailbox.put_waiting(&mut Frame::default()));
        thread::scope(|scope| {
            let (begins, begun) = std::sync::mpsc::channel();
            let mailbox = &mailbox;
            let putter = scope.spawn(move || {
                begins.send(()).unwrap();
                let mut frame = Frame { number: 1, ..Frame::default() };
                match until {
                    Some(until) => mailbox.put_by(&mut frame, until),
                    None => assert!(!mailbox.put_waiting(&mut frame)),
                }
            });
            // It waits by now, or is about to; the outcome is the same.
            begun.recv().unwrap();
            mailbox.close();
            putter.join().unwrap();
        });
        let mut frame = Frame::default();
        assert_eq!(mailbox.take(&mut frame, Duration::ZERO), Taken::Frame);
        assert_eq!((frame.number, mailbox.dropped()), (0, 0), "the frame that was there stays");
    }
}

#[test]
fn close_wakes_a_waiting_taker_after_the_last_frame() {
    let mailbox = LatestFrame::new();
    mailbox.put_newest(&mut Frame { number: 7, ..Frame::default() });
    mailbox.close();
    mailbox.put_newest(&mut Frame { number: 8, ..Frame::default() });
    let mut frame = Frame::default();
    assert_eq!(mailbox.take(&mut frame, SOON), Taken::Frame);
    assert_eq!(frame.number, 7);
    assert_eq!(mailbox.take(&mut frame, SOON), Taken::Ended);

    let mailbox = LatestFrame::new();
    thread::scope(|scope| {
        let taker = scope.spawn(|| mailbox.take(&mut Frame::default(), SOON));
        mailbox.close();
        assert_eq!(taker.join().unwrap(), Taken::Ended);
    });
}

#[test]
fn a_frame_waits_until_it_is_too_old() {
    let mailbox = LatestFrame::new();
    let put = |number, until| mailbox.put_by(&mut Frame { number, ..Frame::default() }, until);
    let taken = || {
        let mut frame = Frame::default();
        mailbox.take(&mut frame, Duration::ZERO);
        frame.number
    };
    put(1, Instant::now());
    put(2, Instant::now());
    assert_eq!((taken(), mailbox.dropped()), (2, 1));
    put(3, Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| put(4, Instant::now() + Duration::from_secs(600)));
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let mut frame = Frame::default();
            if mailbox.take(&mut frame, Duration::from_secs(60)) == Taken::Frame {
                seen.push(frame.number);
            }
        }
        assert_eq!(seen, [3, 4]);
    });
    put(5, Instant::now());
    mailbox.close();
    put(6, Instant::now() + Duration::from_secs(600));
    assert_eq!((taken(), mailbox.dropped()), (5, 1));
}
