//! Notices to real receivers: programs and servers that work, fail, hang, and are not there.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use spotter_engine::picture;

use crate::decisions::questions;
use crate::harness::{DEADLINE, Done, Line, Place, Running, decisions, events, finish};

/// Each shape is shown for two seconds, at a rate that a busy machine keeps up with.
const SOURCE: &str = "test://shapes?seed=1&fps=5&size=64x64&hold=10";

/// A server on this machine.
struct Server {
    port: u16,
    /// Head and body of each request that was read.
    requests: Receiver<(String, Vec<u8>)>,
}

impl Server {
    /// Gives each connection to `serve`, with its number from 0.
    fn start(serve: impl Fn(usize, TcpStream) -> Option<(String, Vec<u8>)> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, requests) = channel();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                // Nobody waits for requests after a test has ended.
                let _ = serve(number, stream.unwrap()).map(|request| send.send(request));
            }
        });
        Self { port, requests }
    }

    fn accepting() -> Self {
        Self::start(|_, stream| Some(answer(stream, "204 No Content")))
    }

    fn next(&self) -> (String, Vec<u8>) {
        self.requests.recv_timeout(DEADLINE).expect("a request")
    }
}

/// Reads a request and answers it.
fn answer(mut stream: TcpStream, status: &str) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").unwrap();
    (head, body)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A configuration with these receivers.
fn config(place: &Place, receivers: &str) -> PathBuf {
    place.write("spotter.toml", receivers)
}

/// `spotter run` on drawn shapes with these receivers.
fn run(place: &Place, receivers: &str, output: &str, source: &str) -> Command {
    let (config, labels) = (config(place, receivers), place.write("labels.toml", questions("")));
    let mut command = place.spotter("run --output");
    command.args([output, "--source", source, "--config"]).arg(config).arg("--labels").arg(labels);
    command
}

fn run_frames(place: &Place, receivers: &str, frames: u32) -> Done {
    let done = finish(&mut run(place, receivers, "events", &format!("{SOURCE}&frames={frames}")));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// The events about states, as the output has printed them.
fn printed(done: &Done) -> Vec<Value> {
    let lines: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.into_iter().filter(|line| line.get("duration_s").is_some()).collect()
}

#[test]
fn a_program_gets_the_events_that_the_output_prints() {
    let place = Place::new();
    let receivers = "[[notify]]\nexec = ['sh', '-c', 'cat >> all']\n[[notify]]\nexec = ['sh', '-c', 'cat >> chosen']\n\
                     labels = ['colour']\nevents = ['state']\n[[notify]]\nexec = ['sh', '-c', 'cat >> none']\nlabels = ['x']";
    let done = run_frames(&place, receivers, 60);
    let told = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(place.at(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut expected = printed(&done);
    assert!(!expected.is_empty(), "{}", done.stdout);
    assert_eq!(told("all"), expected, "{}", done.stderr);
    expected.retain(|event| event["event"] == "state" && event["question"] == "colour");
    assert!(!expected.is_empty(), "{}", done.stdout);
    assert_eq!(told("chosen"), expected);
    assert_eq!(told("none"), [Value::Null; 0]);
    assert!(!done.stderr.contains("lost"), "{}", done.stderr);
}

#[test]
fn a_program_that_fails_is_told_as_lost() {
    let place = Place::new();
    let done = run_frames(&place, "[[notify]]\nexec = ['sh', '-c', 'echo no light >&2; exit 3']", 60);
    let count = decisions(&done).len();
    assert!(count > 0, "{}", done.stdout);
    let total = format!("({count} so far), the last: sh: ended (exit status: 3): no light");
    let said = done.stderr.lines().rfind(|line| line.contains("lost: ")).unwrap_or_default();
    assert!(said.contains(&total), "{total}: {}", done.stderr);
    let events = events(&done);
    let lost = events.iter().find(|event| event.event == "notices_lost").expect("an event");
    assert!(lost.message.contains("to `sh` (") && lost.message.contains("exit status: 3"), "{lost:?}");
}

/// Shapes that change all the time, and labels that follow at once: dozens of events a second.
fn busy(place: &Place, receivers: &str) -> Running {
    let labels = questions("").replace("for_s = 0.2", "for_s = 0").replace("hold_s = 0.2", "hold_s = 0");
    let labels = place.write("labels.toml", labels.replace("smooth_s = 0.1", "smooth_s = 0"));
    let mut command =
        place.spotter("run --output json --source test://shapes?seed=1&fps=30&size=64x64&hold=1 --config");
    Running::start(command.arg(config(place, receivers)).arg("--labels").arg(labels))
}

#[test]
fn frames_go_on_while_receivers_hang_and_losses_are_told() {
    let place = Place::new();
    // It reads requests and never answers.
    let server = Server::start(|_, stream| {
        std::mem::forget(stream);
        None
    });
    let receivers = format!(
        "[[notify]]\nexec = ['sh', '-c', 'echo $$ > id; sleep 10000 & echo $! >> id; wait']\ntimeout_s = 300\n\
         [[notify]]\nwebhook = 'http://127.0.0.1:{}/hidden'\ntimeout_s = 300\n",
        server.port
    );
    let program = busy(&place, &receivers);
    let told = |receiver: &str| {
        let is_it = |message: &str| message.contains(receiver) && message.contains("the receiver is too slow");
        program.events().iter().any(|event| event.event == "notices_lost" && is_it(&event.message))
    };
    let start = Instant::now();
    let (mut frames, mut last): (u32, Option<Line>) = (0, None);
    while !(told("`sh`") && told("http://127.0.0.1")) || frames < 100 {
        assert!(start.elapsed() < DEADLINE, "{:?} {}", program.events(), program.stderr());
        let line = program.next().unwrap_or_else(|| panic!("ended: {}", program.stderr()));
        assert!(last.is_none_or(|last| last.frame < line.frame));
        last = Some(line);
        frames += 1;
    }
    println!("{frames} frames, {} events, while both receivers hang", program.decisions().len());
    program.signal("TERM");
    let (code, _, stderr) = program.end();
    assert_eq!(code, Some(0), "{stderr}");
    let said = stderr.lines().filter(|line| line.contains("this program ended first")).count();
    assert_eq!(said, 2, "{stderr}");
    assert!(!stderr.contains("hidden"), "{stderr}");
    // Nothing of the program is left.
    for id in std::fs::read_to_string(place.at("id")).unwrap().lines() {
        let start = Instant::now();
        while std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(start.elapsed() < DEADLINE, "{id} is still there");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_server_is_asked_again_until_it_accepts() {
    let place = Place::new();
    place.write("token", "s3cr3t-t0ken\n");
    let server = Server::start(|number, stream| match number {
        0 => Some(answer(stream, "503 Busy")),
        // Closed without an answer.
        1 => None,
        _ => Some(answer(stream, "204 No Content")),
    });
    let receivers = format!(
        "[[notify]]\nwebhook = 'http://127.0.0.1:{}/a/hidden?b=hidden'\ntoken_file = 'token'\nevents = ['state']\n",
        server.port
    );
    let mut command = run(&place, &receivers, "events", &format!("{SOURCE}&frames=60"));
    let done = finish(command.env("RUST_LOG", "trace").env("HTTP_PROXY", "http://127.0.0.1:9"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let mut expected = printed(&done);
    expected.retain(|event| event["event"] == "state");
    assert!(!expected.is_empty(), "{}", done.stdout);
    let mut bodies: Vec<Value> = Vec::new();
    for (head, body) in server.requests.try_iter() {
        assert!(head.starts_with("POST /a/hidden?b=hidden HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "Authorization"), Some("Bearer s3cr3t-t0ken"));
        assert_eq!(header(&head, "Content-Type"), Some("application/json"));
        bodies.push(serde_json::from_slice(&body).unwrap());
    }
    // The first event came once when the server was busy, and once more later.
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(bodies[1..], expected, "{}", done.stderr);
    for secret in ["s3cr3t", "czNjcjN0"] {
        assert!(!done.stderr.contains(secret) && !done.stdout.contains(secret), "{}", done.stderr);
    }
}

#[test]
fn a_server_that_refuses_is_told_as_lost() {
    let place = Place::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let denying = Server::start(|_, stream| Some(answer(stream, "403 Forbidden")));
    let receivers = format!(
        "[[notify]]\nwebhook = 'http://127.0.0.1:{gone}/'\nretries = 0\n[[notify]]\nwebhook = 'http://127.0.0.1:{}/'\n",
        denying.port
    );
    let done = run_frames(&place, &receivers, 60);
    let count = decisions(&done).len();
    for why in ["no connection", "the server answered 403: it does not accept this token or password"] {
        let said = |line: &&str| line.contains(&format!("({count} so far), the last: {why}"));
        assert!(done.stderr.lines().any(|line| said(&line)), "{why}: {}", done.stderr);
    }
    assert_eq!(denying.requests.try_iter().count(), count, "what is refused is not tried again");
}

#[test]
fn people_get_a_line_and_the_picture() {
    let place = Place::new();
    let (ntfy, apprise) = (Server::accepting(), Server::accepting());
    let receivers = format!(
        "[[notify]]\nntfy = 'http://127.0.0.1:{}/topic'\npicture = true\ntitle = 'Küche'\npriority = 5\n\
         [[notify]]\napprise = 'http://127.0.0.1:{}/notify/key'\npicture = true\nlabels = ['colour']\n",
        ntfy.port, apprise.port
    );
    let program = Running::start(&mut run(&place, &receivers, "json", SOURCE));
    let (head, body) = ntfy.next();
    assert_eq!(
        (header(&head, "X-Title"), header(&head, "X-Priority")),
        (Some("=?UTF-8?B?S8O8Y2hl?="), Some("5")),
        "{head}"
    );
    let message = header(&head, "X-Message").unwrap();
    assert!(message.ends_with(" %)") && (message.contains("colour: ") || message.contains("round")), "{message}");
    let picture = picture::decode(&body).unwrap();
    assert_eq!((picture.width, picture.height), (64, 64));
    let (head, body) = apprise.next();
    assert!(header(&head, "Content-Type").unwrap().starts_with("multipart/form-data; boundary="), "{head}");
    let start = body.windows(2).position(|bytes| bytes == b"\xff\xd8").expect("a JPEG");
    let text = String::from_utf8_lossy(&body[..start]);
    assert!(text.contains("name=\"body\"\r\n\r\ncolour: ") && text.contains("name=\"attachment\""), "{text}");
    let end = body.windows(2).rposition(|bytes| bytes == b"\xff\xd9").unwrap() + 2;
    assert_eq!(picture::decode(&body[start..end]).unwrap().width, 64);
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

/// A server of another make.
const PYTHON_SERVER: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(body.decode(), flush=True)
        answer = b"thank you"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

#[test]
fn a_server_in_python_understands_the_requests() {
    let Some(python) = e2e::python(&["http.server"]) else { return };
    let mut server =
        Command::new(python).args(["-c", PYTHON_SERVER]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap();
    let place = Place::new();
    let done = run_frames(&place, &format!("[[notify]]\nwebhook = 'http://127.0.0.1:{port}/'\n"), 60);
    server.kill().unwrap();
    server.wait().unwrap();
    let told: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(!told.is_empty());
    assert_eq!(told, printed(&done), "{}", done.stderr);
}

#[test]
fn check_finds_what_would_keep_notices_from_arriving() {
    let place = Place::new();
    place.write("labels.toml", questions(""));
    let receivers = "labels = 'labels.toml'\n[[notify]]\nexec = ['no-such-program']\n[[notify]]\nwebhook = 'http://x/'\n\
                     token_file = 'missing'\nlabels = ['colour: red', 'colour: rot']\n";
    let done = finish(place.spotter("check --config").arg(config(&place, receivers)));
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    for expected in [
        "`[[notify]]` in line 2: no-such-program: not found",
        "`[[notify]]` in line 4: ",
        "missing: cannot be read: No such file",
        "warning: `[[notify]]` in line 4: `labels`: no label or question `colour: rot`",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    assert!(!done.stdout.contains("colour: red"), "{}", done.stdout);
}
