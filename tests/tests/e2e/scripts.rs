//! Scripts that no other test calls, each in a form that takes seconds; `tests/README.md` has the list.

#![allow(clippy::type_complexity, reason = "tables of cases")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Place, finish};

#[allow(unreachable_pub, reason = "a crate of its own elsewhere")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// The Python of the tests; `None` if programs are emulated, since scripts start those of this machine.
fn python(modules: &[&str]) -> Option<OsString> {
    if e2e::emulated() { None } else { e2e::python(modules) }
}

/// Runs a script of the repository, which must succeed; returns its output.
fn run(program: &OsStr, script: &str, arguments: &[&OsStr]) -> String {
    let done = finish(Command::new(program).arg(e2e::root().join(script)).args(arguments).env("REPEATS", "1"));
    println!("{}", done.stdout);
    assert_eq!(done.code, Some(0), "{script}: {}{}", done.stdout, done.stderr);
    done.stdout
}

#[test]
fn all_scripts_are_sound() {
    let Some(python) = python(&["ruff"]) else { return };
    run(&python, "tests/reference/check_scripts.py", &[]);
}

#[test]
fn the_measurement_of_the_demo_labels_runs_to_its_end() {
    let Some(python) = python(&[]) else { return };
    let spotter = e2e::program("spotter");
    let arguments = ["small".as_ref(), "--spotter".as_ref(), spotter.as_ref()];
    let found = run(&python, "tests/reference/demo_labels.py", &arguments);
    for expected in ["| dog | 1 | ", "| person (1) | ", "| outdoors | 1 | ", "| (anything else) (1) | "] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}

#[test]
fn the_comparison_with_onnx_runtime_runs_to_its_end() {
    let Some(python) = python(&["onnx", "onnxruntime"]) else { return };
    let place = Place::new();
    let (work, model_prep, spotter) = (place.at("work"), e2e::program("model-prep"), e2e::program("spotter"));
    let arguments =
        ["small".as_ref(), work.as_ref(), "--model-prep".as_ref(), model_prep.as_ref(), "--spotter".as_ref()];
    let found = run(&python, "tests/reference/compare_onnxruntime.py", &[&arguments[..], &[spotter.as_ref()]].concat());
    assert!(found.contains("| demo-text | ") && found.contains("Spotter: cosine "), "{found}");

    // A bundle whose image tower was quantised by ONNX Runtime, and which runs in tract.
    let (float, dynamic) = (work.join("bundles/demo-f32"), place.at("dynamic"));
    run(&python, "cross/dynamic_bundle.py", &[float.as_ref(), dynamic.as_ref()]);
    let size = |folder: &Path| fs::metadata(folder.join("vision.onnx")).unwrap().len();
    assert!(size(&dynamic) < size(&float) / 2, "{} bytes", size(&dynamic));
    let mut command = place.spotter("bench --tower image --stdin --threads 1 --bundle dynamic");
    command.env("SPOTTER_KERNELS", "tract").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"1\n").unwrap();
    let done = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("\"ready\":true") && text.contains("\"ms\":["), "{text}");
}

#[test]
fn rules_are_compared_on_streams_of_known_truth() {
    let Some(python) = python(&["numpy"]) else { return };
    let (spotter, decide) = (e2e::program("spotter"), e2e::example("decide"));
    let arguments = ["small".as_ref(), "--program".as_ref(), spotter.as_ref(), "--decide".as_ref(), decide.as_ref()];
    let found = run(&python, "tests/reference/decide_streams.py", &arguments);
    assert!(found.contains("| **Spotter** | ") && found.contains("Spotter at equal recall: "), "{found}");
}

#[test]
fn sizes_and_starts_are_measured() {
    if e2e::emulated() {
        return;
    }
    let spotter = e2e::program("spotter");
    let found = run("bash".as_ref(), "cross/measure.sh", &[spotter.as_ref()]);
    assert!(found.contains(" MB as .xz") && found.contains("all embeddings kept: "), "{found}");
}

#[test]
fn a_run_is_recorded_as_a_picture() {
    if e2e::emulated() {
        return;
    }
    let place = Place::new();
    let (picture, spotter) = (place.at("run.svg"), e2e::program("spotter"));
    let source = "test://shapes?frames=20&hold=10";
    let arguments: [&OsStr; 5] =
        [picture.as_ref(), spotter.as_ref(), "run".as_ref(), "--source".as_ref(), source.as_ref()];
    run("python3".as_ref(), "tests/record_terminal.py", &arguments);
    let svg = fs::read_to_string(&picture).unwrap();
    for shown in
        ["<svg ", "<title>spotter run --source test://shapes?hold=10</title>", " frames/s, ", "%</text>", "</svg>"]
    {
        assert!(svg.contains(shown), "{shown}: {svg}");
    }
}

/// Pseudorandom numbers, the same in every run.
struct Spread(u64);

impl Spread {
    /// From 0 to below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// Changes some bytes, or truncates, or repeats a part.
fn mutated(seed: &[u8], spread: &mut Spread) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=spread.below(4) {
        let at = spread.below(bytes.len());
        match spread.below(4) {
            0 => bytes[at] = spread.below(256) as u8,
            1 => bytes[at] ^= 1 << spread.below(8),
            2 => bytes.truncate(at.max(1)),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

/// A short form of `tests/fuzz/run.sh`: no panic, whatever the bytes.
#[test]
fn fuzz_targets_survive_their_seeds_and_mutations_of_them() {
    struct Target {
        name: &'static str,
        run: fn(&[u8]),
        mutations: usize,
    }
    let targets = [
        Target { name: "checkpoint", run: fuzz::checkpoint, mutations: 300 },
        Target { name: "pickle", run: fuzz::pickle, mutations: 300 },
        Target { name: "bundle", run: fuzz::bundle, mutations: 300 },
        Target { name: "splitter", run: fuzz::splitter, mutations: 300 },
        // Each input prepares a tower.
        Target { name: "towers", run: fuzz::towers, mutations: 80 },
        Target { name: "tokenizer", run: fuzz::tokenizer, mutations: 300 },
    ];
    let folder = tempfile::tempdir().unwrap();
    let seeds = run("python3".as_ref(), "tests/fuzz/seeds.py", &[folder.path().as_ref()]);
    assert_eq!(seeds, "");
    for Target { name, run, mutations } in targets {
        let mut seeds: Vec<PathBuf> =
            fs::read_dir(folder.path().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        assert!(seeds.len() >= 4, "{name}: {seeds:?}");
        let mut spread = Spread(7);
        for seed in &seeds {
            let seed = fs::read(seed).unwrap();
            run(&seed);
            for _ in 0..mutations / seeds.len() {
                run(&mutated(&seed, &mut spread));
            }
        }
        println!("{name}: {} seeds, {mutations} mutations", seeds.len());
    }
}
