//! What the system's signals do to a running loop.

use std::io;
use std::process::exit;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::pipeline::Deps;
use crate::source::command::kill_all;
use crate::supervise::{fault_point, spawn};

/// A loop that was asked to end and has not after this long hangs in a driver, or on a reader of its output that does
/// not read. Everything on the disk is whole at any moment, so the program may end without it. With the rest of the way
/// the end is there within a second.
const GRACE: Duration = Duration::from_millis(800);

/// SIGTERM and SIGINT end the loop, at once while it still loads; a second one ends the program; SIGHUP has the labels
/// read anew.
pub(crate) fn handle(deps: &Deps) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let deps = deps.clone();
    let work = move || {
        fault_point("signals");
        for signal in signals.forever() {
            match signal {
                SIGHUP => deps.reload.store(true, Ordering::Release),
                _ if deps.signalled.swap(true, Ordering::AcqRel) => end(1),
                _ if !deps.running.load(Ordering::Acquire) => end(0),
                _ => {
                    deps.stop.set();
                    end_after_grace();
                }
            }
        }
    };
    spawn("signals", work).map(drop)
}

/// Ends the program at once, and the camera programs that it started with it.
fn end(code: i32) -> ! {
    kill_all();
    exit(code)
}

/// Ends the program after the grace, if it is still there; by itself, since the signals' thread has to see a second one.
fn end_after_grace() {
    let started = spawn("grace", || {
        thread::sleep(GRACE);
        end(0);
    });
    if let Err(error) = started {
        log::warn!("the end cannot be hastened: {error}");
    }
}
