//! A camera program of the system, such as `rpicam-vid`, which writes MJPEG to its standard output.
//!
//! The program runs in a process group of its own, which is killed whole, so that nothing of it keeps the camera.

use std::io::{ErrorKind, Read};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::address::scrubbed;
use super::pipe::{Keeper, Pipe};
use super::stream::{FIRST_FRAME, JpegStream, Patience};
use super::{CaptureOptions, Frame, Source, SourceError};
use crate::process::Stop;
use crate::process::group::{self, END_GRACE, Group};
use crate::process::last_words::LastWords;
use crate::process::supervise::{fault_point, spawn};
use rustix::process::Signal;

/// Introduces what a program wrote instead of a frame.
const AFTER: &str = ", after writing";

/// A program that writes MJPEG to its standard output.
pub(super) struct Program {
    /// Program and arguments; the program is searched in `$PATH`.
    pub(super) words: Vec<String>,
    /// How messages call the source.
    pub(super) name: String,
    /// What to do if the program is missing, after a semicolon.
    pub(super) hint: &'static str,
    /// Frames keep coming while none is taken.
    pub(super) is_live: bool,
    /// The program ends well after the last frame, as a camera's does not.
    pub(super) ends: bool,
    /// Time limits for frames.
    pub(super) patience: Patience,
    /// What may not be told of its standard error.
    pub(super) secrets: Vec<String>,
    /// Takes what is of no interest out of its last words.
    pub(super) tidied: fn(String) -> String,
    /// What to do about its last words, after a semicolon.
    pub(super) advice: fn(&str) -> &'static str,
}

/// Frames from the standard output of a program.
pub(super) struct CommandSource {
    program: Program,
    group: Group,
    stream: JpegStream,
    /// The end of the program's standard error.
    said: Arc<Mutex<LastWords>>,
    /// Disconnected once standard error has ended.
    listening: Receiver<()>,
    /// What a program that ended well complained of: a recording may lack frames.
    complaint: Option<String>,
    /// Keep both pipes open as long as this exists.
    _keepers: [Keeper; 2],
}

impl CommandSource {
    /// Starts the camera program of these words; `hint` says what to do if it is missing.
    pub(super) fn open(words: &[String], hint: &'static str, options: &CaptureOptions) -> Result<Self, SourceError> {
        Self::start(Program {
            words: words.to_vec(),
            // Without the arguments, which may hold a password.
            name: words.first().cloned().unwrap_or_default(),
            hint,
            is_live: true,
            ends: false,
            patience: Patience { first: options.timeout.max(FIRST_FRAME), next: options.timeout },
            secrets: Vec::new(),
            tidied: |said| said,
            advice: |_| "",
        })
    }

    /// Starts a program.
    pub(super) fn start(started: Program) -> Result<Self, SourceError> {
        let Program { words, name, hint, is_live, patience, .. } = &started;
        let (program, arguments) =
            words.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
        let mut command = group::command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = Group::start(&mut command).map_err(|source| match source.kind() {
            ErrorKind::NotFound => SourceError::Missing { path: program.into(), hint },
            ErrorKind::PermissionDenied => SourceError::Permission { path: program.into(), hint: ": not a program" },
            _ => SourceError::Start { name: program.into(), source },
        })?;
        let missing = || SourceError::Start { name: program.into(), source: ErrorKind::BrokenPipe.into() };
        let (out, err) = (group.take_stdout().ok_or_else(missing)?, group.take_stderr().ok_or_else(missing)?);
        let failed = |source| SourceError::Start { name: program.into(), source };
        let ((out, keeps_out), (err, keeps_err)) = (Pipe::new(out).map_err(failed)?, Pipe::new(err).map_err(failed)?);
        let said = Arc::new(Mutex::new(LastWords::default()));
        let heard = Arc::clone(&said);
        let (ends, listening) = channel();
        let listener = move || {
            listen(err, &heard);
            drop(ends);
        };
        spawn("listener", listener).map_err(failed)?;
        let stream = JpegStream::new(name, out, *is_live, Some(*patience));
        let (program, complaint) = (started, None);
        Ok(Self { program, group, stream, said, listening, complaint, _keepers: [keeps_out, keeps_err] })
    }

    /// The end of a program: that of a recording, or an error, as a camera does not end.
    fn ended(&mut self, had_frames: bool) -> Result<bool, SourceError> {
        let status = self.group.end(None);
        if self.program.ends && had_frames && status.is_some_and(|status| status.success()) {
            let (said, name) = (self.said(), &self.program.name);
            self.complaint = (!said.is_empty()).then(|| format!("{name}: some of it may be missing{said}"));
            return Ok(false);
        }
        let how = status.map_or_else(|| "it is gone".to_owned(), |status| status.to_string());
        let (name, found) = (self.program.name.clone(), self.stream.found(AFTER));
        Err(SourceError::Ended { name, how, found, said: self.last_words() })
    }

    /// The last lines of standard error, joined to one, and advice. Call it after the group has ended.
    fn last_words(&self) -> String {
        let said = self.said();
        let advice = (self.program.advice)(&said);
        said + advice
    }

    /// The last lines of standard error, joined to one. Call it after the group has ended.
    fn said(&self) -> String {
        // Something that the program left behind may keep its standard error open.
        let _ = self.listening.recv_timeout(END_GRACE);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        (self.program.tidied)(scrubbed(&said.line(), &self.program.secrets))
    }
}

impl Source for CommandSource {
    fn next(&mut self, frame: &mut Frame, stop: &Stop) -> Result<bool, SourceError> {
        match self.stream.next(frame, stop) {
            Ok(false) if stop.is_set() => Ok(false),
            // A program that wrote nothing explains itself on standard error; other data than MJPEG is a mistake of its caller.
            Ok(false) => self.ended(true),
            Err(SourceError::NoFrames { bytes: 0, .. }) => self.ended(false),
            Err(SourceError::NoFrames { name, bytes, found, .. }) => {
                self.group.end(Some(Signal::TERM));
                Err(SourceError::NoFrames { name, bytes, found, said: self.last_words().replacen(':', ";", 1) })
            }
            Err(SourceError::Silent { name, limit }) => {
                self.group.end(Some(Signal::TERM));
                Err(SourceError::Hung { name, limit, found: self.stream.found(AFTER), said: self.last_words() })
            }
            other => other,
        }
    }

    fn skipped(&mut self) -> Option<String> {
        self.stream.skipped().or_else(|| self.complaint.take())
    }

    fn is_live(&self) -> bool {
        self.program.is_live
    }

    fn describe(&self) -> String {
        format!("{}: JPEG frames", self.program.name)
    }
}

/// Reads a program's standard error and keeps its end.
fn listen(mut pipe: impl Read, said: &Mutex<LastWords>) {
    let mut piece = [0; 1024];
    fault_point("listener");
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                said.lock().unwrap_or_else(PoisonError::into_inner).add(&piece[..count]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Poll interval of these tests.
    const POLL_EVERY: Duration = Duration::from_millis(5);

    /// An image that a shell prints.
    const TINY: &str = r"printf '\377\330\377\340\000\002\377\331'";

    fn open(script: &str, timeout_ms: u64) -> CommandSource {
        let options = CaptureOptions { timeout: Duration::from_millis(timeout_ms), ..CaptureOptions::default() };
        CommandSource::open(&["sh", "-c", script].map(str::to_owned), "", &options).unwrap()
    }

    /// Takes `frames` frames from a program, which gets `timeout_ms` for each but the first, then checks the error.
    fn check(script: &str, timeout_ms: u64, frames: usize, expected: &str) {
        let (mut source, mut frame, stop) = (open(script, timeout_ms), Frame::default(), Stop::new());
        for number in 0..frames {
            assert!(source.next(&mut frame, &stop).unwrap(), "{script}: frame {number}");
        }
        let error = source.next(&mut frame, &stop).unwrap_err();
        assert_eq!(error.to_string(), expected, "{script}");
    }

    #[test]
    fn every_end_is_reported_with_the_last_error_output() {
        let long = 60_000;
        check(&format!("{TINY}; {TINY}; exit 0"), long, 2, "sh: ended (exit status: 0)");
        check(&format!("echo ' no light' >&2; {TINY}; exit 3"), long, 1, "sh: ended (exit status: 3): no light");
        check("echo no camera >&2; echo at all >&2; exit 1", long, 0, "sh: ended (exit status: 1): no camera; at all");
        check(
            r"printf '1%%\r2%%\r\033[1mbroken\n' >&2; exit 1",
            long,
            0,
            r"sh: ended (exit status: 1): 1%; 2%; \u{1b}[1mbroken",
        );
        check(&format!("{TINY}; kill -9 $$"), long, 1, "sh: ended (signal: 9 (SIGKILL))");
        let closed = format!("echo closed >&2; {TINY}; exec >&-; sleep 100");
        check(&closed, long, 1, "sh: ended (signal: 9 (SIGKILL)): closed");
        let page = format!("{TINY}; echo '<html>503'");
        check(&page, long, 1, "sh: ended (exit status: 0), after writing `<html>503` (a web page)");
    }

    #[test]
    fn silence_is_reported_and_child_processes_are_killed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // It is silent after the frame.
        let script = format!("sleep 100 & echo $! > {}; echo hm >&2; {TINY}; wait", file.display());
        check(&script, 300, 1, "sh: no frame within 0.3 s: hm");
        let id = std::fs::read_to_string(file).unwrap();
        group::wait_until_gone(&id);
        let script = format!("{}busy'; exec sleep 100", TINY.trim_end_matches('\''));
        check(&script, 300, 1, "sh: no frame within 0.3 s, after writing `busy`");
    }

    /// Threads and open files of this process.
    fn held() -> [usize; 2] {
        ["/proc/self/task", "/proc/self/fd"].map(|folder| std::fs::read_dir(folder).unwrap().count())
    }

    #[test]
    fn processes_left_behind_keep_no_threads_or_files_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let before = held();
        let mut left_behind = Vec::new();
        for number in 0..10 {
            let file = folder.path().join(number.to_string());
            // In a session of its own it is not killed with the group, and holds both pipes. The frame waits until it has one.
            let script = format!(
                "setsid sh -c 'echo $$ > {0}; exec sleep 1000' & until [ -s {0} ]; do sleep 0.01; done; {TINY}; exit 3",
                file.display()
            );
            let (mut source, mut frame, stop) = (open(&script, 60_000), Frame::default(), Stop::new());
            assert!(source.next(&mut frame, &stop).unwrap());
            left_behind.push(std::fs::read_to_string(file).unwrap());
        }
        // Other tests have threads too, which come and go; these would stay.
        let start = Instant::now();
        while held().iter().zip(before).any(|(now, before)| *now >= before + 10) {
            assert!(start.elapsed() < Duration::from_secs(60), "{before:?}, then {:?}", held());
            thread::sleep(POLL_EVERY);
        }
        for id in left_behind {
            Command::new("kill").args(["-9", id.trim()]).status().unwrap();
        }
    }

    #[test]
    fn a_program_that_ignores_sigterm_is_killed() {
        let (mut source, mut frame, stop) =
            (open(&format!("trap '' TERM; {TINY}; while :; do :; done"), 60_000), Frame::default(), Stop::new());
        assert!(source.next(&mut frame, &stop).unwrap());
        let start = Instant::now();
        stop.set();
        assert!(!source.next(&mut frame, &stop).unwrap());
        drop(source);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn output_without_frames_is_an_error() {
        for (script, start, end) in [
            (
                "printf H264",
                "sh: 4 bytes without a JPEG frame, which start with `H264`, expected MJPEG",
                "`-f mjpeg` (ffmpeg)",
            ),
            ("echo usage; echo 'no such flag' >&2; exit 2", "sh: 6 bytes without", "(ffmpeg); no such flag"),
        ] {
            let (mut source, mut frame, stop) = (open(script, 60_000), Frame::default(), Stop::new());
            let error = source.next(&mut frame, &stop).unwrap_err().to_string();
            assert!(error.starts_with(start) && error.ends_with(end), "{error}");
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        // Under qemu-user a program that cannot be started looks like one that ended at once.
        if std::env::var_os("SPOTTER_TEST_RUNNER").is_some() {
            return println!("skipped: emulated");
        }
        let words = ["no-such-camera".to_owned()];
        let error = CommandSource::open(&words, "; buy one", &CaptureOptions::default()).err().unwrap();
        assert_eq!(error.to_string(), "no-such-camera: not found; buy one");
    }
}
