//! Labels that change while the program runs: completely, between two frames, without a dropped frame.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use crate::bad_inputs::Hostile;
use crate::harness::{DEADLINE, Line, Place, Running, label_toml};

/// Slow enough that a machine busy with other tests labels every frame, so that a dropped one means something; slower
/// with each try.
pub(crate) fn source(attempt: usize) -> String {
    let fps = if e2e::emulated() || attempt > 1 { 1 } else { 5 };
    format!("test://shapes?seed=1&fps={fps}&size=64x64")
}

const OLD: [&str; 3] = ["red circle", "green square", "blue star"];
const NEW: [&str; 4] = ["yellow heart", "red circle", "black cross", "white star"];

/// A running program with a label file of its own.
struct Watching {
    program: Running,
    last: Line,
    dropped_at_start: u64,
    /// Number of frames whose labels differ from those of the frame before.
    swaps: usize,
    /// Number of frames dropped since the first.
    lost: u64,
}

fn names(line: &Line) -> BTreeSet<&str> {
    line.labels.iter().map(|label| label.name.as_str()).collect()
}

impl Watching {
    /// Waits for the first frame, whose labels are `OLD`.
    fn start(place: &Place, labels: &Path, attempt: usize) -> Self {
        let config = place.write("spotter.toml", "[inference]\ntop_k = 1000\n");
        let mut command = place.spotter("run --output json --source");
        let program =
            Running::start(command.arg(source(attempt)).arg("--config").arg(config).arg("--labels").arg(labels));
        let last = program.next().unwrap_or_else(|| panic!("no frame: {}", program.stderr()));
        assert_eq!(names(&last), BTreeSet::from(OLD));
        let dropped_at_start = last.dropped.unwrap();
        Self { program, last, dropped_at_start, swaps: 0, lost: 0 }
    }

    /// The next frame: its labels are one of the `known` sets, completely. It should directly follow the last one.
    fn frame(&mut self, known: &[BTreeSet<&str>]) {
        let line = self.program.next().unwrap_or_else(|| panic!("ended: {}", self.program.stderr()));
        let (number, dropped) = (line.frame.unwrap(), line.dropped.unwrap());
        let left_out = number.checked_sub(self.last.frame.unwrap() + 1).expect("frames in their order");
        assert!(dropped >= self.last.dropped.unwrap() && left_out <= dropped - self.dropped_at_start, "{line:?}");
        self.lost = dropped - self.dropped_at_start;
        assert!(known.contains(&names(&line)), "a mix of labels: {:?}", names(&line));
        let sum: f32 = line.labels.iter().map(|label| label.probability).sum();
        assert!((sum - 1.0).abs() < 1e-4, "probabilities add up to {sum}");
        self.swaps += usize::from(names(&line) != names(&self.last));
        self.last = line;
    }

    /// Reads frames until their labels are `wanted`.
    fn until(&mut self, wanted: &[&str], known: &[&[&str]]) {
        let known: Vec<BTreeSet<&str>> = known.iter().map(|set| set.iter().copied().collect()).collect();
        let start = Instant::now();
        while names(&self.last) != wanted.iter().copied().collect() {
            assert!(start.elapsed() < DEADLINE, "the labels never changed: {}", self.program.stderr());
            self.frame(&known);
        }
    }

    /// Reads frames, whose labels must not change, until standard error says `text`.
    fn until_said(&mut self, text: &str) {
        let before = self.last.clone();
        let start = Instant::now();
        while !self.program.stderr().contains(text) {
            assert!(start.elapsed() < DEADLINE, "{text:?} was never said: {}", self.program.stderr());
            self.frame(&[names(&before)]);
        }
        // And the frames after it.
        for _ in 0..3 {
            self.frame(&[names(&before)]);
        }
    }

    /// Ends the program cleanly; returns standard error if no frame was dropped.
    fn end(self) -> Result<String, String> {
        self.program.signal("TERM");
        let (code, _, stderr) = self.program.end();
        assert_eq!(code, Some(0), "SIGTERM is a clean end: {stderr}");
        if self.lost == 0 { Ok(stderr) } else { Err(format!("{} frames were dropped", self.lost)) }
    }
}

/// Starts with `OLD`, makes `change`, and expects `wanted`, in one swap that embedded `embedded` new sentences.
fn check(what: &str, prepare: fn(&Place), change: fn(&Place, &Running), wanted: &[&str], cost: (usize, usize)) {
    e2e::in_time(what, |attempt| {
        let place = Place::new();
        prepare(&place);
        let labels = place.at("labels.toml");
        let mut watching = Watching::start(&place, &labels, attempt);
        let start = Instant::now();
        change(&place, &watching.program);
        watching.until(wanted, &[&OLD, wanted]);
        let took = start.elapsed();
        for _ in 0..3 {
            watching.frame(&[wanted.iter().copied().collect()]);
        }
        assert_eq!(watching.swaps, 1, "{what}");
        let last = watching.last.frame.unwrap();
        let stderr = watching.end()?;
        let (cached, embedded) = cost;
        let said = format!("{cached} cached, {embedded} embedded");
        println!("{what}: new labels after {:.2} s, frames 0 to {last} without a gap, {said}", took.as_secs_f64());
        let line = stderr.lines().rfind(|line| line.contains("labels: ")).unwrap_or_default();
        assert!(line.contains(&said), "{what}: expected {said}: {stderr}");
        Ok(())
    });
}

fn plain(place: &Place) {
    place.labels("labels.toml", &OLD);
}

/// The layout of Kubernetes config maps: `labels.toml` -> `..data/labels.toml`, `..data` -> `..v1`.
fn linked(place: &Place) {
    for (folder, names) in [("..v1", &OLD[..]), ("..v2", &NEW[..])] {
        fs::create_dir(place.at(folder)).unwrap();
        place.labels(&format!("{folder}/labels.toml"), names);
    }
    symlink("..v1", place.at("..data")).unwrap();
    symlink("..data/labels.toml", place.at("labels.toml")).unwrap();
}

/// One of the new sentences was among the old ones.
const COST: (usize, usize) = (1, 3);

#[test]
fn a_file_written_in_place_is_reloaded() {
    check("written in place", plain, |place, _| drop(place.labels("labels.toml", &NEW)), &NEW, COST);
}

#[test]
fn a_file_replaced_as_editors_do_is_reloaded() {
    let change = |place: &Place, _: &Running| {
        place.labels("labels.toml.new", &NEW);
        fs::rename(place.at("labels.toml"), place.at("labels.toml~")).unwrap();
        fs::rename(place.at("labels.toml.new"), place.at("labels.toml")).unwrap();
    };
    check("renamed and replaced", plain, change, &NEW, COST);
}

#[test]
fn a_swapped_symbolic_link_is_followed() {
    let change = |place: &Place, _: &Running| {
        symlink("..v2", place.at("..data_tmp")).unwrap();
        fs::rename(place.at("..data_tmp"), place.at("..data")).unwrap();
    };
    check("link swapped", linked, change, &NEW, COST);
}

#[test]
fn a_hangup_reloads_the_file() {
    let change = |place: &Place, program: &Running| {
        place.labels("labels.toml", &NEW);
        program.signal("HUP");
    };
    check("SIGHUP", plain, change, &NEW, COST);
}

#[test]
fn fewer_labels_need_no_embedding() {
    check("fewer", plain, |place, _| drop(place.labels("labels.toml", &OLD[1..])), &OLD[1..], (2, 0));
}

#[test]
fn frames_go_on_while_many_sentences_are_embedded() {
    let names: Vec<String> =
        (0..1000).map(|i| format!("thing number {i} in a very long row of many things that are all alike")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    e2e::in_time("many sentences", |attempt| {
        let place = Place::new();
        plain(&place);
        let mut watching = Watching::start(&place, &place.at("labels.toml"), attempt);
        // For these the tower takes the time of several frames; of more with each try.
        let templates: Vec<String> = (0..=2 * attempt).map(|number| format!("'photo {number} of a {{}}.'")).collect();
        let labels: String = names.iter().map(|name| format!("[[label]]\nname = '{name}'\n")).collect();
        place.write("labels.toml", format!("templates = [{}]\n{labels}", templates.join(", ")));
        let (start, first) = (Instant::now(), watching.last.frame.unwrap());
        watching.until(&names, &[&OLD, &names]);
        let frames = watching.last.frame.unwrap() - first;
        let sentences = names.len() * templates.len();
        println!("{sentences} sentences: {frames} frames in {:.1} s", start.elapsed().as_secs_f64());
        assert_eq!(watching.swaps, 1);
        let stderr = watching.end()?;
        assert!(stderr.contains(&format!("0 cached, {sentences} embedded")), "{stderr}");
        if frames >= 3 { Ok(()) } else { Err(format!("embedded too quickly to show anything: {frames} frames")) }
    });
}

#[test]
fn a_burst_of_saves_ends_in_the_last_content() {
    e2e::in_time("a burst of saves", |attempt| {
        let place = Place::new();
        plain(&place);
        let mut watching = Watching::start(&place, &place.at("labels.toml"), attempt);
        let drafts: Vec<String> = (0..9).map(|draft| format!("draft {draft}")).collect();
        for draft in &drafts {
            place.labels("labels.toml", &["red circle", draft]);
        }
        place.labels("labels.toml", &NEW);
        let mut known: Vec<Vec<&str>> = drafts.iter().map(|draft| vec!["red circle", draft]).collect();
        known.extend([OLD.to_vec(), NEW.to_vec()]);
        let known: Vec<&[&str]> = known.iter().map(Vec::as_slice).collect();
        watching.until(&NEW, &known);
        for _ in 0..10 {
            watching.frame(&[BTreeSet::from(NEW)]);
        }
        println!("ten saves at once: {} swaps", watching.swaps);
        watching.end().map(drop)
    });
}

#[test]
fn a_broken_file_changes_nothing_and_is_named_by_line_and_column() {
    e2e::in_time("broken files", |attempt| {
        let place = Place::new();
        plain(&place);
        let mut watching = Watching::start(&place, &place.at("labels.toml"), attempt);
        for (text, expected) in [
            ("[[label]]\nname = \"red circle\n", "labels.toml:2:"),
            ("[[label]]\nname = \"x\"\n[[label]]\nname = \"x\"\n", "labels.toml:4:8: label `x` is already defined"),
            ("[[label]]\nname = 3\n", "labels.toml:2:8: `name`: expected a string"),
            ("[[label]]\nnmae = \"x\"\n", "labels.toml:2:1: unknown key `nmae`"),
            ("templates = [\"{}\"]\n\n", "labels.toml:1:1: no labels"),
        ] {
            place.write("labels.toml", text);
            watching.until_said(expected);
        }
        assert_eq!(watching.swaps, 0);
        // A repaired file counts again.
        place.labels("labels.toml", &NEW);
        watching.until(&NEW, &[&OLD, &NEW]);
        let stderr = watching.end()?;
        let errors: Vec<_> = stderr.lines().filter(|line| line.contains("ERROR")).collect();
        println!("five broken files:\n{}", errors.join("\n"));
        assert!(errors.iter().all(|line| line.contains("labels.toml:")), "{stderr}");
        Ok(())
    });
}

#[test]
fn a_file_deleted_and_created_again_is_reloaded() {
    e2e::in_time("deleted and created again", |attempt| {
        let place = Place::new();
        plain(&place);
        let mut watching = Watching::start(&place, &place.at("labels.toml"), attempt);
        fs::remove_file(place.at("labels.toml")).unwrap();
        watching.until_said("labels.toml: no such file");
        fs::write(place.at("labels.toml"), label_toml(&NEW)).unwrap();
        watching.until(&NEW, &[&OLD, &NEW]);
        assert_eq!(watching.swaps, 1);
        watching.end().map(drop)
    });
}

#[test]
fn a_file_replaced_by_something_else_is_reported_and_the_next_file_applies() {
    e2e::in_time("what is no file", |attempt| {
        let place = Place::new();
        plain(&place);
        let labels = place.at("labels.toml");
        let mut watching = Watching::start(&place, &labels, attempt);
        for (hostile, expected) in [
            (Hostile::Pipe, "found a named pipe"),
            (Hostile::Folder, "found a directory"),
            (Hostile::EndlessDevice, "found a device"),
            (Hostile::Sparse, "larger than"),
        ] {
            fs::remove_file(&labels).unwrap();
            hostile.make(&labels);
            watching.until_said(expected);
            // Writing into a pipe would wait for its reader.
            let removed = if labels.is_dir() { fs::remove_dir(&labels) } else { fs::remove_file(&labels) };
            removed.unwrap();
            place.labels("labels.toml", &OLD);
        }
        assert_eq!(watching.swaps, 0);
        place.labels("labels.toml", &NEW);
        watching.until(&NEW, &[&OLD, &NEW]);
        watching.end().map(drop)
    });
}

#[test]
fn built_in_labels_survive_a_hangup() {
    let place = Place::new();
    let program = Running::start(place.spotter("run --output json --source").arg(source(0)));
    program.next().unwrap_or_else(|| panic!("no frame: {}", program.stderr()));
    program.signal("HUP");
    let start = Instant::now();
    while !program.stderr().contains("the labels are inside the program") {
        assert!(start.elapsed() < DEADLINE, "{}", program.stderr());
        assert_eq!(program.next().unwrap().labels.len(), 5);
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}
