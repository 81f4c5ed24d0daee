//! Cameras by way of an external program, which is started, watched, restarted and stopped; and pipes that fall silent.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Event, Place, Running, drawn, finish};

/// A camera program in shell: it notes its arguments, its process id and that of a helper, and delivers twenty frames a
/// second. The file `does` makes it die or hang (`dies`, `hangs`), before or after a frame.
fn camera(place: &Place, name: &str) -> PathBuf {
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&drawn(1)).unwrap();
    place.write("frame.jpg", jpeg);
    fs::create_dir_all(place.at("bin")).unwrap();
    let script = format!(
        "#!/bin/sh\ncd '{}'\nprintf '%s\\n' \"$@\" > arguments\nsleep 1000 2>/dev/null >/dev/null & echo $$ $! >> numbers\n\
         while :; do\n\
         case $(cat does 2>/dev/null) in\n\
         dies) echo 'lens: fell off' >&2; kill $!; exit 3;;\n\
         ends) kill $!; exit 0;;\n\
         hangs) wait;;\n\
         esac\n\
         cat frame.jpg\nsleep 0.05\ndone\n",
        place.at("").display()
    );
    let path = place.write(&format!("bin/{name}"), script);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// `spotter run` with the folder `bin` first in PATH, and with timeouts that no busy machine exceeds.
fn run(place: &Place, source: &str) -> Command {
    run_patiently(place, source, 60_000)
}

/// `run` with a source that counts as lost after `timeout_ms` without a frame.
fn run_patiently(place: &Place, source: &str, timeout_ms: u32) -> Command {
    let capture = format!("[capture]\ntimeout_ms = {timeout_ms}\nwidth = 320\nheight = 240\n");
    place.write("spotter.toml", format!("source = \"{source}\"\n{capture}"));
    let path = format!("{}:{}", place.at("bin").display(), std::env::var("PATH").unwrap());
    let mut command = place.spotter("run --output json --config spotter.toml");
    command.env("PATH", path);
    command
}

/// Waits for the event of that number, from 0, and returns it.
fn event(program: &Running, number: usize) -> Event {
    let start = Instant::now();
    loop {
        if let Some(event) = program.events().into_iter().nth(number) {
            return event;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < DEADLINE, "{:?} {}", program.events(), program.stderr());
    }
}

/// Waits for a frame that was captured after an event, and returns its number.
fn frame_after(program: &Running, event: &Event) -> u64 {
    loop {
        let line = program.next().unwrap_or_else(|| panic!("{}", program.stderr()));
        // Both have the same format, in which chronological order is alphabetical.
        if line.time.unwrap() > event.time {
            return line.frame.unwrap();
        }
    }
}

/// The camera processes that still run. A process whose memory the kernel has released has no environment any more;
/// another process that has reused its id has none that names the folder.
fn running(place: &Place) -> Vec<String> {
    let (numbers, folder) = (fs::read_to_string(place.at("numbers")).unwrap(), place.at("bin").display().to_string());
    let environment = |id: &str| fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    let runs = |id: &&str| String::from_utf8_lossy(&environment(id)).contains(&folder);
    numbers.split_whitespace().filter(runs).map(str::to_owned).collect()
}

/// Waits until this many camera processes run.
fn until_running(place: &Place, count: usize) {
    let start = Instant::now();
    while running(place).len() != count {
        assert!(start.elapsed() < DEADLINE, "{count} processes wanted, there are {:?}", running(place));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_runs(place: &Place) {
    until_running(place, 0);
}

/// Stops a program by SIGTERM, which must be clean; returns how long it took.
fn terminate(program: Running) -> Duration {
    program.signal("TERM");
    let start = Instant::now();
    let (code, _, stderr) = program.end();
    assert_eq!(code, Some(0), "{stderr}");
    start.elapsed()
}

#[test]
fn a_camera_program_that_crashes_or_ends_is_restarted() {
    let place = Place::new();
    let path = camera(&place, "camera");
    let program = Running::start(&mut run(&place, &format!("exec:{} -o '- x'", path.display())));
    let mut last = program.next().unwrap_or_else(|| panic!("{}", program.stderr())).frame.unwrap();
    assert_eq!(fs::read_to_string(place.at("arguments")).unwrap(), "-o\n- x\n");
    let mut told = 0;
    for (does, expected) in [("dies", "ended (exit status: 3): lens: fell off"), ("ends", "ended (exit status: 0)")] {
        place.write("does", does);
        let lost = event(&program, told);
        assert_eq!(lost.event, "source_lost");
        assert!(lost.message.contains(expected), "{does}: {}", lost.message);
        fs::remove_file(place.at("does")).unwrap();
        let back = event(&program, told + 1);
        assert_eq!(back.event, "source_back", "{does}: {}", back.message);
        told += 2;
        // Frame numbers continue.
        let number = frame_after(&program, &back);
        assert!(number > last);
        last = number;
    }
    // Of all starts, only the last one's program and its helper are left.
    until_running(&place, 2);
    terminate(program);
    nothing_runs(&place);
}

#[test]
fn a_camera_program_that_hangs_is_restarted() {
    let place = Place::new();
    let path = camera(&place, "camera");
    let program = Running::start(&mut run_patiently(&place, &format!("exec:{}", path.display()), 500));
    let last = program.next().unwrap_or_else(|| panic!("{}", program.stderr())).frame.unwrap();
    place.write("does", "hangs");
    // A camera that a busy machine delays by half a second is lost in the same way, and comes back by itself.
    let mut told = 0;
    let hung = || fs::read_to_string(place.at("numbers")).unwrap().lines().count();
    let starts = hung();
    let lost = loop {
        let lost = event(&program, told);
        assert_eq!(lost.event, "source_lost");
        assert!(lost.message.contains("no frame within 0.5 s"), "{}", lost.message);
        told += 1;
        match program.events().get(told) {
            None => break lost,
            Some(back) => assert_eq!(back.event, "source_back"),
        }
        told += 1;
    };
    fs::remove_file(place.at("does")).unwrap();
    let back = event(&program, told);
    assert_eq!(back.event, "source_back", "{}", back.message);
    assert!(back.time > lost.time && frame_after(&program, &back) > last, "frames are counted on");
    assert!(hung() > starts, "it was started again");
    terminate(program);
    nothing_runs(&place);
}

#[test]
fn a_program_with_a_camera_program_ends_within_a_second() {
    e2e::in_time("with a camera program", |_| {
        let place = Place::new();
        let path = camera(&place, "camera");
        let program = Running::start(&mut run(&place, &format!("exec:{}", path.display())));
        program.next().unwrap_or_else(|| panic!("{}", program.stderr()));
        let took = terminate(program);
        nothing_runs(&place);
        e2e::ended_in_time("with a camera program", took)
    });
}

/// The message about a program that cannot be started; under qemu-user it looks like one that ended at once.
const CANNOT_START: [&str; 2] = ["not found", "permission denied"];

#[test]
fn a_program_that_never_gave_a_frame_is_an_error() {
    let place = Place::new();
    let path = camera(&place, "camera");
    place.write("does", "dies");
    let done = finish(&mut run(&place, &format!("exec:{}", path.display())));
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("camera: ended (exit status: 3): lens: fell off"), "{}", done.stderr);
    for (source, expected) in [
        ("exec:no-such-camera -o -", "error: no-such-camera: not found; is it installed?"),
        ("exec:frame.jpg", "frame.jpg: not found"),
        ("exec:./frame.jpg", "frame.jpg: permission denied"),
        ("exec:", "expected a program and its arguments after `exec:`"),
        ("exec:echo no picture", "echo: 11 bytes without a JPEG frame"),
    ] {
        if e2e::emulated() && CANNOT_START.iter().any(|part| expected.contains(part)) {
            continue;
        }
        let done = finish(&mut run(&place, source));
        assert_eq!(done.code, Some(1), "{source}");
        assert!(done.stderr.contains(expected), "{source}: {}", done.stderr);
    }
}

#[test]
fn a_signal_while_the_model_loads_leaves_no_program_behind() {
    let place = Place::new();
    let path = camera(&place, "camera");
    place.write("does", "hangs");
    let labels: String =
        (0..1000).map(|n| format!("[[label]]\nname = 'the {n}th of many things to look for'\n")).collect();
    place.write("labels.toml", labels);
    let mut command = run(&place, &format!("exec:{}", path.display()));
    let program = Running::start(command.args(["--labels", "labels.toml"]));
    let start = Instant::now();
    while !place.at("numbers").exists() || fs::read_to_string(place.at("numbers")).unwrap().lines().count() == 0 {
        assert!(start.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
    nothing_runs(&place);
}

#[test]
fn a_silent_camera_program_ends_when_spotter_is_killed() {
    let works = Command::new("setpriv").args(["--pdeathsig", "KILL", "--", "true"]).status();
    if e2e::emulated() || !works.is_ok_and(|status| status.success()) {
        return println!("skipped: setpriv cannot have a program killed");
    }
    let place = Place::new();
    let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", place.at("number").display());
    let path = place.write("silent", script);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = Running::start(&mut run(&place, &format!("exec:{}", path.display())));
    let start = Instant::now();
    let number = loop {
        match fs::read_to_string(place.at("number")) {
            Ok(number) if number.ends_with('\n') => break number.trim().to_owned(),
            _ => assert!(start.elapsed() < DEADLINE, "{}", program.stderr()),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    program.signal("KILL");
    // Whoever inherits it may leave it a zombie for a while.
    let lives = || {
        let state = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ") && !state.contains(") X ")
    };
    while lives() {
        assert!(start.elapsed() < DEADLINE, "{number} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_csi_camera_comes_through_the_boards_own_program() {
    let place = Place::new();
    camera(&place, "gst-launch-1.0");
    let done = finish(run(&place, "csi://1").args(["--frames", "3"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let arguments = fs::read_to_string(place.at("arguments")).unwrap().replace('\n', " ");
    assert!(arguments.starts_with("-q nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),"), "{arguments}");
    // A Raspberry Pi has both programs; the older name is used if the newer one is missing.
    for name in ["libcamera-vid", "rpicam-vid"] {
        let path = camera(&place, name);
        let done = finish(run(&place, "csi://1").args(["--frames", "3"]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(done.stderr.contains(&format!("source: {name}: JPEG frames")), "{}", done.stderr);
        let arguments = fs::read_to_string(place.at("arguments")).unwrap();
        let words: Vec<_> = arguments.lines().collect();
        for pair in
            [["--camera", "1"], ["--width", "320"], ["--height", "240"], ["--codec", "mjpeg"], ["--output", "-"]]
        {
            assert!(words.windows(2).any(|found| found == pair), "{name}: {pair:?} is not in {words:?}");
        }
        assert!(Path::new(&path).exists());
    }
    nothing_runs(&place);
    let done = finish(run(&place, "csi://0").env("PATH", "/nowhere"));
    assert_eq!(done.code, Some(1));
    let expected = "rpicam-vid: not found; a camera on a CSI connector needs it";
    assert!(e2e::emulated() || done.stderr.contains(expected), "{}", done.stderr);
}

#[test]
fn a_pipe_that_falls_silent_is_reported_and_may_go_on() {
    let place = Place::new();
    camera(&place, "camera");
    let frame = fs::read(place.at("frame.jpg")).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let program = Running::start(run_patiently(&place, "-", 100).stdin(Stdio::from(reader)));
    writer.write_all(&frame).unwrap();
    assert!(program.next().is_some(), "{}", program.stderr());
    let lost = event(&program, 0);
    assert_eq!((lost.event.as_str(), lost.message.as_str()), ("source_lost", "standard input: no frame within 0.1 s"));
    // The silence lasts several times as long, as the message at its end will show. It is not reported again.
    std::thread::sleep(Duration::from_secs(1));
    writer.write_all(&frame).unwrap();
    assert!(program.next().is_some());
    let back = event(&program, 1);
    assert_eq!(back.event, "source_back");
    assert!(
        back.message.ends_with("standard input: JPEG frames") && !back.message.contains("tries"),
        "{}",
        back.message
    );
    drop(writer);
    assert_eq!(program.end().0, Some(0), "the end of a pipe is the end");
}

/// A camera program whose second start writes something else, as the web server of a restarting camera does.
#[test]
fn a_camera_program_that_writes_garbage_is_restarted() {
    let place = Place::new();
    camera(&place, "camera");
    for (name, writes, shown) in [
        (
            "page",
            r"printf '<!DOCTYPE html>\n\033[2J<b>503</b>'",
            r"which start with `<!DOCTYPE html> \u{1b}[2J<b>503</b>`",
        ),
        ("usage", "echo 'usage: camera [-o FILE]'", "which start with `usage: camera [-o FILE]`"),
        ("gzip", r"printf '\037\213\010\000\000'", "(a gzip file)"),
        ("H.264", r"printf '\000\000\000\001\147\102'", "(an H.264 video)"),
        ("binary", "head -c 65536 /dev/zero", "65536 bytes without a JPEG frame"),
        ("nothing", ":", "ended (exit status: 7)"),
        ("half a picture", "head -c 50 frame.jpg", "50 bytes without a JPEG frame"),
    ] {
        let _ = fs::remove_file(place.at("starts"));
        let script = format!(
            "#!/bin/sh\ncd '{}'\necho >> starts\n[ $(wc -l < starts) = 2 ] && {{ {writes}; exit 7; }}\ncat frame.jpg\n",
            place.at("").display()
        );
        let path = place.write("bin/once", script);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = run(&place, "exec:once").args(["--frames", "2"]).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(stdout.matches("\"labels\"").count(), 2, "{name}: {stdout}");
        let events: Vec<Event> = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let told = events.iter().any(|event| event.event == "source_lost" && event.message.contains(shown));
        assert!(told, "{name}: {events:?}");
    }
}
