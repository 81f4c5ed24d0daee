//! Notices to a program: it is started for each, and reads the event as one line of JSON on its standard input.
//!
//! The input is a file in memory, so a program that does not read it blocks nothing. Whatever the program has started is
//! killed with it.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::process::{ChildStderr, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::ioctl_fionbio;
use rustix::process::{PidfdFlags, Signal, pidfd_open};

use super::json;
use super::notice::{Failure, Notice, Sender};
use crate::process::Stop;
use crate::process::children::{POLL_EVERY, has_ended};
use crate::process::group::{self, END_GRACE, Group};
use crate::process::last_words::LastWords;
use crate::process::wake::Wake;

/// Starts a program for each notice.
#[derive(Debug)]
pub(crate) struct CommandSender {
    program: String,
    arguments: Vec<String>,
    timeout: Duration,
}

/// How a program ended.
enum Ending {
    Exited(Option<ExitStatus>),
    TimedOut,
    Stopped,
}

impl CommandSender {
    /// Starts `words`, a program and its arguments, which gets `timeout` for each notice.
    pub(crate) fn new(words: &[String], timeout: Duration) -> Self {
        let (program, arguments) =
            words.split_first().map_or((String::new(), Vec::new()), |(p, a)| (p.clone(), a.to_vec()));
        Self { program, arguments, timeout }
    }

    fn run(&self, input: &[u8], stop: &Stop) -> io::Result<(Ending, String)> {
        let mut file = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
        file.write_all(input)?;
        file.rewind()?;
        let wake = Wake::new()?;
        let wakes = wake.clone();
        let _woken = stop.on_set(move || wakes.wake());
        let mut command = group::command(&self.program);
        command.args(&self.arguments).stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut group = Group::start(&mut command)?;
        let mut said = Said { pipe: group.take_stderr(), words: LastWords::default() };
        if let Some(pipe) = &said.pipe {
            ioctl_fionbio(pipe, true)?;
        }
        let ending = self.wait(&group, &mut said, &wake, stop)?;
        let (signal, stopped) = match ending {
            Ending::Exited(_) => (None, None),
            Ending::TimedOut => (Some(Signal::TERM), Some(Ending::TimedOut)),
            Ending::Stopped => (Some(Signal::TERM), Some(Ending::Stopped)),
        };
        let status = group.end(signal);
        said.read();
        Ok((stopped.unwrap_or(Ending::Exited(status)), said.words.line()))
    }

    /// Waits until the program has ended, the time is over, or `stop` is set.
    fn wait(&self, group: &Group, said: &mut Said, wake: &Wake, stop: &Stop) -> io::Result<Ending> {
        let start = Instant::now();
        // Missing before Linux 5.3.
        let process = pidfd_open(group.id(), PidfdFlags::empty()).ok();
        loop {
            said.read();
            if has_ended(group.id()) {
                return Ok(Ending::Exited(None));
            } else if stop.is_set() {
                return Ok(Ending::Stopped);
            }
            let left = self.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(Ending::TimedOut);
            }
            let limit = if process.is_some() { left } else { left.min(POLL_EVERY) };
            let limit = Timespec::try_from(limit).map_err(|_| ErrorKind::InvalidInput)?;
            let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
            fds.extend(process.iter().map(|process| PollFd::new(process, PollFlags::IN)));
            fds.extend(said.pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut fds, Some(&limit)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Sender for CommandSender {
    fn send(&mut self, notice: &Notice, stop: &Stop) -> Result<(), Failure> {
        let program = &self.program;
        let mut input = json::decision(&notice.decision).map_err(|error| Failure::lasting(error.to_string()))?;
        input.push(b'\n');
        match self.run(&input, stop) {
            Ok((Ending::Exited(Some(status)), _)) if status.success() => Ok(()),
            Ok((Ending::Exited(status), said)) => {
                let how = status.map_or_else(|| "it is gone".to_owned(), |status| status.to_string());
                Err(Failure::lasting(format!("{program}: ended ({how}){said}")))
            }
            Ok((Ending::TimedOut, said)) => {
                let limit = self.timeout.as_secs_f32();
                Err(Failure::lasting(format!("{program}: not done within {limit} s, and killed{said}")))
            }
            Ok((Ending::Stopped, _)) => Err(Failure::lasting("this program ended first".to_owned())),
            Err(error) => Err(Failure::lasting(format!("{program}: cannot be started: {error}"))),
        }
    }

    fn step_max(&self) -> Duration {
        self.timeout + END_GRACE
    }
}

/// The end of a program's standard error.
struct Said {
    /// `None` once it is closed.
    pipe: Option<ChildStderr>,
    words: LastWords,
}

impl Said {
    /// Reads what is there, without waiting, and at most some pieces of it: a program that never pauses must not keep this
    /// thread from its clock.
    fn read(&mut self) {
        const PIECES: usize = 64;
        let mut piece = [0; 1024];
        for _ in 0..PIECES {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.words.add(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::path::Path;
    use std::thread;

    use spotter_engine::decide::ChangeKind;

    use super::super::notice::tests::notice;
    use super::*;

    fn send(script: &str, timeout: Duration) -> Result<(), String> {
        let words = ["sh", "-c", script].map(str::to_owned);
        let notice = notice(ChangeKind::Start, 7, None, Some("cat"), 10);
        CommandSender::new(&words, timeout).send(&notice, &Stop::new()).map_err(|failure| failure.message)
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn the_event_is_one_line_of_json_on_standard_input() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("event");
        send(&format!("cat > {}; echo printed", file.display()), LONG).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text:?}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["event"], &event["label"], &event["id"]), (&"start".into(), &"cat".into(), &"run-7".into()));
    }

    #[test]
    fn failures_are_told_with_the_last_words() {
        let check = |script: &str, timeout: Duration, expected: &str| {
            assert_eq!(send(script, timeout), Err(expected.to_owned()), "{script}");
        };
        check("exit 3", LONG, "sh: ended (exit status: 3)");
        check("echo one >&2; echo two >&2; exit 1", LONG, "sh: ended (exit status: 1): one; two");
        check("kill -9 $$", LONG, "sh: ended (signal: 9 (SIGKILL))");
        let short = Duration::from_millis(200);
        check("echo slow >&2; exec sleep 1000", short, "sh: not done within 0.2 s, and killed: slow");
        check("trap '' TERM; while :; do :; done", short, "sh: not done within 0.2 s, and killed");
        let endless = send("yes >&2", short).unwrap_err();
        assert!(endless.contains("not done within") && endless.len() < 2000, "{endless}");
        // It neither reads its input nor writes anything.
        assert_eq!(send("exec <&-", LONG), Ok(()));
    }

    #[test]
    fn a_missing_program_is_named() {
        // Under qemu-user a program that cannot be started looks like one that ended at once.
        if std::env::var_os("SPOTTER_TEST_RUNNER").is_some() {
            return println!("skipped: emulated");
        }
        let mut sender = CommandSender::new(&["no-such-program".to_owned()], LONG);
        let failure = sender.send(&notice(ChangeKind::Start, 7, None, Some("cat"), 10), &Stop::new()).unwrap_err();
        assert!(failure.message.starts_with("no-such-program: cannot be started: "), "{failure:?}");
    }

    /// A script that leaves a process behind, which holds its standard error, and the file with that process's number.
    fn leaving(folder: &Path, then: &str) -> (String, std::path::PathBuf) {
        let file = folder.join("id");
        (format!("sleep 1000 & echo $! > {}; {then}", file.display()), file)
    }

    #[test]
    fn what_the_program_started_is_killed_with_it() {
        for then in ["wait", "exit 0"] {
            let folder = tempfile::tempdir().unwrap();
            let (script, file) = leaving(folder.path(), then);
            let limit = if then == "wait" { Duration::from_millis(300) } else { LONG };
            assert_eq!(send(&script, limit).is_ok(), then == "exit 0", "{then}");
            group::wait_until_gone(&std::fs::read_to_string(file).unwrap());
        }
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop::new();
        let stops = stop.clone();
        let folder = tempfile::tempdir().unwrap();
        let (script, file) = leaving(folder.path(), "wait");
        let begun = file.clone();
        let thread = thread::spawn(move || {
            while !std::fs::read_to_string(&begun).is_ok_and(|id| id.ends_with('\n')) {
                thread::sleep(Duration::from_millis(5));
            }
            stops.set();
        });
        let mut sender = CommandSender::new(&["sh", "-c", &script].map(str::to_owned), LONG);
        let failure = sender.send(&notice(ChangeKind::Start, 7, None, Some("cat"), 10), &stop).unwrap_err();
        assert_eq!(failure.message, "this program ended first");
        thread.join().unwrap();
        group::wait_until_gone(&std::fs::read_to_string(file).unwrap());
    }
}
