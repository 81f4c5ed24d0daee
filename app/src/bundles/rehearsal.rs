//! Loads a slot's bundle in a separate process first, with limits on memory and time. A bundle that takes all memory, hangs or
//! crashes does so there, and is refused with the reason.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Signal, getrlimit};
use spotter_engine::printable::printable;

use super::slots::Slots;
use crate::process::children::wait_for_exit;

/// The hidden command of this program that loads the bundle.
pub(crate) const COMMAND: &str = "rehearse";

/// Time limit. A ViT-B/32 with a BERT-base takes about ten seconds from a slow card on the slowest board, and has lower
/// priority than the running program.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Available memory that is left to the system and to the running program, which needs some for frames and reports.
const RESERVE_BYTES: u64 = 32 << 20;

/// Minimum memory of a rehearsal, enough for the demo model. If less is available, the system kills the rehearsal only.
const FLOOR_BYTES: u64 = 64 << 20;

/// Interval between two checks for the end of the process and of the program.
const STEP: Duration = Duration::from_millis(20);

/// Bytes of standard error that are kept: the last ones, since the reason is in the last line.
const SAID_BYTES: usize = 2048;

/// Start of Rust's message when an allocation fails.
const NO_MEMORY: &str = "memory allocation of ";

/// Why a bundle failed its rehearsal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The process could not be started.
    #[error("cannot start the separate process in which every new bundle is tried first")]
    Start(#[source] io::Error),
    /// The caller stopped the rehearsal, which says nothing about the bundle.
    #[error("stopped while it was tried")]
    Stopped,
    /// It took too long.
    #[error("it did not load within {} s in a separate process", .limit.as_secs_f32())]
    Late {
        /// Time limit.
        limit: Duration,
    },
    /// It needs more memory than its limit.
    #[error(
        "it needs more memory than the {mebibytes} MiB that are available; end other programs, or use a smaller bundle"
    )]
    Memory {
        /// Memory limit in MiB.
        mebibytes: u64,
    },
    /// The process was ended by a signal.
    #[error("loading it in a separate process ended with signal {signal}{hint}{said}")]
    Died {
        /// Number of the signal.
        signal: i32,
        /// Likely cause; may be empty.
        hint: &'static str,
        /// The last line of its standard error, after a colon; may be empty.
        said: String,
    },
    /// It could not be loaded, with a reason.
    #[error("{said}")]
    Failed {
        /// The reason.
        said: String,
    },
    /// It could not be loaded, without a reason.
    #[error("loading it in a separate process failed without a message ({status})")]
    Mute {
        /// Its exit status.
        status: ExitStatus,
    },
}

/// Starts another process of this program that opens the slot `name` and loads and tries its whole bundle. `goes_on` is called
/// every few milliseconds.
///
/// # Errors
/// The reason of the other process, or why it ended; [`Refusal::Stopped`] once `goes_on` returns `false`.
pub(crate) fn rehearse(slots: &Slots, name: &str, threads: usize, goes_on: impl Fn() -> bool) -> Result<(), Refusal> {
    let memory_max = memory_max(available(), getrlimit(Resource::Data).current);
    let mut command = own_program().map_err(Refusal::Start)?;
    command.arg(COMMAND);
    command.arg(option("--slot", name)).arg(option("--state-dir", slots.state_dir()));
    command.args(slots.key.as_ref().map(|key| option("--public-key", &key.text)));
    command.arg(option("--threads", threads.to_string())).arg(option("--parent", std::process::id().to_string()));
    command.args(memory_max.map(|bytes| option("--memory-max", bytes.to_string())));
    // In a process group of its own, so that signals of a terminal reach only this program, which then ends that one.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    // The service manager waits for this program, not for that one, whose log is only read for the reason.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    command.env_remove("RUST_BACKTRACE").env("RUST_LOG", "error").env("NO_COLOR", "1");
    let mut running = Running::new(command.spawn().map_err(Refusal::Start)?);
    let status = running.end(time_max(), goes_on)?;
    match refusal(status, &running.said, memory_max) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// A command for this program, even if its file has been replaced.
fn own_program() -> io::Result<Command> {
    #[cfg(debug_assertions)]
    {
        // In emulated tests the system cannot start the program directly.
        if let Ok(runner) = std::env::var("SPOTTER_TEST_RUNNER") {
            let mut words = runner.split_whitespace();
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words).arg(std::env::current_exe()?);
            return Ok(command);
        }
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("spotter");
    Ok(command)
}

/// An option and its value in one word, so that no value can be parsed as another option.
fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// The time limit; builds with debug assertions read a shorter one for tests, in milliseconds.
fn time_max() -> Duration {
    #[cfg(debug_assertions)]
    {
        let named = std::env::var("SPOTTER_TEST_REHEARSAL_MS").ok().and_then(|text| text.parse::<u64>().ok());
        if let Some(milliseconds) = named {
            return Duration::from_millis(milliseconds);
        }
    }
    TIME_MAX
}

/// Available memory of the system in bytes; `None` if it is unknown.
fn available() -> Option<u64> {
    available_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let found = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    found.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory limit of a rehearsal, for `available` bytes and this process's own `limit`.
fn memory_max(available: Option<u64>, limit: Option<u64>) -> Option<u64> {
    let share = available.map(|bytes| bytes.saturating_sub(RESERVE_BYTES).max(FLOOR_BYTES));
    match (share, limit) {
        (Some(share), Some(limit)) => Some(share.min(limit)),
        (share, limit) => share.or(limit),
    }
}

/// The refusal for a process that ended with `status` after writing `said`; `None` if it succeeded.
fn refusal(status: ExitStatus, said: &[u8], memory_max: Option<u64>) -> Option<Refusal> {
    if status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(said);
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let last = printable(last.strip_prefix("error: ").unwrap_or(last)).into_owned();
    Some(match (status.signal(), memory_max) {
        (Some(signal), Some(bytes)) if signal == Signal::ABORT.as_raw() && text.contains(NO_MEMORY) => {
            Refusal::Memory { mebibytes: bytes >> 20 }
        }
        (Some(signal), _) => Refusal::Died {
            signal,
            hint: if signal == Signal::KILL.as_raw() { " (killed; was there too little memory?)" } else { "" },
            said: if last.is_empty() { last } else { format!(": {last}") },
        },
        (None, _) if last.is_empty() => Refusal::Mute { status },
        (None, _) => Refusal::Failed { said: last },
    })
}

/// A running process, which is killed when this is dropped.
struct Running {
    child: Child,
    /// Its standard error, until that has ended.
    err: Option<ChildStderr>,
    /// The end of its standard error.
    said: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let err = child.stderr.take();
        Self { child, err, said: Vec::new() }
    }

    /// Waits for the end of the process, and reads its standard error until then.
    fn end(&mut self, limit: Duration, goes_on: impl Fn() -> bool) -> Result<ExitStatus, Refusal> {
        let start = Instant::now();
        let status = loop {
            if !goes_on() {
                return Err(Refusal::Stopped);
            }
            if start.elapsed() > limit {
                return Err(Refusal::Late { limit });
            }
            self.hear();
            if let Some(status) = self.child.try_wait().map_err(Refusal::Start)? {
                break status;
            }
        };
        // Reads the rest of its standard error.
        while self.hear() {}
        Ok(status)
    }

    /// Waits for output, at most for [`STEP`], and reads it; `false` if there was none.
    fn hear(&mut self) -> bool {
        let Some(err) = &mut self.err else {
            wait_for_exit(Pid::from_child(&self.child), STEP);
            return false;
        };
        let Ok(step) = Timespec::try_from(STEP) else { return false };
        let ready = poll(&mut [PollFd::new(&*err, PollFlags::IN)], Some(&step));
        if !matches!(ready, Ok(1..)) {
            return false;
        }
        let mut piece = [0; 1024];
        match err.read(&mut piece) {
            Ok(count @ 1..) => {
                self.said.extend_from_slice(&piece[..count]);
                let past = self.said.len().saturating_sub(SAID_BYTES);
                self.said.drain(..past);
                true
            }
            _ => {
                self.err = None;
                false
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing for a process that was reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wait(2) encodes it.
    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn every_exit_is_explained() {
        let killed = ExitStatus::from_raw;
        let no_memory = "memory allocation of 4096 bytes failed\n";
        for (what, status, said, memory_max, expected) in [
            ("success", exited(0), "a warning\n", Some(1 << 20), None),
            ("a reason", exited(1), "[time WARN ] x\nerror: a.tar: bad\n\n", None, Some("a.tar: bad")),
            ("a forged line", exited(1), "error: a\x1b[2J\rb\n", None, Some("a\\u{1b}[2J\\rb")),
            (
                "no reason",
                exited(101),
                " \n",
                None,
                Some("loading it in a separate process failed without a message (exit status: 101)"),
            ),
            (
                "no memory",
                killed(6),
                no_memory,
                Some(100 << 20),
                Some(
                    "it needs more memory than the 100 MiB that are available; end other programs, or use a smaller bundle",
                ),
            ),
            (
                "no memory, without a limit",
                killed(6),
                no_memory,
                None,
                Some("loading it in a separate process ended with signal 6: memory allocation of 4096 bytes failed"),
            ),
            (
                "the kernel's choice",
                killed(9),
                "",
                Some(100 << 20),
                Some("loading it in a separate process ended with signal 9 (killed; was there too little memory?)"),
            ),
            (
                "a crash",
                killed(11 | 0x80),
                "x",
                Some(100 << 20),
                Some("loading it in a separate process ended with signal 11: x"),
            ),
        ] {
            let found = refusal(status, said.as_bytes(), memory_max).map(|refusal| refusal.to_string());
            assert_eq!(found.as_deref(), expected, "{what}");
        }
        let late = Refusal::Late { limit: Duration::from_millis(500) };
        assert_eq!(late.to_string(), "it did not load within 0.5 s in a separate process");
    }

    #[test]
    fn a_rehearsal_gets_the_available_memory_without_the_reserve() {
        let mib = |count: u64| Some(count << 20);
        for (available, limit, expected) in [
            (mib(400), None, mib(368)),
            (mib(400), mib(100), mib(100)),
            (mib(400), mib(1000), mib(368)),
            (mib(10), None, mib(64)),
            (mib(80), mib(10), mib(10)),
            (None, mib(100), mib(100)),
            (None, None, None),
        ] {
            assert_eq!(memory_max(available, limit), expected, "{available:?} {limit:?}");
        }
        for (meminfo, expected) in [
            ("MemTotal:  430000 kB\nMemFree:   100 kB\nMemAvailable:   200000 kB\n", Some(204_800_000)),
            ("MemTotal:  430000 kB\n", None),
            ("MemAvailable: much kB\n", None),
            ("MemAvailable: 18446744073709551615 kB\n", None),
            ("", None),
        ] {
            assert_eq!(available_in(meminfo), expected, "{meminfo}");
        }
        assert!(available().is_some_and(|bytes| bytes > 0), "this system tells its memory");
    }

    #[test]
    fn the_end_of_standard_error_is_kept() {
        for (script, code, expected) in [
            ("exit 0", 0, 0),
            ("printf 12345 >&2; exit 3", 3, 5),
            // More than a pipe holds.
            (
                "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done",
                0,
                SAID_BYTES,
            ),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::piped());
            let mut running = Running::new(command.spawn().expect("a shell"));
            let status = running.end(TIME_MAX, || true).expect("an end");
            assert_eq!((status.code(), running.said.len()), (Some(code), expected), "{script}");
        }
    }
}
