//! Standard error for the log. A reader that stops reading must not block the program: lines that a full pipe does not accept
//! in time are dropped and counted, and the count is written once the pipe accepts something again.

use std::io::{self, IsTerminal as _, Stderr, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that polls as writable accepts this many bytes without blocking (`PIPE_BUF` of POSIX on Linux).
const PIECE_BYTES: usize = 4096;

/// Time that a reader which has kept up so far gets to make room.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes whole lines or none, and never waits long.
pub(super) struct PatientStderr {
    err: Stderr,
    /// Dropped lines that were not reported yet.
    dropped: u64,
}

impl PatientStderr {
    /// Standard error, and whether it is a terminal.
    pub(super) fn new() -> (Self, bool) {
        let err = io::stderr();
        let is_terminal = err.is_terminal();
        (Self { err, dropped: 0 }, is_terminal)
    }

    /// Returns whether standard error becomes writable within `patience`; assumed where `poll` fails.
    fn is_writable(&self, patience: Duration) -> bool {
        let Ok(patience) = Timespec::try_from(patience) else { return true };
        poll(&mut [PollFd::new(&self.err, PollFlags::OUT)], Some(&patience)).map_or(true, |ready| ready > 0)
    }

    /// Writes a line and returns whether all of it was written. A line longer than a piece may be cut.
    fn put(&mut self, line: &[u8], patience: Duration) -> io::Result<bool> {
        for piece in line.chunks(PIECE_BYTES) {
            if !self.is_writable(patience) {
                return Ok(false);
            }
            self.err.write_all(piece)?;
        }
        Ok(true)
    }
}

impl Write for PatientStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // No more waiting for a reader that has fallen behind until it catches up.
        let patience = if self.dropped > 0 { Duration::ZERO } else { PATIENCE };
        if self.dropped > 0 {
            let note = format!("({} log lines were lost because nobody read them)\n", self.dropped);
            if !self.put(note.as_bytes(), patience)? {
                self.dropped += 1;
                return Ok(bytes.len());
            }
            self.dropped = 0;
        }
        if !self.put(bytes, patience)? {
            self.dropped += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.err.flush()
    }
}
