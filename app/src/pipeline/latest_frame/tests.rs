use std::thread;

use super::*;
use crate::source::{Source, SourceError};

/// Longest that a loaded machine may take to do what is waited for.
const SOON: Duration = Duration::from_secs(300);

/// Gives `count` frames whose bytes repeat their number.
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

/// Runs a counter through a slot in two threads; gives the numbers that came out, and how many were dropped.
fn pass(count: u64, live: bool, take_pause: Duration) -> (Vec<u64>, u64) {
    let (slot, stop) = (Slot::new(), Stop::new());
    let mut numbers = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut source = Counter { next: 0, count, live };
            let mut frame = Frame::default();
            while source.next(&mut frame, &stop).unwrap() {
                if source.is_live() {
                    slot.put_newest(&mut frame);
                } else {
                    assert!(slot.put_waiting(&mut frame, &stop));
                }
            }
            slot.close();
        });
        let mut frame = Frame::default();
        while slot.take(&mut frame, SOON) == Taken::Frame {
            assert!(frame.bytes.chunks(8).all(|chunk| chunk == frame.number.to_le_bytes()), "a torn frame");
            numbers.push(frame.number);
            thread::sleep(take_pause);
        }
    });
    assert_eq!(slot.take(&mut Frame::default(), SOON), Taken::Ended);
    (numbers, slot.dropped())
}

#[test]
fn live_frames_are_in_order_never_twice_and_all_accounted_for() {
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
    let slot = Slot::new();
    for number in 0..3 {
        slot.put_newest(&mut Frame { number, ..Frame::default() });
    }
    let mut frame = Frame::default();
    assert_eq!(slot.take(&mut frame, Duration::ZERO), Taken::Frame);
    assert_eq!((frame.number, slot.dropped()), (2, 2));
    assert_eq!(slot.take(&mut frame, Duration::ZERO), Taken::TimedOut);
}

#[test]
fn buffers_go_round() {
    let slot = Slot::new();
    let mut capture = Frame { bytes: Vec::with_capacity(1000), ..Frame::default() };
    let mut taken = Frame { bytes: Vec::with_capacity(2000), ..Frame::default() };
    slot.put_newest(&mut capture);
    assert_eq!(capture.bytes.capacity(), 0);
    slot.take(&mut taken, Duration::ZERO);
    assert_eq!(taken.bytes.capacity(), 1000);
    slot.put_newest(&mut capture);
    assert_eq!(capture.bytes.capacity(), 2000);
}

#[test]
fn stop_and_close_free_a_waiting_putter() {
    for close in [false, true] {
        let (slot, stop) = (Slot::new(), Stop::new());
        assert!(slot.put_waiting(&mut Frame::default(), &stop));
        thread::scope(|scope| {
            let (begins, begun) = std::sync::mpsc::channel();
            let (slot, stop) = (&slot, &stop);
            let putter = scope.spawn(move || {
                begins.send(()).unwrap();
                slot.put_waiting(&mut Frame { number: 1, ..Frame::default() }, stop)
            });
            // It waits by now, or is about to; the outcome is the same.
            begun.recv().unwrap();
            if close {
                slot.close();
            } else {
                stop.set();
            }
            assert!(!putter.join().unwrap());
        });
    }
}

#[test]
fn close_wakes_a_waiting_taker_after_the_last_frame() {
    let slot = Slot::new();
    slot.put_newest(&mut Frame { number: 7, ..Frame::default() });
    slot.close();
    slot.put_newest(&mut Frame { number: 8, ..Frame::default() });
    let mut frame = Frame::default();
    assert_eq!(slot.take(&mut frame, SOON), Taken::Frame);
    assert_eq!(frame.number, 7);
    assert_eq!(slot.take(&mut frame, SOON), Taken::Ended);

    let slot = Slot::new();
    thread::scope(|scope| {
        let taker = scope.spawn(|| slot.take(&mut Frame::default(), SOON));
        slot.close();
        assert_eq!(taker.join().unwrap(), Taken::Ended);
    });
}

#[test]
fn a_frame_waits_until_it_is_too_old() {
    let (slot, stop) = (Slot::new(), Stop::new());
    let put = |number, until| slot.put_by(&mut Frame { number, ..Frame::default() }, until, &stop);
    let taken = || {
        let mut frame = Frame::default();
        slot.take(&mut frame, Duration::ZERO);
        frame.number
    };
    put(1, Instant::now());
    put(2, Instant::now());
    assert_eq!((taken(), slot.dropped()), (2, 1));
    put(3, Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| put(4, Instant::now() + Duration::from_secs(600)));
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let mut frame = Frame::default();
            if slot.take(&mut frame, Duration::from_secs(60)) == Taken::Frame {
                seen.push(frame.number);
            }
        }
        assert_eq!(seen, [3, 4]);
    });
    put(5, Instant::now());
    stop.set();
    put(6, Instant::now() + Duration::from_secs(600));
    slot.close();
    put(7, Instant::now() + Duration::from_secs(600));
    assert_eq!((taken(), slot.dropped()), (6, 2));
}
