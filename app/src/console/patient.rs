//! Standard error for the log. Whoever reads it may stop reading, and must not stop the program: what a full pipe does not
//! take in time is dropped, and told once it takes something again.

use std::io::{self, IsTerminal as _, Stderr, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pipe that says that it takes something takes so many bytes (`PIPE_BUF` of POSIX on Linux).
const PIECE_BYTES: usize = 4096;

/// What a reader that has kept up so far gets to read on.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes lines whole or not at all, and never waits long.
pub(super) struct Patient {
    err: Stderr,
    /// Lines that were dropped and not yet told of.
    dropped: u64,
}

impl Patient {
    /// Standard error, and whether it is a terminal.
    pub(super) fn new() -> (Self, bool) {
        let err = io::stderr();
        let is_terminal = err.is_terminal();
        (Self { err, dropped: 0 }, is_terminal)
    }

    /// Whether standard error takes something within `patience`. One that cannot be asked is believed to.
    fn takes(&self, patience: Duration) -> bool {
        let Ok(patience) = Timespec::try_from(patience) else { return true };
        poll(&mut [PollFd::new(&self.err, PollFlags::OUT)], Some(&patience)).map_or(true, |ready| ready > 0)
    }

    /// Says whether the whole of the line was written. A line that is longer than a piece may be cut.
    fn put(&mut self, line: &[u8], patience: Duration) -> io::Result<bool> {
        for piece in line.chunks(PIECE_BYTES) {
            if !self.takes(patience) {
                return Ok(false);
            }
            self.err.write_all(piece)?;
        }
        Ok(true)
    }
}

impl Write for Patient {
    /// A line, or several.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A reader that did not keep up is not waited for again until it does.
        let patience = if self.dropped > 0 { Duration::ZERO } else { PATIENCE };
        if self.dropped > 0 {
            let note = format!("({} lines of the log were lost, as nobody read it)\n", self.dropped);
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
