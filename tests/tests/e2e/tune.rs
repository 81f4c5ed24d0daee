//! `model-prep tune` and `model-prep adapt` from the command line. What they compute is proved in `model-prep`'s own tests.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spotter_engine::bundle::Bundle;

use crate::harness::{DEADLINE, Done, Place, finish};

/// Runs the program in `place`; `TINY` stands for the tiny checkpoint.
fn model_prep(place: &Place, arguments: &str) -> Done {
    finish(&mut model_prep_command(place, arguments))
}

fn model_prep_command(place: &Place, arguments: &str) -> Command {
    let tiny = e2e::root().join("tests/golden/tiny/checkpoint");
    let mut command = Command::new(e2e::program("model-prep"));
    let words = arguments.split_whitespace();
    command.args(words.map(|word| if word == "TINY" { tiny.as_os_str() } else { word.as_ref() }));
    command.current_dir(place.at("")).env_remove("RUST_LOG");
    command
}

/// A folder of pictures by class: for each class, the numbers of its pictures.
fn set(place: &Place, name: &str, classes: &[(&str, &[u64])]) {
    for (class, numbers) in classes {
        fs::create_dir_all(place.at(name).join(class)).unwrap();
        for (index, number) in numbers.iter().enumerate() {
            place.picture(&format!("{name}/{class}/{index}.png"), *number);
        }
    }
}

fn top_1(place: &Place, bundle: &str, set: &str) -> f64 {
    let done = model_prep(place, &format!("evaluate {bundle} {set} --json"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    report["bundles"][0]["classification"]["top_1"].as_f64().unwrap()
}

#[test]
fn a_run_shows_its_results_and_ends_in_checkpoints() {
    let place = Place::new();
    set(&place, "set", &[("red_circle", &[0, 1, 2, 3, 4, 5]), ("cat", &[6, 7, 8, 9, 10, 11])]);
    fs::write(place.at("set/cat/broken.png"), "nothing").unwrap();
    place.write("templates.txt", "{}\na photo of the {}.\n");
    let options =
        "--data set --eval set --out tuned --lock both --epochs 2 --batch 4 --seed 3 --templates templates.txt";
    let done = model_prep(&place, &format!("tune TINY {options}"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for part in ["tuned: trained for ", "before training, epoch 0: set (12 images): top-1 ", "best, epoch "] {
        assert!(done.stdout.contains(part), "{part:?} is not in: {}", done.stdout);
    }
    for part in ["epoch 0, step 0, before training: set (12 images)", "epoch 2, step 6, loss ", "broken.png: "] {
        assert!(done.stderr.contains(part), "{part:?} is not in: {}", done.stderr);
    }
    for file in ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json", "MODEL_CARD.md"] {
        assert!(place.at("tuned").join(file).exists() && place.at("tuned/last").join(file).exists(), "{file}");
    }
    for file in ["run.svg", "train-images.features", "train-texts.features"] {
        assert!(place.at("tuned/tune").join(file).exists(), "{file}");
    }
    let exported = model_prep(&place, "export tuned/last --weights f32 --out bundle");
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    // The bundle gets the accuracy that the run gives.
    let card = fs::read_to_string(place.at("tuned/last/MODEL_CARD.md")).unwrap();
    let found = format!("top-1 {:.1}% |", 100.0 * top_1(&place, "bundle", "set"));
    assert!(card.lines().any(|line| line.starts_with("| 2 |") && line.ends_with(&found)), "{found}: {card}");

    for (resume, part) in [("", "--resume"), ("--resume", "whose run is finished")] {
        let done = model_prep(&place, &format!("tune TINY {options} {resume}"));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains("tuned") && done.stderr.contains(part), "{}", done.stderr);
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_in_the_same_weights() {
    /// So often the run is killed after it has saved its state once more.
    const KILLS: usize = 4;
    let place = Place::new();
    set(&place, "set", &[("red_circle", &[0, 1, 2, 3]), ("cat", &[4, 5, 6, 7])]);
    let tune = |out: &str, more: &str| {
        let options = "--data set --eval set --lock none --epochs 12 --batch 4 --seed 5";
        model_prep_command(&place, &format!("tune TINY {options} --out {out} {more}"))
    };
    let whole = finish(&mut tune("whole", ""));
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);

    let state = place.at("killed/tune/state.safetensors");
    let saved = || fs::metadata(&state).and_then(|file| file.modified()).ok();
    let mut more = "";
    for kill in 0..KILLS {
        let before = saved();
        let mut child = tune("killed", more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while saved() == before {
            assert!(child.try_wait().unwrap().is_none(), "it ended before kill {kill}");
            assert!(start.elapsed() < DEADLINE, "no state is saved");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "kill {kill}");
        more = "--resume";
    }
    let done = finish(&mut tune("killed", more));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for file in ["model.safetensors", "last/model.safetensors"] {
        let [whole, killed] = ["whole", "killed"].map(|out| fs::read(place.at(out).join(file)).unwrap());
        assert!(whole == killed, "{file} differs");
    }
}

#[test]
fn wrong_options_are_refused_before_anything_is_written() {
    let place = Place::new();
    set(&place, "set", &[("cat", &[0, 1]), ("dog", &[2, 3])]);
    for (options, code, part) in [
        ("--batch 1", 2, "--batch"),
        ("--epochs 0", 2, "--epochs"),
        ("--epochs 1 --max-minutes 1", 2, "--max-minutes"),
        ("--max-minutes 0", 2, "expected a number above 0"),
        ("--lr nan", 2, "expected a number above 0"),
        ("--weight-decay=-1", 2, "expected a number of 0 or more"),
        ("--lock vision", 2, "image, text, both, none"),
        ("--train-layers 0", 2, "--train-layers"),
        ("--templates missing.txt", 1, "missing.txt"),
    ] {
        let done = model_prep(&place, &format!("tune TINY --data set --out tuned {options}"));
        assert_eq!(done.code, Some(code), "{options}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{options}: {part:?} is not in: {}", done.stderr);
        assert!(!place.at("tuned").exists(), "{options}");
    }
}

#[test]
fn labels_are_adapted_to_pictures_that_tell_them_apart() {
    let place = Place::new();
    let exported = model_prep(&place, "export TINY --weights f32 --out bundle");
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    // Whichever picture is left out, the others of its class are the same.
    set(&place, "same", &[("cat", &[1, 1, 1]), ("dog", &[2, 2, 2])]);
    // A name that would forge a line and clear the screen.
    fs::write(place.at("same/cat/a\nb\u{1b}[2J.png"), "nothing").unwrap();
    let done = model_prep(&place, "adapt bundle --examples same --out adapted.tar");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("adapted.tar: 2 labels adapted to 6 examples, strength "), "{}", done.stdout);
    assert!(done.stdout.contains(r"left out: cat/a\nb\u{1b}[2J.png: "), "{}", done.stdout);
    let adapted = Bundle::open(&place.at("adapted.tar")).unwrap();
    let names: Vec<_> = adapted.manifest().adapted_labels.iter().map(|label| (&*label.name, label.examples)).collect();
    assert_eq!(names, [("cat", 3), ("dog", 3)]);
    assert!(top_1(&place, "adapted.tar", "same") >= top_1(&place, "bundle", "same"));

    // Whichever picture is left out, the other of its class is the wrong one.
    set(&place, "mixed", &[("cat", &[1, 2]), ("dog", &[2, 1])]);
    let before = fs::read(place.at("bundle/bundle.json")).unwrap();
    let done = model_prep(&place, "adapt bundle --examples mixed");
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    assert!(done.stderr.contains("do not help") && done.stderr.contains("unchanged"), "{}", done.stderr);
    assert_eq!(fs::read(place.at("bundle/bundle.json")).unwrap(), before);
}
