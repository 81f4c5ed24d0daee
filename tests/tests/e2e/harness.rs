//! How these tests call the programs: a folder for each test, finished and running programs, and the lines they print.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use spotter::source::{ShapesOptions, draw_shapes};
use spotter_engine::bundle::Bundle;
use tempfile::TempDir;

/// Longer than any call takes; a call that takes longer hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// A folder for the files and the state of one test.
pub(crate) struct Place(TempDir);

/// Output of a finished program.
#[derive(Debug)]
pub(crate) struct Done {
    /// `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A line of `classify --json` or of `run --output json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) path: Option<PathBuf>,
    pub(crate) labels: Vec<Named>,
    pub(crate) states: Option<Vec<State>>,
    pub(crate) view: Option<String>,
    pub(crate) time: Option<String>,
    pub(crate) frame: Option<u64>,
    pub(crate) truth: Option<String>,
    pub(crate) latency_ms: Option<LatencyMs>,
    pub(crate) dropped: Option<u64>,
    pub(crate) unchanged: Option<u64>,
}

/// A state in a line of `run --output json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) question: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) last: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) since: String,
    pub(crate) probability: Option<f32>,
}

/// A line of `run --output json` about a change of a state.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decision {
    pub(crate) time: String,
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) question: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) last: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) since: String,
    pub(crate) duration_s: f64,
    pub(crate) probability: Option<f32>,
    pub(crate) peak: Option<f32>,
    pub(crate) mean: Option<f32>,
}

/// A line of `run --output json` that is neither about a frame nor about a state.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) time: String,
    pub(crate) event: String,
    pub(crate) message: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) question: Option<String>,
    pub(crate) name: String,
    pub(crate) cosine: f32,
    pub(crate) logit: f32,
    pub(crate) probability: f32,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LatencyMs {
    pub(crate) capture: f64,
    pub(crate) decode: f64,
    pub(crate) preprocess: f64,
    pub(crate) tower: f64,
    pub(crate) score: f64,
    pub(crate) total: f64,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The program's state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.at("state")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.state().join("label-cache.safetensors")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.state().join("label-cache.journal")
    }

    /// A drawn picture as a PNG file.
    pub(crate) fn picture(&self, name: &str, number: u64) -> PathBuf {
        let mut png = Cursor::new(Vec::new());
        drawn(number).write_to(&mut png, image::ImageFormat::Png).unwrap();
        self.write(name, png.into_inner())
    }

    /// A label file with these names and the demo's template.
    pub(crate) fn labels(&self, name: &str, names: &[&str]) -> PathBuf {
        self.write(name, label_toml(names))
    }

    /// The program, with its state in this folder and no other environment that it reads.
    pub(crate) fn spotter(&self, arguments: &str) -> Command {
        let mut command = Command::new(e2e::program("spotter"));
        command.args(arguments.split_whitespace()).env("STATE_DIRECTORY", self.state());
        command.env("XDG_CONFIG_HOME", self.at("config"));
        command.env_remove("RUST_LOG").env_remove("XDG_STATE_HOME").env_remove("RUST_BACKTRACE");
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }
}

/// The text of a label file.
pub(crate) fn label_toml(names: &[&str]) -> String {
    let labels: String = names.iter().map(|name| format!("\n[[label]]\nname = \"{name}\"\n")).collect();
    format!("templates = [\"a photo of a {{}}.\"]\n{labels}")
}

/// Frame `number` of a small source of drawn shapes.
pub(crate) fn drawn(number: u64) -> image::RgbImage {
    let options = ShapesOptions { seed: 3, width: 128, height: 96, hold: 1, ..ShapesOptions::default() };
    let mut rgb = Vec::new();
    draw_shapes(&options, number, &mut rgb);
    image::RgbImage::from_raw(128, 96, rgb).unwrap()
}

/// Waits for a program to end and returns its output; fails on a panic or a hang.
pub(crate) fn finish(command: &mut Command) -> Done {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let code = wait(&mut child, &format!("{command:?}"));
    let done = Done { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(!done.stderr.contains("panicked"), "{command:?}: {}", done.stderr);
    done
}

/// As [`finish`]; the call must end within `most`, in one of several tries.
pub(crate) fn finish_within(what: &str, most: Duration, mut command: impl FnMut() -> Command) -> Done {
    let mut done = None;
    e2e::in_time(what, |_| {
        let start = Instant::now();
        done = Some(finish(&mut command()));
        let took = start.elapsed();
        if took < e2e::patience(most) { Ok(()) } else { Err(format!("{took:?}")) }
    });
    done.unwrap()
}

/// The same call with a limit on `flag` (`v`: address space, `d`: data segment) of `most_kb`, set by the shell's `ulimit`.
pub(crate) fn with_ulimit(flag: char, most_kb: u64, inner: &Command) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -{flag} {most_kb}; exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    if let Some(folder) = inner.get_current_dir() {
        command.current_dir(folder);
    }
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A running program, whose lines are read as they come.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<Line>,
    events: Arc<Mutex<Vec<Event>>>,
    decisions: Arc<Mutex<Vec<Decision>>>,
    stderr: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let events = Arc::new(Mutex::new(Vec::new()));
        let decisions = Arc::new(Mutex::new(Vec::new()));
        let (said, decided) = (Arc::clone(&events), Arc::clone(&decisions));
        thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                if is_decision(&line) {
                    decided.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                    continue;
                }
                if is_event(&line) {
                    said.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                    continue;
                }
                // Nobody waits for lines after a test has failed.
                let _ = send.send(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (pipe, log) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&stderr));
        thread::spawn(move || {
            for line in pipe.lines() {
                let line = line.unwrap() + "\n";
                log.lock().unwrap().push_str(&line);
            }
        });
        Self { child, lines, events, decisions, stderr }
    }

    /// The next line; `None` at the end of the output.
    pub(crate) fn next(&self) -> Option<Line> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}: {}", self.stderr()),
        }
    }

    /// The events so far, without changes of states.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The changes of states so far.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        self.decisions.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "kill -{name}: {status}");
    }

    /// Waits for the end; returns the exit code, the lines that were not read yet, and standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Line>, String) {
        let code = wait(&mut self.child, "run");
        let rest = std::iter::from_fn(|| self.next()).collect();
        let stderr = self.stderr();
        assert!(!stderr.contains("panicked"), "{stderr}");
        (code, rest, stderr)
    }
}

impl Drop for Running {
    /// Kills the program when a test fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code, or `None` after a signal.
pub(crate) fn wait(child: &mut Child, what: &str) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{what}: still running after {DEADLINE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The frames' lines of a program that succeeded.
pub(crate) fn lines(done: &Done) -> Vec<Line> {
    let lines = done.stdout.lines().filter(|line| !is_event(line) && !is_decision(line));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The changes of states in lines of JSON.
pub(crate) fn decisions(done: &Done) -> Vec<Decision> {
    let lines = done.stdout.lines().filter(|line| is_decision(line));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The events of a program, without changes of states.
pub(crate) fn events(done: &Done) -> Vec<Event> {
    let lines = done.stdout.lines().filter(|line| is_event(line));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn is_event(line: &str) -> bool {
    line.contains("\"event\":") && !is_decision(line)
}

fn is_decision(line: &str) -> bool {
    line.contains("\"event\":") && line.contains("\"duration_s\":")
}

/// What holds for every line: `count` labels, best first, with consistent values.
pub(crate) fn check_labels(line: &Line, count: usize) {
    assert_eq!(line.labels.len(), count, "{line:?}");
    let factor = Bundle::open(&e2e::root().join("config/demo")).unwrap().manifest().logit_scale.exp();
    for pair in line.labels.windows(2) {
        let ordered = pair[0].logit >= pair[1].logit && pair[0].probability >= pair[1].probability;
        assert!(ordered, "{pair:?} are not in order");
        let odds = (pair[0].logit - pair[1].logit).exp();
        assert!((pair[0].probability / pair[1].probability / odds - 1.0).abs() < 1e-3, "{pair:?}: not a softmax");
    }
    for label in &line.labels {
        assert!(label.cosine.abs() <= 1.0 + 1e-5, "{label:?}");
        assert!((label.cosine * factor - label.logit).abs() < 1e-4, "{label:?}");
    }
}
