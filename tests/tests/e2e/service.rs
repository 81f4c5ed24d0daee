//! What a service manager sees: ready, alive, stopping, stopped in time; and the unit that is shipped.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Place, drawn, wait};

/// Longest time between two watchdog messages.
fn watchdog() -> Duration {
    e2e::patience(Duration::from_millis(400))
}

/// Time limit for watchdog messages to come regularly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stands for systemd.
struct Manager {
    socket: UnixDatagram,
    child: Child,
    said: Vec<String>,
}

impl Manager {
    /// Starts the program as systemd does, with `input` and `output` as standard input and output.
    fn start(place: &Place, arguments: &str, input: Stdio, output: Stdio) -> Self {
        Self::start_with(place, place.spotter(arguments), input, output)
    }

    /// The same with a prepared command.
    fn start_with(place: &Place, mut command: Command, input: Stdio, output: Stdio) -> Self {
        let path = place.at("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", watchdog().as_micros().to_string());
        let child = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
        Self { socket, child, said: Vec::new() }
    }

    /// The next message, within `time`.
    fn hear(&mut self, time: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(time)).unwrap();
        let count = self.socket.recv(&mut bytes).ok()?;
        let said = String::from_utf8(bytes[..count].to_vec()).unwrap();
        self.said.push(said.clone());
        Some(said)
    }

    /// Reads the messages that have arrived.
    fn catch_up(&mut self) {
        while self.hear(Duration::from_millis(1)).is_some() {}
    }

    fn until(&mut self, part: &str) {
        let start = Instant::now();
        while !self.hear(DEADLINE).is_some_and(|said| said.contains(part)) {
            assert!(start.elapsed() < DEADLINE, "{part:?} was never said, but {:?}", self.said);
        }
    }

    /// The number of watchdog messages within `time`, and the longest time without one.
    fn alive(&mut self, time: Duration) -> (usize, Duration) {
        let (start, mut last, mut longest, mut count) = (Instant::now(), Instant::now(), Duration::ZERO, 0);
        while start.elapsed() < time {
            if self.hear(time.saturating_sub(start.elapsed()).max(Duration::from_millis(1))).is_some_and(is_alive) {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                count += 1;
            }
        }
        (count, longest.max(last.elapsed()))
    }

    /// Waits for two seconds in which every watchdog message comes in time, and few more than needed. A busy machine
    /// may need several tries.
    fn until_alive(&mut self) {
        // There is half the watchdog's time between two, and one just outside of either end may be counted.
        const COUNT_MAX: usize = 12;
        let (start, time) = (Instant::now(), 5 * watchdog());
        loop {
            self.catch_up();
            let (count, longest) = self.alive(time);
            println!("{count} signs of life in {time:?}, at most {longest:?} apart");
            if longest < watchdog() && count <= COUNT_MAX {
                return;
            }
            assert!(start.elapsed() < e2e::patience(PATIENCE), "no signs of life as they are wanted: {:?}", self.said);
        }
    }

    /// Waits until watchdog messages have stopped for longer than a busy machine explains; returns the time of the last
    /// one.
    fn until_silent(&mut self) -> Instant {
        let (start, mut last) = (Instant::now(), Instant::now());
        while self.hear(10 * watchdog()).is_some() {
            assert!(start.elapsed() < DEADLINE, "signs of life for ever: {:?}", self.said.last());
            last = Instant::now();
        }
        last
    }

    /// Sends SIGTERM; returns the exit code and how long it took.
    fn terminate(&mut self) -> (Option<i32>, Duration) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let start = Instant::now();
        (wait(&mut self.child, "SIGTERM"), start.elapsed())
    }

    /// Checks for a clean end: exit code 0, within a second of SIGTERM.
    fn check_end(&mut self, what: &str) -> Result<(), String> {
        let (code, took) = self.terminate();
        assert_eq!(code, Some(0), "{what}");
        e2e::ended_in_time(what, took)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_alive(said: String) -> bool {
    said.contains("WATCHDOG=1")
}

/// Frames as a camera recorded into a file would give them.
fn recording(frames: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..frames {
        image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&drawn(number % 7)).unwrap();
    }
    bytes
}

/// A full pipe whose reader does not read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    // O_NONBLOCK of Linux, the same on all supported systems.
    const NONBLOCK: i32 = 0o4000;
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(NONBLOCK).open(path).unwrap();
    let full = loop {
        if let Err(error) = filler.write(&[b'\n'; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    (reader, writer)
}

#[test]
fn the_program_says_when_it_is_ready_alive_and_stopping() {
    e2e::in_time("drawn shapes", |_| {
        let place = Place::new();
        let source = "run --output json --source test://shapes?size=64x64";
        let mut manager = Manager::start(&place, source, Stdio::null(), Stdio::null());
        manager.until("READY=1");
        let before = manager.said.concat();
        assert!(
            before.contains("STATUS=opening the source") && before.contains("STATUS=loading the model"),
            "{before}"
        );
        assert!(before.contains("STATUS=waiting for the first frame of "), "{before}");
        assert!(!before.contains("WATCHDOG"), "signs of life before it is ready mean nothing: {before}");
        manager.until("frames labelled");
        let status = manager.said.last().unwrap();
        assert!(status.contains("from shapes") || status.contains("from test") || status.contains("drawn"), "{status}");
        manager.until_alive();
        let ended = manager.check_end("drawn shapes");
        manager.catch_up();
        assert!(manager.said.iter().any(|said| said == "STOPPING=1\n"), "{:?}", manager.said);
        ended
    });
}

#[test]
fn file_names_add_no_lines_to_status_messages() {
    let place = Place::new();
    let picture = place.picture("x\nMAINPID=1.png", 7);
    let mut command = place.spotter("run --output json --source");
    command.arg(picture);
    let mut manager = Manager::start_with(&place, command, Stdio::null(), Stdio::null());
    manager.until("READY=1");
    let said = manager.said.concat();
    assert!(said.contains("x\\nMAINPID=1.png"), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("MAINPID")), "{said}");
}

/// As long as a camera may take to come back; `pipeline/health.rs` defines when silence becomes a hang.
#[test]
fn a_short_silence_of_a_source_is_not_a_hang() {
    e2e::in_time("a silent pipe", |_| {
        let place = Place::new();
        let mut manager = Manager::start(&place, "run --output json --source -", Stdio::piped(), Stdio::null());
        manager.until("READY=1");
        manager.until_alive();
        manager.check_end("a silent pipe")
    });
}

/// Only whoever started both ends of a pipe can restart a hanging writer.
#[test]
fn a_pipe_that_stays_silent_is_a_hang() {
    e2e::in_time("a pipe that stays silent", |_| {
        let place = Place::new();
        place.write("spotter.toml", "[capture]\ntimeout_ms = 100\n");
        let arguments = "run --output json --config spotter.toml --source -";
        let mut manager = Manager::start(&place, arguments, Stdio::piped(), Stdio::null());
        let mut frame = Vec::new();
        image::codecs::jpeg::JpegEncoder::new(&mut frame).encode_image(&drawn(1)).unwrap();
        let mut pipe = manager.child.stdin.take().unwrap();
        manager.until("READY=1");
        pipe.write_all(&frame).unwrap();
        let start = Instant::now();
        let took = manager.until_silent() - start;
        println!("no sign of life after {took:.1?}");
        // A frame counts as life again.
        pipe.write_all(&frame).unwrap();
        manager.until("WATCHDOG=1");
        let ended = manager.check_end("a silent pipe");
        if took > Duration::from_secs(15) { ended } else { Err(format!("no sign of life after {took:?}")) }
    });
}

#[test]
fn a_live_source_goes_on_without_its_reader() {
    e2e::in_time("a stuck reader", |_| {
        let place = Place::new();
        let (_reader, output) = full_pipe();
        let arguments = "run --output json --source test://shapes?size=64x64&fps=200";
        let mut manager = Manager::start(&place, arguments, Stdio::null(), output.into());
        manager.until("READY=1");
        manager.until_alive();
        manager.check_end("a stuck reader")
    });
}

/// In the log while nobody reads, and in the output once somebody does.
#[test]
fn lost_reports_are_reported_while_they_are_lost() {
    let place = Place::new();
    let mut command = place.spotter("run --output json --source test://shapes?size=64x64&fps=200");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (output, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut errors = BufReader::new(errors).lines();
    let lost = errors.by_ref().map(Result::unwrap).find(|line| line.contains("lost: "));
    assert!(lost.is_some_and(|line| line.contains("the output is too slow")), "it ended");
    let told = BufReader::new(output).lines().map(Result::unwrap).find(|line| line.contains("reports_lost"));
    assert!(told.is_some_and(|line| line.contains("\"event\":")), "it ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let place = Place::new();
    let (_reader, errors) = full_pipe();
    let mut command = place.spotter("run --output json --frames 20 --source test://shapes?size=64x64");
    let output = File::create(place.at("lines")).unwrap();
    let mut child = command.stdout(output).stderr(errors).spawn().unwrap();
    assert_eq!(wait(&mut child, "a full pipe"), Some(0));
    let lines = std::fs::read_to_string(place.at("lines")).unwrap();
    assert_eq!(lines.matches("\"labels\"").count(), 20, "{lines}");
}

/// Every frame of a recording counts, so a reader that does not read stops the inference thread itself: the only way to
/// make it hang from outside.
#[test]
fn a_stuck_inference_thread_stops_the_watchdog_messages_and_still_ends() {
    e2e::in_time("a stuck computing thread", |_| {
        let place = Place::new();
        let (_reader, output) = full_pipe();
        // More than the program queues for the reader.
        let file = place.write("recording.mjpeg", recording(200));
        let input = Stdio::from(File::open(file).unwrap());
        let mut manager = Manager::start(&place, "run --output json --source -", input, output.into());
        manager.until("READY=1");
        manager.until_silent();
        assert!(manager.child.try_wait().unwrap().is_none(), "ended before it was stuck: {:?}", manager.said);
        assert!(!manager.said.iter().any(|said| said.contains("STOPPING")), "{:?}", manager.said);
        manager.check_end("a stuck computing thread")
    });
}

/// Drawn shapes without end.
const SHAPES: &str = "test://shapes?size=64x64&fps=50";

/// A fault that a thread is made to have, in a program with a thread of each kind.
fn with_fault(place: &Place, fault: &str, source: &str) -> Command {
    place.labels("labels.toml", &["red circle"]);
    place.write("spotter.toml", format!("source = \"{source}\"\n[metrics]\nfile = \"figures.prom\"\n"));
    let mut command = place.spotter("run --output json --config spotter.toml --labels labels.toml");
    command.env("SPOTTER_TEST_FAULT", fault);
    command
}

#[test]
fn a_panic_in_any_thread_ends_the_program() {
    let program = "exec:cat recording.mjpeg";
    for (thread, source) in [
        ("capture", SHAPES),
        ("inference", SHAPES),
        ("output", SHAPES),
        ("metrics", SHAPES),
        ("watcher", SHAPES),
        ("signals", SHAPES),
        ("reader", program),
        ("listener", program),
    ] {
        let place = Place::new();
        place.write("recording.mjpeg", recording(3));
        let errors = File::create(place.at("errors")).unwrap();
        let mut command = with_fault(&place, &format!("panic {thread}"), source);
        let mut child = command.stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let code = wait(&mut child, thread);
        let errors = std::fs::read_to_string(place.at("errors")).unwrap();
        assert_eq!(code, Some(101), "{thread}: {errors}");
        for part in [format!("injected fault in the thread `{thread}`"), format!("the thread `{thread}` panicked")] {
            assert!(errors.contains(&part), "{thread}: {part:?} is not in: {errors}");
        }
    }
}

/// The capture thread is tested above, with a pipe that stays silent.
#[test]
fn a_thread_that_hangs_stops_the_watchdog_messages() {
    std::thread::scope(|scope| {
        for thread in ["inference", "output", "metrics", "watcher"] {
            scope.spawn(move || {
                let place = Place::new();
                let command = with_fault(&place, &format!("hang {thread}"), SHAPES);
                let mut manager = Manager::start_with(&place, command, Stdio::null(), Stdio::null());
                manager.until("READY=1");
                manager.until_silent();
                assert!(manager.child.try_wait().unwrap().is_none(), "{thread}: {:?}", manager.said);
                assert!(!manager.said.iter().any(|said| said.contains("STOPPING")), "{thread}: {:?}", manager.said);
            });
        }
    });
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let place = Place::new();
    let path = place.at("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = place.spotter("run --output json --frames 20 --source test://shapes?size=64x64");
    command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    assert_eq!(crate::harness::finish(&mut command).code, Some(0));
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(count) = socket.recv(&mut bytes) {
        let said = str::from_utf8(&bytes[..count]).unwrap();
        assert!(!said.contains("WATCHDOG"), "{said}");
    }
}

/// CPU time of a process, in hundredths of a second.
fn computed(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // proc_pid_stat(5): utime and stime are the fields 14 and 15, and the first one here is the third.
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn sigterm_while_loading_ends_the_program_at_once() {
    // Far more than opening files takes, and far less than embedding all these sentences.
    const COMPUTED: u64 = 50;
    let mut text = String::from("templates = [");
    for number in 0..10 {
        write!(text, "'the {number}th long row of words around {{}} that takes the tower its time, and more', ")
            .unwrap();
    }
    text.push_str("]\n");
    for number in 0..1000 {
        write!(text, "[[label]]\nname = 'thing {number}'\n").unwrap();
    }
    e2e::in_time("while labels are embedded", |_| {
        let place = Place::new();
        let labels = place.write("labels.toml", &text);
        let arguments = format!("run --output json --source test://shapes --labels {}", labels.display());
        let mut manager = Manager::start(&place, &arguments, Stdio::null(), Stdio::null());
        manager.until("STATUS=loading");
        let start = Instant::now();
        while computed(manager.child.id()) < COMPUTED {
            assert!(start.elapsed() < DEADLINE, "it computes nothing");
            std::thread::sleep(Duration::from_millis(10));
        }
        manager.catch_up();
        assert!(!manager.said.iter().any(|said| said.contains("READY")), "loaded too quickly to show anything");
        manager.check_end("while labels are embedded")
    });
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let place = Place::new();
    let mut manager = Manager::start(&place, "run --output json --source -", Stdio::piped(), Stdio::null());
    manager.until("READY=1");
    // Whichever comes first, the clean end or the second signal: never a hang.
    let id = manager.child.id().to_string();
    assert!(Command::new("sh").arg("-c").arg(format!("kill {id}; kill {id}")).status().unwrap().success());
    let code = wait(&mut manager.child, "two signals");
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
}

#[test]
fn the_unit_is_valid_and_restrictive() {
    const EXPOSURE_MAX: f32 = 2.5;
    let unit = e2e::root().join("config/spotter.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "Restart=on-failure",
        // A bundle that exhausts memory ends the process that tries it, and no other.
        "OOMPolicy=continue",
        "StateDirectory=spotter",
        "RuntimeDirectory=spotter",
        // What camera programs need.
        "DeviceAllow=char-video4linux rw",
        "DeviceAllow=char-media rw",
        "DeviceAllow=char-dma_heap rw",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    assert!(unit.with_file_name("journald@spotter.conf").exists());
    let analysis =
        Command::new("systemd-analyze").args(["security", "--no-pager", "--offline=true"]).arg(&unit).output();
    let text = analysis.as_ref().map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
    let Some(overall) = text.lines().find(|line| line.contains("Overall exposure level")) else {
        // Before systemd 250 there was no --offline.
        assert!(!e2e::is_ci(), "no systemd-analyze with --offline (apt install systemd): {analysis:?}");
        println!("skipped: no systemd-analyze with --offline here: {analysis:?}");
        return;
    };
    println!("{overall}");
    let level = overall.split_whitespace().find_map(|word| word.parse::<f32>().ok());
    assert!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{text}");
    let verified = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    let serious: Vec<_> = complaints
        .lines()
        .filter(|line| line.contains("spotter.service") && !line.contains("is not executable"))
        .collect();
    assert!(serious.is_empty(), "{serious:?}");
}
