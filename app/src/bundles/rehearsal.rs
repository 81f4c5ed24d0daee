//! Loading a slot's bundle in a process of its own first, with limits on its memory and its time: a bundle that takes all
//! memory, never ends or crashes whoever loads it does so there, and is refused with the reason.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _, parent_id};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use spotter_engine::printable::printable;
use spotter_engine::tower::TextTower;
use spotter_engine::vocabulary::Vocabulary;

use super::slots::Slots;
use crate::compute;
use crate::config::SigningKey;
use crate::recognizer::Recognizer;
use crate::supervise::{caught, fault_point};

/// The hidden command of this program that [`perform`]s.
pub(crate) const COMMAND: &str = "rehearse";

/// A ViT-B/32 with a BERT-base takes some ten seconds from a slow card on the slowest board, and the program's own work
/// comes before it.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Of the memory that is available, the part that a rehearsal leaves to the program that runs, which takes some for frames
/// and reports meanwhile, and to the system.
const RESERVE_BYTES: u64 = 32 << 20;

/// A rehearsal gets this much however little is available, which is enough for the demo model: beyond what there is the
/// system ends it, and it alone.
const FLOOR_BYTES: u64 = 64 << 20;

/// How often a rehearsal is looked at.
const STEP: Duration = Duration::from_millis(20);

/// The end of what a rehearsal says is kept; the reason is in its last line.
const SAID_BYTES: usize = 2048;

/// Nice value: whatever runs beside a rehearsal comes first.
const NICE: i32 = 10;

/// The sentence that the text tower embeds.
const SENTENCE: &str = "a photo of something.";

/// What Rust says before it ends a program that gets no memory.
const NO_MEMORY: &str = "memory allocation of ";

/// Why a bundle is refused that was not loaded here yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no other process.
    #[error("it cannot be tried in a process of its own, as every new bundle is first")]
    Start(#[source] io::Error),
    /// Nobody wants to know any more, which says nothing of the bundle.
    #[error("given up while it was tried")]
    Stopped,
    /// It takes too long, or for ever.
    #[error("it did not load within {} s, tried in a process of its own", .limit.as_secs_f32())]
    Late {
        /// How long it may take.
        limit: Duration,
    },
    /// It takes more memory than it was given.
    #[error(
        "it needs more memory than the {mebibytes} MiB that it may take now; end other programs, or take a smaller bundle"
    )]
    Memory {
        /// What it was given.
        mebibytes: u64,
    },
    /// A signal ended it.
    #[error("loading it in a process of its own ended with signal {signal}{hint}{said}")]
    Died {
        /// Number of the signal.
        signal: i32,
        /// What may have sent it.
        hint: &'static str,
        /// Its last words, after a colon, or nothing.
        said: String,
    },
    /// It could not be loaded, and said why.
    #[error("{said}")]
    Failed {
        /// The reason.
        said: String,
    },
    /// It could not be loaded, and did not say why.
    #[error("loading it in a process of its own failed without a word ({status})")]
    Mute {
        /// How it ended.
        status: ExitStatus,
    },
}

/// Has another process of this program open the slot `name`, as this one would, and load and try all of its bundle.
/// `goes_on` is asked every few milliseconds.
///
/// # Errors
/// What that process could not do, or died of; [`Refusal::Stopped`] once `goes_on` says no.
pub(crate) fn rehearse(slots: &Slots, name: &str, threads: usize, goes_on: impl Fn() -> bool) -> Result<(), Refusal> {
    let memory_max = memory_max(available(), getrlimit(Resource::Data).current);
    let mut command = own_program().map_err(Refusal::Start)?;
    command.arg(COMMAND);
    command.arg(option("--slot", name)).arg(option("--state-dir", slots.state_dir()));
    command.args(slots.key.as_ref().map(|key| option("--public-key", &key.text)));
    command.arg(option("--threads", threads.to_string())).arg(option("--parent", std::process::id().to_string()));
    command.args(memory_max.map(|bytes| option("--memory-max", bytes.to_string())));
    // In a group of its own, so that what a terminal sends ends this program, which then ends that one.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    // It is not the one that the service manager waits for, and its log is its last words.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    command.env_remove("RUST_BACKTRACE").env("RUST_LOG", "error").env("NO_COLOR", "1");
    let mut running = Running::new(command.spawn().map_err(Refusal::Start)?);
    let status = running.end(time_max(), goes_on)?;
    match refusal(status, &running.said, memory_max) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// This program, whatever has been put in the place of its file meanwhile.
fn own_program() -> io::Result<Command> {
    #[cfg(debug_assertions)]
    {
        // Where tests are emulated the system cannot start the program by itself.
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

/// In one word, so that no value is taken for another option.
fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// How long it may take; tests of builds that check their assertions may name less, in milliseconds.
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

/// Bytes that the system can give to programs without taking them from others; `None` where it does not say.
fn available() -> Option<u64> {
    available_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let found = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    found.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What a rehearsal may take of `available` bytes by a process that may take `limit` itself.
fn memory_max(available: Option<u64>, limit: Option<u64>) -> Option<u64> {
    let share = available.map(|bytes| bytes.saturating_sub(RESERVE_BYTES).max(FLOOR_BYTES));
    match (share, limit) {
        (Some(share), Some(limit)) => Some(share.min(limit)),
        (share, limit) => share.or(limit),
    }
}

/// What the end of a rehearsal means that `said` something; `None` where all went well.
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

/// A rehearsal under way, which ends when this is dropped.
struct Running {
    child: Child,
    /// Its standard error, until that ends.
    err: Option<ChildStderr>,
    /// The end of what it said.
    said: Vec<u8>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let err = child.stderr.take();
        Self { child, err, said: Vec::new() }
    }

    /// Waits for the end, and hears what is said up to it.
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
        // What it said right before its end.
        while self.hear() {}
        Ok(status)
    }

    /// Waits for a step at most, and takes what is said; `false` where that was nothing.
    fn hear(&mut self) -> bool {
        let Some(err) = &mut self.err else {
            thread::sleep(STEP);
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
        // Neither does anything to one that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a rehearsal is told, by [`rehearse`] alone.
#[derive(Debug, Args)]
pub(crate) struct Task {
    /// The slot
    #[arg(long)]
    slot: String,
    /// The state folder with the slot
    #[arg(long)]
    state_dir: PathBuf,
    /// The key that must have signed it
    #[arg(long)]
    public_key: Option<String>,
    /// Threads that compute the towers; 0 for as many as fit
    #[arg(long)]
    threads: usize,
    /// The process that waits for the end
    #[arg(long)]
    parent: u32,
    /// Bytes of memory that may be taken
    #[arg(long)]
    memory_max: Option<u64>,
}

/// Limits this process, then loads and tries the bundle in it.
pub(crate) fn perform(task: &Task) -> Result<()> {
    restrain(task)?;
    caught(|| load(task))
}

/// Before anything of the bundle is read.
fn restrain(task: &Task) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("this process cannot be made to end with its parent")?;
    // That may have happened before.
    if parent_id() != task.parent {
        bail!("expected to be started by process {}, found {}", task.parent, parent_id());
    }
    // Where memory runs out all the same, this process goes first.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // A service may be kept from it; then both compute side by side.
    let _ = nice(NICE);
    // A crash is expected here, and not worth the flash that its memory would fill.
    limit(Resource::Core, 0)?;
    // Not the address space: each thread reserves some of that for its heap that it never takes.
    task.memory_max.map_or(Ok(()), |bytes| limit(Resource::Data, bytes))
}

fn limit(resource: Resource, bytes: u64) -> Result<()> {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(resource, limit).context("the memory of this process cannot be limited")
}

/// What a program does that takes the bundle over: both towers are in memory at the same time.
fn load(task: &Task) -> Result<()> {
    fault_point("rehearsal");
    let key = task.public_key.as_deref().map(SigningKey::parse).transpose().context("not a minisign public key")?;
    let bundle = Slots::new(&task.state_dir, key).open(&task.slot)?;
    let threads = compute::threads(task.threads)?;
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    recognizer.probe()?;
    TextTower::open(&bundle, &threads)?.embed(SENTENCE)?;
    // Without it there are no warnings, which keeps nothing from running; that it ends, and ends well, is what counts.
    let _ = Vocabulary::open(&bundle);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wait(2) gives it.
    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn every_end_is_explained() {
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
                Some("loading it in a process of its own failed without a word (exit status: 101)"),
            ),
            (
                "no memory",
                killed(6),
                no_memory,
                Some(100 << 20),
                Some(
                    "it needs more memory than the 100 MiB that it may take now; end other programs, or take a smaller \
                     bundle",
                ),
            ),
            (
                "no memory, which nobody limited",
                killed(6),
                no_memory,
                None,
                Some("loading it in a process of its own ended with signal 6: memory allocation of 4096 bytes failed"),
            ),
            (
                "the kernel's choice",
                killed(9),
                "",
                Some(100 << 20),
                Some("loading it in a process of its own ended with signal 9 (killed; was there too little memory?)"),
            ),
            (
                "a crash",
                killed(11 | 0x80),
                "x",
                Some(100 << 20),
                Some("loading it in a process of its own ended with signal 11: x"),
            ),
        ] {
            let found = refusal(status, said.as_bytes(), memory_max).map(|refusal| refusal.to_string());
            assert_eq!(found.as_deref(), expected, "{what}");
        }
        let late = Refusal::Late { limit: Duration::from_millis(500) };
        assert_eq!(late.to_string(), "it did not load within 0.5 s, tried in a process of its own");
    }

    #[test]
    fn a_rehearsal_gets_what_is_free_but_for_the_reserve() {
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
        assert!(available().is_some_and(|bytes| bytes > 0), "this system says what it has");
    }

    #[test]
    fn the_last_words_are_heard_and_bounded() {
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
