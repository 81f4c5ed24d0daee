//! The first minute: `spotter init`, `spotter try`, and which labels the demo model is asked about.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::harness::{Done, Place, finish};

/// A program, with its configuration folder in `place` too.
fn spotter(place: &Place, arguments: &str) -> Done {
    finish(place.spotter(arguments).env("XDG_CONFIG_HOME", place.at("config")))
}

fn succeeds(place: &Place, arguments: &str) -> Done {
    let done = spotter(place, arguments);
    assert_eq!(done.code, Some(0), "{arguments}: {}{}", done.stdout, done.stderr);
    done
}

#[test]
fn the_demo_is_asked_about_what_the_source_shows() {
    let place = Place::new();
    place.picture("x.png", 0);
    for (arguments, name, absent) in [
        ("run --output json --frames 1 --source test://shapes", "blue star", "insect or spider"),
        ("run --output json --source x.png", "insect or spider", "blue star"),
        ("classify --json x.png", "insect or spider", "blue star"),
        ("run --output json --source x.png --labels own.toml", "black cat", "insect or spider"),
        ("run --output json --frames 1 --source test://shapes --labels own.toml", "black cat", "blue star"),
    ] {
        place.labels("own.toml", &["black cat", "white cat"]);
        place.write("spotter.toml", "[inference]\ntop_k = 100\n");
        let done = succeeds(&place, &format!("{arguments} --config spotter.toml"));
        let line: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
        let names: Vec<&str> =
            line["labels"].as_array().unwrap().iter().map(|label| label["name"].as_str().unwrap()).collect();
        assert!(names.contains(&name) && !names.contains(&absent), "{arguments}: {names:?}");
        // Once, and only where there is a loop.
        let told = done.stderr.matches("this is the demo model, which is small").count();
        assert_eq!(told, usize::from(arguments.starts_with("run")), "{}", done.stderr);
    }
}

#[test]
fn sentences_are_tried_and_nothing_is_written() {
    let place = Place::new();
    place.picture("x.png", 0);
    place.write("spotter.toml", "[metrics]\nfile = 'metrics.prom'\n[[notify]]\nexec = ['/bin/touch', 'told']\n");
    let before = names(&place);
    let scores = |sentences: &[&str]| {
        let mut command =
            place.spotter("try --output json --config spotter.toml --source test://shapes?fps=0 --frames 1");
        let done = finish(command.args(sentences));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(done.stderr.contains("each sentence competes with") && done.stderr.contains("nothing is written"));
        let line: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
        sentences
            .iter()
            .map(|sentence| {
                let label = line["labels"].as_array().unwrap().iter().find(|label| label["name"] == *sentence);
                label.unwrap()["probability"].as_f64().unwrap()
            })
            .collect::<Vec<f64>>()
    };
    // A single sentence competes with common scenes, and loses where it does not fit.
    assert!(scores(&["a photo of a blue star."])[0] > 0.9);
    assert!(scores(&["a plate of food"])[0] < 0.5);
    let both = scores(&["a photo of a blue star.", "a photo of a \"red circle\""]);
    assert!(both[0] > 0.9 && both[1] < 0.1 && both.iter().sum::<f64>() <= 1.001, "{both:?}");
    assert_eq!(names(&place), before);

    for (arguments, code, expected) in [
        ("try", 2, "required arguments"),
        ("try cat cat", 1, "given twice"),
        ("try cat --labels x.toml", 2, "unexpected argument"),
        ("try cat --source none.png", 1, "none.png: not found"),
    ] {
        let done = spotter(&place, arguments);
        assert_eq!(done.code, Some(code), "{arguments}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{arguments}: {}", done.stderr);
    }
    let text = succeeds(&place, "try cat --source x.png");
    assert!(text.stdout.starts_with("x.png: cat "), "{}", text.stdout);
}

/// All files of the folder.
fn names(place: &Place) -> Vec<String> {
    let mut names: Vec<String> =
        place.at("").read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn init_writes_what_check_passes_and_the_next_run_uses() {
    let place = Place::new();
    place.picture("x.png", 0);
    // As root with an installed package the default would be the service's folder.
    let out = place.at("config/spotter");
    let init = format!("init --yes --out {}", out.display());
    let done = succeeds(&place, &format!("{init} --source x.png --board pi4"));
    for expected in
        ["spotter.toml", "labels.toml", "board: pi4", "one picture of ", "%  ", "spotter check ", "spotter run "]
    {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    assert!(!done.stdout.contains("--config"), "the folder is found without it: {}", done.stdout);
    assert!(!place.state().exists(), "nothing is cached for a user who may be another one");
    let checked = succeeds(&place, "check --strict");
    assert!(checked.stdout.starts_with("no problems: 12 labels"), "{}", checked.stdout);
    let ran = succeeds(&place, "run --output json");
    assert!(ran.stdout.contains("x.png") && ran.stdout.contains("\"question\":\"place\""), "{}", ran.stdout);
    assert!(ran.stderr.contains(&format!("from {}", out.join("labels.toml").display())), "{}", ran.stderr);

    // What is there stays, unless it is said otherwise.
    place.write("config/spotter/labels.toml", "# mine\n");
    let refused = spotter(&place, &format!("{init} --source test://shapes"));
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("exist: --force overwrites"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(out.join("labels.toml")).unwrap(), "# mine\n");
    let forced = succeeds(&place, &format!("{init} --source test://shapes --force"));
    assert!(forced.stdout.contains("one picture of test://shapes"), "{}", forced.stdout);
    assert!(succeeds(&place, "check --strict").stdout.starts_with("no problems: 48 labels"));
}

#[test]
fn init_keeps_the_password_of_a_camera() {
    let place = Place::new();
    // Nobody listens there.
    let done = succeeds(&place, "init --yes --out here --source rtsp://me:hunter2@127.0.0.1:9/1");
    assert!(done.stdout.contains("source: rtsp://127.0.0.1:9/1 (--source)"), "{}", done.stdout);
    assert!(done.stdout.contains("no picture yet: rtsp://127.0.0.1:9/1: "), "{}", done.stdout);
    assert!(!format!("{}{}", done.stdout, done.stderr).contains("hunter2"), "{}{}", done.stdout, done.stderr);
    let path = place.at("here/spotter.toml");
    assert!(fs::read_to_string(&path).unwrap().contains("\nsource = \"rtsp://me:hunter2@127.0.0.1:9/1\"\n"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn init_takes_a_model_and_says_what_it_cannot_use() {
    let place = Place::new();
    let bundle = e2e::root().join("config/demo");
    let arguments = format!("init --yes --out here --model {}", bundle.display());
    let done = succeeds(&place, &format!("{arguments} --source test://shapes?size=64x64"));
    assert!(done.stdout.contains("spotter run --config '"), "{}", done.stdout);
    succeeds(&place, "check --config here/spotter.toml");
    // Labels for another model than the demo's, for a camera.
    let done = succeeds(&place, &format!("{arguments} --source /dev/video63 --force"));
    assert!(
        ["no picture yet: /dev/video63", "`spotter doctor`"].iter().all(|part| done.stdout.contains(part)),
        "{}",
        done.stdout
    );
    assert!(fs::read_to_string(place.at("here/labels.toml")).unwrap().contains("set = \"room\""));
    let checked = succeeds(&place, "check --config here/spotter.toml");
    assert!(checked.stdout.contains("no problems"), "{}", checked.stdout);
    for (arguments, code, expected) in [
        ("--model none.tar", 1, "none.tar"),
        ("--source none/", 1, "no such file or folder"),
        ("--source gopher://x", 1, "unknown scheme"),
        ("--board pi9", 2, "invalid value"),
    ] {
        let done = spotter(&place, &format!("init --yes --out there {arguments}"));
        assert_eq!(done.code, Some(code), "{arguments}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{arguments}: {}", done.stderr);
        assert!(!place.at("there").exists(), "{arguments}");
    }
}
