//! Cameras by their addresses: RTSP from GStreamer's server, HTTP from a server of our own, and videos of ffmpeg.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Done, Place, Running, drawn, finish, lines};

/// Debian's Python, which sees Debian's GStreamer.
const PYTHON: &str = "/usr/bin/python3";

/// Never in any output.
const PASSWORD: &str = "hunter2";

/// A server, which is killed in the end.
struct Server {
    child: Child,
    port: String,
    /// What it printed after its port.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let script = e2e::root().join("tests/servers").join(script);
        let mut command = Command::new(PYTHON);
        let mut child =
            command.arg(script).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = said.next().expect("a server that prints its port").unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&requests);
        std::thread::spawn(move || said.map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line)));
        Self { child, port, requests }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for so many requests for a path, and returns all of them.
    fn requests(&self, path: &str, count: usize) -> Vec<String> {
        wait_until(|| {
            let all = self.requests.lock().unwrap().clone();
            let found: Vec<String> = all.iter().filter(|line| line.split(' ').next() == Some(path)).cloned().collect();
            if found.len() >= count { Ok(found) } else { Err(format!("{count} requests for {path}: {all:?}")) }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a program with these arguments succeeds; if not, what is missing is an error in CI.
fn has(program: &str, arguments: &[&str], package: &str) -> bool {
    let found = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    assert!(found || !e2e::is_ci(), "{package} is missing (make test-tools)");
    if !found {
        println!("skipped: no {package} here");
    }
    found
}

fn ffmpeg(arguments: &str) {
    let output = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ffmpeg {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A minute of a moving picture.
fn record(path: &Path, coder: &str) {
    let coding = "-preset ultrafast -g 10 -pix_fmt yuv420p";
    let path = path.display();
    ffmpeg(&format!("-f lavfi -i testsrc=size=320x240:rate=10 -t 60 -c:v {coder} {coding} {path}"));
}

/// `spotter run` with this source, as small pictures; a source counts as lost after five seconds, longer than a busy
/// neighbour takes.
fn run(place: &Place, source: &str, capture: &str) -> Command {
    let sizes = "width = 160\nheight = 120\ntimeout_ms = 5000\n";
    place.write("spotter.toml", format!("source = \"{source}\"\n[capture]\n{sizes}{capture}"));
    let mut command = place.spotter("run --output json --config spotter.toml --labels");
    command.arg(e2e::root().join("config/demo/labels.toml")).env("RUST_LOG", "debug");
    command
}

/// Whether it succeeded is told by the caller; the password is in no output.
fn silent_about_passwords(done: &Done, what: &str) {
    assert!(!format!("{}{}", done.stdout, done.stderr).contains(PASSWORD), "{what}: {}", done.stderr);
}

fn gives_frames(place: &Place, source: &str, capture: &str) {
    let done = finish(run(place, source, capture).args(["--frames", "3"]));
    assert_eq!(done.code, Some(0), "{source}: {}", done.stderr);
    assert_eq!(lines(&done).len(), 3, "{source}");
    silent_about_passwords(&done, source);
}

/// A source that never gave a frame ends the program with one error, which says all of `parts`.
fn fails(place: &Place, source: &str, capture: &str, parts: &[&str]) {
    let done = finish(&mut run(place, source, capture));
    assert_eq!(done.code, Some(1), "{source}: {}", done.stderr);
    let errors: Vec<_> = done.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{source}: {}", done.stderr);
    for part in parts {
        assert!(errors[0].contains(part), "{source}: {part:?} is not in {}", errors[0]);
    }
    silent_about_passwords(&done, source);
}

/// Calls `poll` until it succeeds; its error says what is missing.
fn wait_until<T>(mut poll: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match poll() {
            Ok(found) => return found,
            Err(missing) => assert!(start.elapsed() < DEADLINE, "{missing}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for an event of this kind after the first `known` events, and returns how many there are with it.
fn until(program: &Running, known: usize, kind: &str) -> usize {
    wait_until(|| {
        let events = program.events();
        let at = events.iter().skip(known).position(|event| event.event == kind);
        let at = at.ok_or_else(|| format!("no {kind}: {events:?} {}", program.stderr()))?;
        assert!(!events[known + at].message.contains(PASSWORD), "{events:?}");
        Ok(known + at + 1)
    })
}

/// Waits for a frame that was labelled after the last event.
fn next_frame(program: &Running, known: usize) {
    let time = program.events()[known - 1].time.clone();
    while program.next().unwrap_or_else(|| panic!("{}", program.stderr())).time.unwrap() < time {}
}

/// The processes that have this text in their command line, other than Spotter.
fn processes(text: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let has = |path: &PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.starts_with(b"ffmpeg") && String::from_utf8_lossy(&line).contains(text)
    };
    entries.filter(has).collect()
}

fn has_rtsp_server() -> bool {
    let import = "import sys, gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; \
                  Gst.init(None); sys.exit(not all(map(Gst.ElementFactory.find, \
                  ('matroskademux', 'h264parse', 'h265parse', 'rtph264pay', 'rtph265pay'))))";
    has("ffmpeg", &["-version"], "ffmpeg") && has(PYTHON, &["-c", import], "GStreamer's RTSP server")
}

#[test]
fn rtsp_cameras_are_labelled_and_refusals_explained() {
    if !has_rtsp_server() {
        return;
    }
    let place = Place::new();
    record(&place.at("h264.mkv"), "libx264");
    record(&place.at("h265.mkv"), "libx265 -x265-params log-level=none");
    place.write("password", format!("{PASSWORD}\n"));
    let folder = place.at("").display().to_string();
    let login = "user = \"me\"\npassword_file = \"password\"\n";
    for method in ["basic", "digest"] {
        let server = Server::start("rtsp_camera.py", &[&folder, "0", method, "me", PASSWORD]);
        let camera = format!("127.0.0.1:{}", server.port);
        gives_frames(&place, &format!("rtsp://me:{PASSWORD}@{camera}/h264"), "");
        gives_frames(&place, &format!("rtsp://{camera}/h265"), login);
        let known = format!("rtsp://{camera}/h264: ");
        fails(&place, &format!("rtsp://me:{PASSWORD}1@{camera}/h264"), "", &[&known, "401", "check user and password"]);
        fails(&place, &format!("rtsp://{camera}/h264"), "", &[&known, "401", "`password_file`"]);
        fails(
            &place,
            &format!("rtsp://{camera}/none?token={PASSWORD}"),
            login,
            &["/none?token=…: ", "404", "check the path"],
        );
        drop(server);
        fails(&place, &format!("rtsp://me:{PASSWORD}@{camera}/h264"), "", &["refused", "check the host and the port"]);
    }
    let mut command = run(&place, "rtsp://camera.invalid/1", "");
    let done = finish(command.env("PATH", place.at("nothing")));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(
        done.stderr.contains("ffmpeg: not found") && done.stderr.contains("`apt install ffmpeg`"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_lost_rtsp_camera_comes_back() {
    if !has_rtsp_server() {
        return;
    }
    let place = Place::new();
    record(&place.at("h264.mkv"), "libx264");
    let folder = place.at("").display().to_string();
    let server = Server::start("rtsp_camera.py", &[&folder, "0", "digest", "me", PASSWORD]);
    let port = server.port.clone();
    let program = Running::start(&mut run(&place, &format!("rtsp://me:{PASSWORD}@127.0.0.1:{port}/h264"), ""));
    program.next().unwrap_or_else(|| panic!("{}", program.stderr()));
    // Cut, and there again.
    drop(server);
    let known = until(&program, 0, "source_lost");
    let server = Server::start("rtsp_camera.py", &[&folder, &port, "digest", "me", PASSWORD]);
    let known = until(&program, known, "source_back");
    next_frame(&program, known);
    // Stalled, and there again.
    server.signal("STOP");
    let known = until(&program, known, "source_lost");
    server.signal("CONT");
    let known = until(&program, known, "source_back");
    next_frame(&program, known);
    // Nothing is left behind.
    let address = format!("127.0.0.1:{port}/h264");
    assert!(!processes(&address).is_empty(), "the test sees no ffmpeg while it runs");
    program.signal("TERM");
    let (code, _, stderr) = program.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains(PASSWORD), "{stderr}");
    wait_until(|| match processes(&address) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left behind: {left:?}")),
    });
}

/// A server of `http_camera.py`.
fn http_camera(place: &Place) -> Option<Server> {
    if !has(PYTHON, &["-c", ""], "python3") {
        return None;
    }
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&drawn(1)).unwrap();
    let jpeg = place.write("frame.jpg", jpeg);
    Some(Server::start("http_camera.py", &[&jpeg.display().to_string()]))
}

#[test]
fn http_cameras_are_labelled() {
    let place = Place::new();
    let Some(server) = http_camera(&place) else { return };
    let camera = format!("127.0.0.1:{}", server.port);
    for path in ["stream", "bare", "chunked", "boundaryless", "nameless", "slow", "snapshot.jpg"] {
        gives_frames(&place, &format!("http://{camera}/{path}"), "");
    }
    place.write("password", PASSWORD);
    for path in ["basic", "digest-md5", "digest-sha256", "near"] {
        gives_frames(&place, &format!("http://me:{PASSWORD}@{camera}/{path}"), "");
        gives_frames(&place, &format!("http://{camera}/{path}"), "user = \"me\"\npassword_file = \"password\"\n");
    }
    // A picture for each frame.
    server.requests("/snapshot.jpg", 3);

    let program = Running::start(&mut run(&place, &format!("http://{camera}/cut"), ""));
    let known = until(&program, 0, "source_lost");
    let known = until(&program, known, "source_back");
    next_frame(&program, known);
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
    server.requests("/cut", 2);
}

#[test]
fn http_cameras_that_refuse_or_send_nonsense_are_explained() {
    let place = Place::new();
    let Some(server) = http_camera(&place) else { return };
    let camera = format!("127.0.0.1:{}", server.port);
    for (path, parts) in [
        ("page", &["found a web page", "the address of the stream"][..]),
        ("none", &["404", "check the path"]),
        ("busy", &["503"]),
        ("basic", &["401", "check user and password", "`password_file`"]),
        ("half.jpg", &["the picture cannot be read"]),
        ("endless.jpg", &["the picture has more than"]),
        ("endless-header", &["the header of the answer is larger than 16384 bytes"]),
    ] {
        fails(
            &place,
            &format!("http://{camera}/{path}"),
            "",
            &[&[&*format!("http://{camera}/{path}: ")], parts].concat(),
        );
    }
    for path in ["basic", "digest-md5", "digest-sha256"] {
        fails(&place, &format!("http://me:{PASSWORD}1@{camera}/{path}"), "", &["401", "check user and password"]);
    }
    // The password is the camera's, and nobody else's.
    fails(&place, &format!("http://me:{PASSWORD}@{camera}/moved"), "", &["401"]);
    assert_eq!(server.requests("/basic?moved", 1), ["/basic?moved "], "followed without a login");
    drop(server);
    fails(&place, &format!("http://{camera}/stream"), "", &["no connection", "check the host and the port"]);
}

#[test]
fn videos_are_labelled() {
    if !has("ffmpeg", &["-version"], "ffmpeg") {
        return;
    }
    let place = Place::new();
    let moving = "-f lavfi -i testsrc=size=320x240:rate=25 -frames:v 30 -c:v libx264 -pix_fmt yuv420p";
    ffmpeg(&format!("{moving} {}", place.at("video.mp4").display()));
    let done = finish(&mut run(&place, "frames:video.mp4", ""));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let frames: Vec<u64> = lines(&done).iter().map(|line| line.frame.unwrap()).collect();
    assert_eq!(frames, Vec::from_iter(0..30), "every frame, once");
    // As from a camera: what comes while a frame is labelled is dropped, and the last frame is labelled.
    let done = finish(&mut run(&place, "video.mp4", ""));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let last = lines(&done).pop().unwrap();
    assert!(last.frame.unwrap() >= 25, "{last:?}");

    let whole = fs::read(place.at("video.mp4")).unwrap();
    place.write("cut.mp4", &whole[..whole.len() / 2]);
    place.write("text.mp4", "not a video");
    for name in ["cut.mp4", "text.mp4"] {
        fails(&place, &format!("frames:{name}"), "", &[name, "there is no video that ffmpeg reads"]);
    }
    fails(&place, "none.mkv", "", &["none.mkv: not found"]);
}
