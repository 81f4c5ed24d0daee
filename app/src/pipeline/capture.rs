//! The source thread: frames into the slot, and a lost source opened again.

use std::time::Duration;

use crate::slot::Slot;
use crate::source::{self, CaptureOptions, Frame, Opened, Source, SourceError, Stop, Uri};

/// First pause before a lost source is opened again; a replugged camera needs about this long.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause, so that a camera that comes back is seen soon.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Pumps frames until the source ends, fails for good, or `stop` is set. Frames are numbered from 0 throughout.
pub(super) fn run(opened: Opened, options: &CaptureOptions, slot: &Slot, stop: &Stop) -> Result<(), SourceError> {
    let Opened { mut source, uri } = opened;
    let mut frame = Frame::default();
    let mut number = 0;
    loop {
        match pump(&mut *source, slot, stop, &mut frame, &mut number) {
            Ok(()) => return Ok(()),
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => log::warn!("{:#}; trying to open it again", anyhow::Error::from(error)),
        }
        // A camera can be opened only once.
        drop(source);
        match reopen(&uri, options, stop) {
            Some(again) => source = again,
            None => return Ok(()),
        }
    }
}

fn pump(
    source: &mut dyn Source,
    slot: &Slot,
    stop: &Stop,
    frame: &mut Frame,
    number: &mut u64,
) -> Result<(), SourceError> {
    let live = source.is_live();
    while !stop.is_set() {
        frame.path = None;
        frame.truth = None;
        if !source.next(frame, stop)? {
            return Ok(());
        }
        frame.number = *number;
        *number += 1;
        if live {
            slot.put_newest(frame);
        } else if !slot.put_waiting(frame, stop) {
            return Ok(());
        }
    }
    Ok(())
}

/// Tries again and again, ever more slowly; `None` when stopped.
fn reopen(uri: &Uri, options: &CaptureOptions, stop: &Stop) -> Option<Box<dyn Source>> {
    let mut pause = BACK_OFF_FIRST;
    let mut tries = 1;
    while !stop.sleep(pause) {
        match source::open(uri, options) {
            Ok(Opened { source, .. }) => {
                log::info!("source is back after {tries} tries: {}", source.describe());
                return Some(source);
            }
            Err(error) => log::debug!("try {tries}: {:#}", anyhow::Error::from(error)),
        }
        tries += 1;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    None
}
