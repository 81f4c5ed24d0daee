//! Handles signals: they end the loop, or make it read the label file again.

use std::io;
use std::process::exit;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::LoopControl;
use crate::process::children::kill_all;
use crate::process::supervise::{fault_point, spawn};

/// Time that the loop gets to end after a signal. One that takes longer hangs in a driver, or on a reader that does not
/// read its output; files on disk are whole at any moment, so the program may exit without it. Together with the rest of
/// the shutdown this stays within one second.
const GRACE: Duration = Duration::from_millis(800);

/// Handles signals on a thread of its own: SIGTERM and SIGINT end the loop, or the program at once while it is still
/// loading; a second one ends the program; SIGHUP makes the loop read the label file again.
pub(crate) fn handle(control: &LoopControl) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let control = control.clone();
    let work = move || {
        fault_point("signals");
        for signal in signals.forever() {
            match signal {
                SIGHUP => control.reload.store(true, Ordering::Release),
                _ if control.signalled.swap(true, Ordering::AcqRel) => end(1),
                _ if !control.running.load(Ordering::Acquire) => end(0),
                _ => {
                    control.stop.set();
                    end_after_grace();
                }
            }
        }
    };
    spawn("signals", work).map(drop)
}

/// Exits at once, and kills the camera programs that were started.
fn end(code: i32) -> ! {
    kill_all();
    exit(code)
}

/// Exits after [`GRACE`], on a thread of its own, since the signals' thread has to see a second signal.
fn end_after_grace() {
    let started = spawn("grace", || {
        thread::sleep(GRACE);
        end(0);
    });
    if let Err(error) = started {
        log::warn!("no thread to end the program with, should the loop hang: {error}");
    }
}
