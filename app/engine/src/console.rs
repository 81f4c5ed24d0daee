//! Output of command line programs: lines that file names cannot forge, and readers that may close the pipe.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};

use crate::printable::printable;

/// The reader has closed the pipe, as in `… | head -1`. A program then exits quietly.
#[derive(Debug)]
struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader has closed the pipe")
    }
}

impl Error for ReaderGone {}

/// Marks errors of standard output that mean a closed pipe, for [`is_reader_gone`].
#[derive(Debug)]
pub struct Output<W>(W);

impl<W: Write> Output<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self(out)
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(marked)
    }
}

fn marked(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe { io::Error::new(ErrorKind::BrokenPipe, ReaderGone) } else { error }
}

/// Returns true if an error, given with its causes, is that the reader of an [`Output`] has closed the pipe.
pub fn is_reader_gone<'a>(mut chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> bool {
    chain.any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref::<ReaderGone>()).is_some()
    })
}

/// An output that drops everything once the reader has closed the pipe, so that the work goes on.
pub struct IgnoreBrokenPipe<'a>(&'a mut dyn Write);

impl<'a> IgnoreBrokenPipe<'a> {
    /// Writes to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self(out)
    }
}

impl Write for IgnoreBrokenPipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// Writes one line; control characters in it are escaped as by [`printable`].
///
/// # Errors
/// Those of `out`.
pub fn write_line(out: &mut dyn Write, line: fmt::Arguments<'_>) -> io::Result<()> {
    let line = line.to_string();
    let mut line = printable(&line).into_owned();
    line.push('\n');
    out.write_all(line.as_bytes())
}

/// Prints `error: …` to `err`, which is standard error. If that fails, there is nowhere left to report it.
pub fn print_error(err: &mut dyn Write, error: &str) {
    let _ = write_line(err, format_args!("error: {error}")).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accepts a number of bytes, then fails.
    struct Limited(usize, ErrorKind);

    impl Write for Limited {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(self.1.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_closed_pipe_of_the_output_is_no_error() {
        for (kind, of_output, gone) in [
            (ErrorKind::BrokenPipe, true, true),
            (ErrorKind::StorageFull, true, false),
            // Another pipe than the output.
            (ErrorKind::BrokenPipe, false, false),
        ] {
            let mut out = Output::new(Limited(5, kind));
            let error = if of_output {
                write_line(&mut out, format_args!("longer")).map_or_else(|error| error, |()| io::Error::other("none"))
            } else {
                kind.into()
            };
            let error: &(dyn Error + 'static) = &error;
            assert_eq!(is_reader_gone(std::iter::once(error)), gone, "{kind}");
        }
        let mut out = Output::new(Limited(5, ErrorKind::BrokenPipe));
        assert!(IgnoreBrokenPipe::new(&mut out).write_all(b"longer").is_ok());
        let mut full = Limited(5, ErrorKind::StorageFull);
        assert!(IgnoreBrokenPipe::new(&mut full).write_all(b"longer").is_err());
        print_error(&mut Limited(0, ErrorKind::StorageFull), "cannot be printed");
    }

    #[test]
    fn a_line_is_one_line() {
        let mut out = Vec::new();
        assert!(write_line(&mut out, format_args!("{}: {}", "a\nerror: b", "\x1b[1m")).is_ok());
        print_error(&mut out, "x\r\ny");
        assert_eq!(String::from_utf8_lossy(&out), "a\\nerror: b: \\u{1b}[1m\nerror: x\\r\\ny\n");
    }
}
