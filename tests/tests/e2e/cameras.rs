//! Cameras by their addresses: RTSP from GStreamer's server, HTTP from a server of our own, and videos of ffmpeg.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
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

/// A moving picture, of so many seconds.
fn record(path: &Path, seconds: u32, coder: &str) {
    let coding = "-preset ultrafast -g 10 -pix_fmt yuv420p";
    let path = path.display();
    ffmpeg(&format!("-f lavfi -i testsrc=size=320x240:rate=10 -t {seconds} -c:v {coder} {coding} {path}"));
}

/// Where nothing listens: the servers of all tests have the address 127.0.0.1, of which a port that was free a moment ago may be in
/// use again.
const NOBODY: &str = "127.0.0.2:8554";

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
    record(&place.at("h264.mkv"), 20, "libx264");
    record(&place.at("h265.mkv"), 20, "libx265 -x265-params log-level=none");
    place.write("password", format!("{PASSWORD}\n"));
    place.write("wrong-password", format!("{PASSWORD}1\n"));
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
        let wrong = login.replace("\"password\"", "\"wrong-password\"");
        fails(&place, &format!("rtsp://{camera}/h264"), &wrong, &[&known, "401", "check user and password"]);
        fails(
            &place,
            &format!("rtsp://{camera}/none?token={PASSWORD}"),
            login,
            &["/none?token=…: ", "404", "check the path"],
        );
    }
    fails(&place, &format!("rtsp://me:{PASSWORD}@{NOBODY}/h264"), "", &["refused", "check the host and the port"]);
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
    record(&place.at("h264.mkv"), 60, "libx264");
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

/// A server of `http_camera.py`, with TLS if a file with its certificate and key is named.
fn http_camera(place: &Place, certificate: Option<&str>) -> Option<Server> {
    if !has(PYTHON, &["-c", ""], "python3") {
        return None;
    }
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&drawn(1)).unwrap();
    let jpeg = place.write("frame.jpg", jpeg);
    let paths = [Some(jpeg), certificate.map(|name| place.at(name))].into_iter().flatten();
    let arguments: Vec<_> = paths.map(|path| path.display().to_string()).collect();
    Some(Server::start("http_camera.py", &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[test]
fn http_cameras_are_labelled() {
    let place = Place::new();
    let Some(server) = http_camera(&place, None) else { return };
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
    let Some(server) = http_camera(&place, None) else { return };
    let camera = format!("127.0.0.1:{}", server.port);
    for (path, parts) in [
        ("page", &["found a web page", "the address of the stream"][..]),
        ("none", &["404", "check the path"]),
        ("busy", &["503"]),
        ("forbidden", &["403", "check user and password"]),
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
    fails(&place, &format!("http://{NOBODY}/stream"), "", &["no connection", "check the host and the port"]);
}

/// Makes a certificate with its key, in one file.
fn certify(place: &Place, file: &str, days: &str, extensions: &[&str]) {
    let path = place.at(file).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", &path, "-out", "-"];
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-subj", "/CN=camera", "-days", days]).args(key);
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.write(file, [fs::read(&path).unwrap(), output.stdout].concat());
}

#[test]
fn encrypted_cameras_are_labelled_if_their_certificate_is_trusted() {
    if !has("openssl", &["version"], "openssl") {
        return;
    }
    let place = Place::new();
    let (address, no_authority) = ("subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE");
    certify(&place, "good.pem", "2", &[address, no_authority]);
    certify(&place, "other.pem", "2", &[address, no_authority]);
    certify(&place, "named.pem", "2", &["subjectAltName=DNS:camera", no_authority]);
    certify(&place, "authority.pem", "2", &[address]);
    let trusted = |file: &str| format!("ca_file = \"{file}\"\n");
    let Some(server) = http_camera(&place, Some("good.pem")) else { return };
    let camera = format!("127.0.0.1:{}", server.port);
    gives_frames(&place, &format!("https://{camera}/stream"), &trusted("good.pem"));
    gives_frames(&place, &format!("https://me:{PASSWORD}@{camera}/digest-md5"), &trusted("good.pem"));
    let unknown = ["no secure connection", "`ca_file` in the section [capture]"];
    fails(&place, &format!("https://me:{PASSWORD}@{camera}/basic"), &trusted("other.pem"), &unknown);
    place.write("text.pem", "not a certificate");
    for (file, part) in [("none.pem", "certificates none.pem: "), ("text.pem", "at least one `BEGIN CERTIFICATE`")] {
        fails(&place, &format!("https://{camera}/stream"), &trusted(file), &[part]);
    }
    // A camera that knows no TLS.
    let Some(plain) = http_camera(&place, None) else { return };
    fails(&place, &format!("https://127.0.0.1:{}/stream", plain.port), &trusted("good.pem"), &["no secure connection"]);
    for (file, part) in
        [("named.pem", "the address must name the host as the certificate does"), ("authority.pem", "CA:FALSE")]
    {
        let Some(server) = http_camera(&place, Some(file)) else { return };
        fails(&place, &format!("https://127.0.0.1:{}/stream", server.port), &trusted(file), &[part]);
    }
}

#[test]
fn ustreamer_is_labelled() {
    if !has("ustreamer", &["--version"], "ustreamer") {
        return;
    }
    let place = Place::new();
    // An address that no other test uses, so that its port stays free.
    let host = "127.0.0.3";
    let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port().to_string();
    // Without a camera it sends a picture that says so.
    let device = place.at("no-camera").display().to_string();
    let mut command = Command::new("ustreamer");
    command.args(["--device", &device, "--host", host, "--port", &port, "--user", "me", "--passwd", PASSWORD]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _server = Server { child, port: port.clone(), requests: Arc::default() };
    wait_until(|| TcpStream::connect(format!("{host}:{port}")).map_err(|error| error.to_string()));
    for path in ["stream", "snapshot"] {
        gives_frames(&place, &format!("http://me:{PASSWORD}@{host}:{port}/{path}"), "");
        fails(&place, &format!("http://{host}:{port}/{path}"), "", &["401", "check user and password"]);
    }
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

    // With its index at the beginning, and whole pictures throughout, part of a video is labelled, and what is missing is told.
    ffmpeg(&format!("{moving} -g 5 -movflags +faststart {}", place.at("index-first.mp4").display()));
    let indexed = fs::read(place.at("index-first.mp4")).unwrap();
    place.write("half.mp4", &indexed[..indexed.len() * 6 / 10]);
    let program = Running::start(&mut run(&place, "frames:half.mp4", ""));
    let frames = std::iter::from_fn(|| program.next()).count();
    assert!((5..30).contains(&frames), "{frames}");
    let skipped: Vec<_> = program.events().into_iter().filter(|event| event.event == "frames_skipped").collect();
    assert_eq!(skipped.len(), 1, "{}", program.stderr());
    assert!(skipped[0].message.starts_with("half.mp4: some of it may be missing: "), "{}", skipped[0].message);
    assert_eq!(program.end().0, Some(0));

    let whole = fs::read(place.at("video.mp4")).unwrap();
    place.write("cut.mp4", &whole[..whole.len() / 2]);
    place.write("text.mp4", "not a video");
    for name in ["cut.mp4", "text.mp4"] {
        fails(&place, &format!("frames:{name}"), "", &[name, "there is no video that ffmpeg reads"]);
    }
    fails(&place, "none.mkv", "", &["none.mkv: not found"]);
}
