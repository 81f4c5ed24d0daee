//! Bundles in slots: installed completely or not at all, activated, swapped in while the program runs, rolled back.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod archives;
mod kills;
mod rehearsals;
mod trust;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use spotter_engine::bundle::{Bundle, Contents, Manifest};

use crate::harness::{DEADLINE, Done, Line, Place, Running, finish, lines};
use crate::reload::source;

const NAMES: [&str; 4] = ["red circle", "green square", "blue star", "black heart"];

/// The output of `spotter bundle list --json`.
#[derive(Debug, Deserialize)]
struct Listing {
    active: String,
    previous: Option<String>,
    proven: bool,
    tries: u32,
    failed: Option<String>,
    slots: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    slot: String,
    signed: Option<String>,
    problem: Option<String>,
}

impl Listing {
    fn of(place: &Place) -> Self {
        let done = bundle(place, "list --json");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
    }

    /// The slots, without the built-in one.
    fn names(&self) -> Vec<&str> {
        self.slots.iter().map(|row| row.slot.as_str()).filter(|name| *name != "built-in").collect()
    }
}

/// `spotter bundle` with these arguments.
fn bundle(place: &Place, arguments: &str) -> Done {
    let mut command = place.spotter("bundle");
    if place.at("spotter.toml").exists() {
        command.arg("--config").arg(place.at("spotter.toml"));
    }
    finish(command.args(arguments.split_whitespace()))
}

fn check(place: &Place, arguments: &str, code: i32, expected: &str) {
    let done = bundle(place, arguments);
    assert_eq!(done.code, Some(code), "{arguments}: {} {}", done.stdout, done.stderr);
    let said = if code == 0 { &done.stdout } else { &done.stderr };
    assert!(said.contains(expected), "{arguments}: expected {expected:?}, found {said}");
}

/// The demo bundle with a changed manifest, as an archive.
fn archive(place: &Place, file: &str, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let mut manifest = demo.manifest().clone();
    change(&mut manifest);
    let files = demo.manifest().files().map(|file| demo.read(file).unwrap());
    let contents = Contents { vision: &files[0], text: &files[1], tokenizer: &files[2], model_card: &files[3] };
    let path = place.at(file);
    spotter_engine::bundle::write(&path, manifest, &contents).unwrap();
    path
}

/// Logit scales that tell the bundles apart: a score's logit is its cosine times the scale.
const SCALES: [(&str, f32); 3] = [("a", 10.0), ("b", 30.0), ("c", 50.0)];

/// Archives `a.tar`, `b.tar`, `c.tar`, labels without templates of their own, and an image.
fn prepared() -> Place {
    let place = Place::new();
    for (name, scale) in SCALES {
        archive(&place, &format!("{name}.tar"), |manifest| {
            manifest.name = format!("bundle {name}");
            manifest.logit_scale = scale.ln();
            manifest.templates = vec![format!("the {name} of a {{}}.")];
        });
    }
    let labels: String = NAMES.iter().map(|name| format!("[[label]]\nname = \"{name}\"\n")).collect();
    place.write("labels.toml", labels);
    place.picture("x.png", 7);
    place
}

/// The bundle that produced these scores; all must be from the same.
fn bundle_of(line: &Line) -> &'static str {
    let of = |scale: f32| line.labels.iter().all(|label| (label.cosine * scale - label.logit).abs() < 1e-3);
    let found: Vec<_> = SCALES.iter().filter(|(_, scale)| of(*scale)).map(|(name, _)| *name).collect();
    match found[..] {
        [name] => name,
        [] => {
            let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
            assert!(of(demo.manifest().logit_scale.exp()), "scores of no bundle: {line:?}");
            "built-in"
        }
        _ => panic!("scores of several bundles: {line:?}"),
    }
}

/// The bundle that classifies now.
fn classifying(place: &Place) -> &'static str {
    let done = finish(&mut place.spotter("classify --json --labels labels.toml x.png"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    bundle_of(&lines(&done)[0])
}

#[test]
fn slots_are_installed_activated_and_rolled_back() {
    let place = prepared();
    assert_eq!(classifying(&place), "built-in");
    assert_eq!(Listing::of(&place).names(), [""; 0]);
    check(&place, "rollback", 1, "nothing to roll back to: \"built-in\" is active");
    check(&place, "install a.tar", 0, "a installed in ");
    check(&place, "install a.tar", 0, "a is already installed in ");
    check(&place, "install b.tar --name a", 1, "slot \"a\" already holds another bundle");
    check(&place, "install b.tar --name B!", 1, "slot name \"B!\": expected 1 to 64 lower-case letters");
    check(&place, "install b.tar --name built-in", 1, "slot name \"built-in\"");
    check(&place, "install nothing.tar", 1, "nothing.tar: cannot be opened");
    check(&place, "activate z", 1, "no slot \"z\": there are a, built-in");
    assert_eq!(classifying(&place), "built-in", "installing chooses nothing");
    check(&place, "activate a", 0, "a is active now, instead of built-in");
    check(&place, "activate a", 0, "a is already active");
    assert_eq!(classifying(&place), "a");
    check(&place, "install b.tar --activate", 0, "b is active now, instead of a");
    assert_eq!(classifying(&place), "b");
    let listing = Listing::of(&place);
    assert_eq!((listing.names(), listing.active.as_str()), (vec!["a", "b"], "b"));
    assert_eq!((listing.previous.as_deref(), listing.proven, listing.tries), (Some("a"), false, 0));
    assert!(listing.slots.iter().all(|row| row.problem.is_none() && row.signed.is_none()), "{listing:?}");
    check(&place, "list", 0, "bundle b");
    check(&place, "remove b", 1, "slot \"b\" is the active one");
    check(&place, "remove a", 1, "slot \"a\" is the previous one");
    check(&place, "rollback", 0, "a is active again, instead of b");
    assert_eq!(classifying(&place), "a");
    check(&place, "rollback", 1, "nothing to roll back to");
    check(&place, "remove b", 0, "removed b");
    assert_eq!(Listing::of(&place).names(), ["a"]);
    check(&place, "activate built-in", 0, "built-in is active now, instead of a");
    assert_eq!(classifying(&place), "built-in");
}

#[test]
fn a_bundle_named_by_the_configuration_comes_before_slots() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "a is active now");
    let done = finish(&mut place.spotter("classify --json --bundle b.tar --labels labels.toml x.png"));
    assert_eq!(bundle_of(&lines(&done)[0]), "b");
    place.write("spotter.toml", "bundle = 'b.tar'\n");
    check(&place, "activate a", 1, "the configuration names the bundle ");
    check(&place, "rollback", 1, "remove `bundle` from it to use slots");
}

#[test]
fn a_bundle_that_does_not_work_is_not_activated() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "a is active now");
    let demo = Bundle::open(&e2e::root().join("config/demo")).unwrap();
    let files = demo.manifest().files().map(|file| demo.read(file).unwrap());
    let whole = Contents { vision: &files[0], text: &files[1], tokenizer: &files[2], model_card: &files[3] };
    // Every hash is right; the hashed content is not.
    for (name, contents) in [
        ("novision", Contents { vision: b"no graph", ..whole }),
        ("notext", Contents { text: &files[0], ..whole }),
        ("notokens", Contents { tokenizer: b"{}", ..whole }),
    ] {
        spotter_engine::bundle::write(&place.at(&format!("{name}.tar")), demo.manifest().clone(), &contents).unwrap();
        check(&place, &format!("install {name}.tar"), 0, "installed in");
        check(&place, &format!("activate {name}"), 1, "");
        let listing = Listing::of(&place);
        assert_eq!((listing.active.as_str(), listing.failed), ("a", None), "{name}");
    }
    // Broken labels do not prevent an installation, but they prevent an activation, which would be untested.
    check(&place, "install b.tar", 0, "installed");
    place.write("spotter.toml", "labels = 'broken.toml'\n");
    place.write("broken.toml", "[[label]]\n");
    check(&place, "activate b", 1, "broken.toml:1:1: label without a `name`");
    assert_eq!(Listing::of(&place).active, "a");
}

/// Where a file of an archive starts, and its size.
fn place_of(tar: &[u8], name: &str) -> (usize, usize) {
    let mut archive = tar::Archive::new(tar);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let entry = entries.find(|entry| *entry.path_bytes() == *name.as_bytes()).unwrap();
    (usize::try_from(entry.raw_file_position()).unwrap(), usize::try_from(entry.size()).unwrap())
}

/// Simulates failing flash: flips one byte in the middle of a slot's image tower.
fn damage(place: &Place, slot: &str) {
    let path = place.state().join("bundles").join(slot).join("bundle.tar");
    let mut bytes = fs::read(&path).unwrap();
    let (start, size) = place_of(&bytes, "vision.onnx");
    bytes[start + size / 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// `spotter run` for one frame.
fn run_once(place: &Place) -> Done {
    let done = finish(
        &mut place.spotter("run --output json --frames 1 --labels labels.toml --source test://shapes?size=64x64"),
    );
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

#[test]
fn a_bundle_that_fails_twice_is_rolled_back() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    let done = run_once(&place);
    assert_eq!(bundle_of(&lines(&done)[0]), "a");
    assert!(Listing::of(&place).proven);
    check(&place, "install b.tar --activate", 0, "");
    assert!(!Listing::of(&place).proven);
    damage(&place, "b");
    let done = run_once(&place);
    assert_eq!(bundle_of(&lines(&done)[0]), "a");
    assert_eq!(done.stderr.matches("bundle b: ").count(), 3, "two tries and the end: {}", done.stderr);
    assert!(done.stderr.contains("bundle b: rolled back to a"), "{}", done.stderr);
    assert!(done.stderr.contains("SHA-256"), "{}", done.stderr);
    let listing = Listing::of(&place);
    assert_eq!((listing.active.as_str(), listing.failed.as_deref(), listing.proven), ("a", Some("b"), true));
    let done = run_once(&place);
    assert!(!done.stderr.contains("ERROR"), "the next start has nothing to do with b: {}", done.stderr);
    // One that had worked before, with nothing before it.
    damage(&place, "a");
    let done = run_once(&place);
    assert_eq!(bundle_of(&lines(&done)[0]), "built-in");
    let listing = Listing::of(&place);
    assert_eq!((listing.active.as_str(), listing.failed.as_deref()), ("built-in", Some("a")));
    check(&place, "activate b", 1, "SHA-256");
}

#[test]
fn a_bundle_that_crashes_the_program_is_rolled_back() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    run_once(&place);
    check(&place, "install b.tar --activate", 0, "");
    // The state after two programs that were killed while they loaded, out of memory.
    let state = place.state().join("bundles.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("\"tries\": 0", "\"tries\": 2")).unwrap();
    let done = run_once(&place);
    assert_eq!(bundle_of(&lines(&done)[0]), "a");
    assert!(done.stderr.contains("bundle b: rolled back to a"), "{}", done.stderr);
    assert_eq!(Listing::of(&place).failed.as_deref(), Some("b"));
    // An operator may try it again.
    check(&place, "activate b", 0, "b is active now, instead of a");
    assert_eq!(bundle_of(&lines(&run_once(&place))[0]), "b");
    assert_eq!(Listing::of(&place).failed, None);
}

#[test]
fn a_damaged_state_stops_nothing() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    let state = place.state().join("bundles.json");
    for text in ["", "{", "{\"active\": 3}", "null", "\0\0\0\0"] {
        fs::write(&state, text).unwrap();
        let done = run_once(&place);
        assert_eq!(bundle_of(&lines(&done)[0]), "built-in");
        assert!(done.stderr.contains("bundles.json: expected the state of the bundles"), "{}", done.stderr);
        assert_eq!(fs::read_to_string(&state).unwrap(), text, "what cannot be read is kept");
        check(&place, "list", 1, "remove the file and activate a bundle again");
    }
    fs::remove_file(&state).unwrap();
    check(&place, "activate a", 0, "a is active now");
    // A slot that was removed by hand.
    fs::remove_dir_all(place.state().join("bundles/a")).unwrap();
    assert_eq!(bundle_of(&lines(&run_once(&place))[0]), "built-in");
}

#[test]
fn a_broken_label_file_is_not_the_bundles_fault() {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    place.write("labels.toml", "[[label]]\n");
    for _ in 0..3 {
        let done =
            finish(&mut place.spotter("run --output json --frames 1 --labels labels.toml --source test://shapes"));
        assert_eq!(done.code, Some(1));
    }
    let listing = Listing::of(&place);
    assert_eq!((listing.active.as_str(), listing.tries), ("a", 0));
}

/// A running program.
struct Watching {
    program: Running,
    last: Line,
    /// Number of missing frames.
    lost: u64,
}

impl Watching {
    fn start(place: &Place, attempt: usize) -> Self {
        Self::start_with(place, attempt, &[])
    }

    /// The same with these variables in its environment.
    fn start_with(place: &Place, attempt: usize, variables: &[(&str, &str)]) -> Self {
        let mut command = place.spotter("run --output json --labels labels.toml --source");
        let program = Running::start(command.arg(source(attempt)).envs(variables.iter().copied()));
        let last = program.next().unwrap_or_else(|| panic!("no frame: {}", program.stderr()));
        Self { program, last, lost: 0 }
    }

    /// The bundle of the next frame. No frame may have been lost before it.
    fn frame(&mut self) -> &'static str {
        let line = self.program.next().unwrap_or_else(|| panic!("ended: {}", self.program.stderr()));
        self.lost += line.frame.unwrap().checked_sub(self.last.frame.unwrap() + 1).expect("frames in their order");
        self.last = line;
        bundle_of(&self.last)
    }

    /// Reads frames of the bundle `old` until one is of `new`; returns how many there were.
    fn until(&mut self, old: &str, new: &str) -> usize {
        let (start, mut count) = (Instant::now(), 1);
        loop {
            match self.frame() {
                bundle if bundle == new => return count,
                bundle => assert_eq!(bundle, old),
            }
            count += 1;
            assert!(start.elapsed() < DEADLINE, "{new} never came: {}", self.program.stderr());
        }
    }

    /// Ends the program cleanly; returns standard error if no frame was lost.
    fn end(self) -> Result<String, String> {
        self.program.signal("TERM");
        let (code, _, stderr) = self.program.end();
        assert_eq!(code, Some(0), "{stderr}");
        if self.lost == 0 { Ok(stderr) } else { Err(format!("{} frames were lost", self.lost)) }
    }
}

#[test]
fn a_running_program_switches_bundles_without_losing_a_frame() {
    e2e::in_time("bundles taken over", take_over);
}

fn take_over(attempt: usize) -> Result<(), String> {
    let place = prepared();
    check(&place, "install a.tar", 0, "");
    check(&place, "install b.tar", 0, "");
    let mut watching = Watching::start(&place, attempt);
    assert_eq!(bundle_of(&watching.last), "built-in");
    for (command, old, new) in [
        ("activate a", "built-in", "a"),
        ("activate b", "a", "b"),
        ("rollback", "b", "a"),
        ("install c.tar --activate", "a", "c"),
        ("activate built-in", "c", "built-in"),
    ] {
        check(&place, command, 0, "");
        let frames = watching.until(old, new);
        println!("{command}: {new} after {frames} frames");
        (0..3).for_each(|_| assert_eq!(watching.frame(), new));
    }
    let listing = Listing::of(&place);
    assert!(listing.proven && listing.failed.is_none(), "{listing:?}");
    // New labels are embedded by the running bundle.
    check(&place, "activate b", 0, "");
    watching.until("built-in", "b");
    place.write("labels.toml", "[[label]]\nname = 'something new'\nopposites = ['a red wall']\n");
    let start = Instant::now();
    while watching.last.labels[0].name != "something new" {
        assert_eq!(watching.frame(), "b");
        assert!(start.elapsed() < DEADLINE);
    }
    let events: Vec<_> = watching.program.events().iter().map(|e| (e.event.clone(), e.message.clone())).collect();
    let loaded = |name: &str| ("bundle_loaded".to_owned(), name.to_owned());
    assert_eq!(events, ["a", "b", "a", "c", "built-in", "b"].map(loaded));
    let stderr = watching.end()?;
    // The labels were embedded when the bundle was tried, and taken from the cache when it was swapped in.
    assert!(stderr.contains("4 sentences: 4 cached, 0 embedded"), "{stderr}");
    assert!(!stderr.contains("ERROR") && !stderr.contains("WARN"), "{stderr}");
    Ok(())
}

#[test]
fn a_running_program_refuses_what_cannot_be_loaded() {
    e2e::in_time("a bundle refused", refuse);
}

fn refuse(attempt: usize) -> Result<(), String> {
    let place = prepared();
    check(&place, "install a.tar --activate", 0, "");
    check(&place, "install b.tar", 0, "");
    let mut watching = Watching::start(&place, attempt);
    assert_eq!(bundle_of(&watching.last), "a");
    // It goes bad between its trial and its use.
    damage(&place, "b");
    let state = place.state().join("bundles.json");
    let listing = |active: &str| {
        format!("{{\"active\": \"{active}\", \"previous\": \"a\", \"proven\": false, \"tries\": 0, \"failed\": null}}")
    };
    spotter::store::replace_file(&state, listing("b").as_bytes()).unwrap();
    let start = Instant::now();
    while !watching.program.events().iter().any(|event| event.event == "bundle_refused") {
        assert_eq!(watching.frame(), "a");
        assert!(start.elapsed() < DEADLINE, "{}", watching.program.stderr());
    }
    (0..5).for_each(|_| assert_eq!(watching.frame(), "a"));
    let listing = Listing::of(&place);
    assert_eq!((listing.active.as_str(), listing.failed.as_deref(), listing.proven), ("a", Some("b"), true));
    let stderr = watching.end()?;
    assert!(stderr.contains("bundle b: rolled back to a"), "{stderr}");
    Ok(())
}

/// Everything below a folder, with sizes.
fn tree(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let data = entry.path().symlink_metadata().unwrap();
        found.push((entry.path(), if data.is_file() { data.len() } else { 0 }));
        if data.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}
