//! What a service manager sees: ready, alive, stopping, ended in time; and the unit that is shipped.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fmt::Write as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::classify::{DEADLINE, Place, drawn, wait};

/// Time that may pass between two signs of life.
fn watchdog() -> Duration {
    e2e::patience(Duration::from_millis(400))
}

/// Stands for systemd.
struct Manager {
    socket: UnixDatagram,
    child: Child,
    said: Vec<String>,
}

impl Manager {
    /// Starts the program as systemd does, `input` being its standard input; nobody reads its output.
    fn start(place: &Place, arguments: &str, input: Stdio) -> Self {
        let path = place.at("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = place.spotter(arguments);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", watchdog().as_micros().to_string());
        let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { socket, child, said: Vec::new() }
    }

    /// What is said next, within `time`.
    fn hear(&mut self, time: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.socket.set_read_timeout(Some(time)).unwrap();
        let count = self.socket.recv(&mut bytes).ok()?;
        let said = String::from_utf8(bytes[..count].to_vec()).unwrap();
        self.said.push(said.clone());
        Some(said)
    }

    fn until(&mut self, part: &str) {
        let start = Instant::now();
        while !self.hear(DEADLINE).is_some_and(|said| said.contains(part)) {
            assert!(start.elapsed() < DEADLINE, "{part:?} was never said, but {:?}", self.said);
        }
    }

    /// Signs of life within `time`, and the longest time without one.
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

    /// SIGTERM; gives the exit code and how long it took.
    fn terminate(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        (wait(&mut self.child, "SIGTERM"), start.elapsed())
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

/// The clean end of a program: exit code 0 within a second of SIGTERM.
fn check_end(what: &str, manager: &mut Manager) {
    let (code, took) = manager.terminate();
    println!("{what}: ended {:.0} ms after SIGTERM", took.as_secs_f64() * 1e3);
    assert_eq!(code, Some(0), "{what}");
    assert!(took < e2e::patience(Duration::from_secs(1)), "{what}: {took:?}");
}

/// As a camera recorded into a file would give them.
fn recording(frames: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..frames {
        image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&drawn(number % 7)).unwrap();
    }
    bytes
}

#[test]
fn the_program_says_when_it_is_ready_alive_and_stopping() {
    let place = Place::new();
    let mut manager = Manager::start(&place, "run --output json --source test://shapes?size=64x64", Stdio::null());
    let stdout = manager.child.stdout.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut { stdout }, &mut std::io::sink()));
    manager.until("READY=1");
    let before = manager.said.concat();
    assert!(before.contains("STATUS=opening the source") && before.contains("STATUS=loading the model"), "{before}");
    assert!(before.contains("STATUS=waiting for the first frame of "), "{before}");
    assert!(!before.contains("WATCHDOG"), "signs of life before it is ready mean nothing: {before}");
    let (count, longest) = manager.alive(e2e::patience(Duration::from_secs(3)));
    println!("{count} signs of life in 3 s, at most {longest:?} apart");
    assert!(count >= 8 && longest < watchdog(), "{:?}", manager.said);
    assert!(count <= 16, "told far more often than asked");
    let status = manager.said.iter().rfind(|said| said.contains("frames labelled")).expect("a status");
    assert!(status.contains("from shapes") || status.contains("from test") || status.contains("drawn"), "{status}");
    check_end("drawn shapes", &mut manager);
    while manager.hear(Duration::from_millis(100)).is_some() {}
    assert!(manager.said.iter().any(|said| said == "STOPPING=1\n"), "{:?}", manager.said);
}

/// For as long as a camera may take to come back; see `pipeline/health.rs` for when it becomes one.
#[test]
fn a_source_that_is_silent_for_a_while_is_no_hang() {
    let place = Place::new();
    let mut manager = Manager::start(&place, "run --output json --source -", Stdio::piped());
    manager.until("READY=1");
    let (count, longest) = manager.alive(e2e::patience(Duration::from_secs(2)));
    assert!(count >= 5 && longest < watchdog(), "{count}, {longest:?}");
    check_end("a silent pipe", &mut manager);
}

/// What hangs at the other end of a pipe can only be started anew by whoever started both.
#[test]
fn a_pipe_that_stays_silent_is_a_hang() {
    let place = Place::new();
    place.write("spotter.toml", "[capture]\ntimeout_ms = 100\n");
    let mut manager = Manager::start(&place, "run --output json --config spotter.toml --source -", Stdio::piped());
    let mut frame = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut frame).encode_image(&drawn(1)).unwrap();
    let mut pipe = manager.child.stdin.take().unwrap();
    manager.until("READY=1");
    std::io::Write::write_all(&mut pipe, &frame).unwrap();
    let start = Instant::now();
    while manager.hear(3 * watchdog()).is_some() {
        assert!(start.elapsed() < DEADLINE, "signs of life for ever");
    }
    let took = start.elapsed();
    println!("no sign of life after {took:.1?}");
    assert!(took > Duration::from_secs(15), "that was too soon: {took:?}");
    // A frame is one again.
    std::io::Write::write_all(&mut pipe, &frame).unwrap();
    manager.until("WATCHDOG=1");
    check_end("a silent pipe", &mut manager);
}

#[test]
fn a_live_source_outlives_a_reader_that_does_not_read() {
    let place = Place::new();
    let mut manager =
        Manager::start(&place, "run --output json --source test://shapes?size=64x64&fps=200", Stdio::null());
    manager.until("READY=1");
    std::thread::sleep(Duration::from_secs(2));
    let (count, longest) = manager.alive(e2e::patience(Duration::from_secs(2)));
    assert!(count >= 5 && longest < watchdog(), "{count}, {longest:?}");
    check_end("a stuck reader", &mut manager);
}

/// Every frame of a recording counts, so a reader that does not read brings the computing thread itself to a halt: the one
/// way to have it hang from outside.
#[test]
fn a_stuck_computing_thread_gives_no_sign_of_life_and_ends_all_the_same() {
    let place = Place::new();
    let file = place.write("recording.mjpeg", recording(1500));
    let input = Stdio::from(std::fs::File::open(file).unwrap());
    let mut manager = Manager::start(&place, "run --output json --source -", input);
    manager.until("READY=1");
    let start = Instant::now();
    while manager.hear(3 * watchdog()).is_some() {
        assert!(start.elapsed() < DEADLINE, "the output never filled up: {:?}", manager.said.last());
    }
    assert!(manager.child.try_wait().unwrap().is_none(), "ended before it was stuck: {:?}", manager.said);
    assert!(!manager.said.iter().any(|said| said.contains("STOPPING")), "{:?}", manager.said);
    check_end("a stuck computing thread", &mut manager);
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let place = Place::new();
    let path = place.at("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = place.spotter("run --output json --frames 20 --source test://shapes?size=64x64");
    command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    assert_eq!(crate::classify::finish(&mut command).code, Some(0));
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(count) = socket.recv(&mut bytes) {
        let said = str::from_utf8(&bytes[..count]).unwrap();
        assert!(!said.contains("WATCHDOG"), "{said}");
    }
}

#[test]
fn loading_ends_at_once() {
    let place = Place::new();
    let mut text = String::from("templates = [");
    for number in 0..10 {
        write!(text, "'the {number}th long row of words around {{}} that takes the tower its time, and more', ")
            .unwrap();
    }
    text.push_str("]\n");
    for number in 0..1000 {
        write!(text, "[[label]]\nname = 'thing {number}'\n").unwrap();
    }
    let labels = place.write("labels.toml", text);
    let arguments = format!("run --output json --source test://shapes --labels {}", labels.display());
    let mut manager = Manager::start(&place, &arguments, Stdio::null());
    manager.until("STATUS=loading");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!manager.said.iter().any(|said| said.contains("READY")), "loaded too quickly to show anything");
    check_end("while labels are embedded", &mut manager);
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    let mut manager = Manager::start(&place, "run --output json --source -", Stdio::piped());
    manager.until("READY=1");
    // Whichever comes first, the end in good order or the second signal: never a hang.
    let id = manager.child.id().to_string();
    assert!(Command::new("sh").arg("-c").arg(format!("kill {id}; kill {id}")).status().unwrap().success());
    let code = wait(&mut manager.child, "two signals");
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
}

#[test]
fn the_unit_is_valid_and_leaves_little_open() {
    const EXPOSURE_MAX: f32 = 2.5;
    let unit = e2e::root().join("config/spotter.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "Restart=on-failure",
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
