//! `spotter calibrate`, and when its thresholds are used.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;

use serde_json::Value;
use spotter::source::{Uri, draw_shapes};

use crate::harness::{Place, finish};

/// What is there, and what a label is judged against.
const LABELS: &str = "templates = [\"a photo of a {}.\"]\n\
    [[label]]\nname = \"circle\"\nprompts = [\"red circle\"]\nopposites = [\"green square\"]\n\
    [[label]]\nname = \"heart\"\nprompts = [\"black heart\"]\nopposites = [\"green square\"]\n\
    [[label]]\nname = \"star\"\nprompts = [\"yellow star\"]\nopposites = [\"green square\"]\nthreshold = 0.55\n";

/// Draws each of these shapes as an image of a folder.
fn draw(folder: &Path, shapes: impl Iterator<Item = &'static str>) {
    std::fs::create_dir_all(folder).unwrap();
    let Ok(Uri::Shapes(options)) = "test://shapes?seed=3&fps=0&hold=1&size=64x64".parse() else { panic!("shapes") };
    for (number, shape) in shapes.enumerate() {
        let mut rgb = Vec::new();
        let is_it = |frame: &u64| draw_shapes(&options, *frame, &mut rgb) == shape;
        (0..5000).find(is_it).unwrap_or_else(|| panic!("no {shape} is drawn"));
        let path = folder.join(format!("{number:04}.png"));
        image::save_buffer(path, &rgb, 64, 64, image::ColorType::Rgb8).unwrap();
    }
}

/// The calibration in the state folder of `place`.
fn stored(place: &Place) -> Option<Value> {
    let entries = place.state().join("calibrations").read_dir().ok()?;
    let path = entries.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

#[test]
fn thresholds_are_fitted_and_used_until_something_changes() {
    let place = Place::new();
    place.write("labels.toml", LABELS);
    // A minute and a half with a green square, which looks like a red circle for five seconds now and then.
    let quiet = |second: usize| if second % 30 >= 25 { "red circle" } else { "green square" };
    draw(&place.at("camera"), (0..90).map(quiet));
    draw(&place.at("examples/circle"), ["red circle", "blue cross"].into_iter());
    place.write("spotter.toml", "source = \"camera\"\nlabels = \"labels.toml\"\n");
    let camera = "camera";
    let common = "--config spotter.toml";
    let arguments = "calibrate --folder camera --false-alarms-per-day 100 --examples examples";
    let done = finish(&mut place.spotter(&format!("{arguments} {common}")));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    println!("{}", done.stdout);
    for expected in [
        "watched 1.5 minutes of camera: 90 images: 90 frames",
        "wanted: 100 false alarms a day, of all labels together",
        "heart   0.60 -> 0.40  0 -> 0, never seen",
        "star    0.55          0, threshold of the label file",
        "can promise no fewer than 28",
        "circle: 1 of 2 marked images are missed, 1 before",
        "camera: `spotter run` uses it for this source",
    ] {
        assert!(done.stdout.contains(expected), "{expected}: {}", done.stdout);
    }
    let circle = done.stdout.lines().find(|line| line.starts_with("circle  ")).unwrap();
    // Three alarms in a minute and a half: even the largest threshold is passed.
    assert!(circle.contains("0.60 -> 0.95") && circle.contains("too many even at 0.95"), "{circle}");
    let found = stored(&place).unwrap();
    let parts = (found["camera"].as_str(), found["thresholds"][1]["label"].as_str());
    assert_eq!(parts, (Some(camera), Some("heart")));
    let charts = place.state().join("calibrations").read_dir().unwrap();
    let svg = charts.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "svg").unwrap();
    assert!(std::fs::read_to_string(svg).unwrap().contains(">circle</text>"));

    let run = |arguments: &str| {
        let done = finish(&mut place.spotter(&format!("run --output json {arguments} {common}")));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stderr
    };
    let check = || {
        let done = finish(&mut place.spotter(&format!("check {common}")));
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
        done.stdout
    };
    let used = format!("thresholds: those of the calibration of {camera}, made ");
    assert!(run("").contains(&used) && !check().contains("stale"));
    // A threshold in the label file does not make it stale, another sentence does.
    place.write("labels.toml", LABELS.replace("0.55", "0.9"));
    assert!(run("").contains(&used));
    place.write("labels.toml", LABELS.replace("black heart", "white heart"));
    let stale = format!("the calibration of {camera} is stale and not used: the labels have changed since ");
    let told = run("");
    assert!(told.contains(&stale) && !told.contains(&used), "{told}");
    assert!(check().contains(&format!("warning: {stale}")), "{}", check());
    // Another camera has none.
    draw(&place.at("other"), (0..3).map(quiet));
    let told = run("--source other");
    assert!(!told.contains("calibration"), "{told}");
}

#[test]
fn what_cannot_be_fitted_is_an_error_and_stores_nothing() {
    let place = Place::new();
    place.write("labels.toml", LABELS);
    draw(&place.at("short"), (0..5).map(|_| "green square"));
    draw(&place.at("quiet"), (0..20).map(|_| "green square"));
    draw(&place.at("wrong/circus"), ["red circle"].into_iter());
    std::fs::create_dir_all(place.at("none/circle")).unwrap();
    for (arguments, code, expected) in [
        ("--folder short", 1, "short: 5 images: 4 seconds; expected 10 or more, in which nothing happens"),
        ("--folder missing", 1, "missing: not found"),
        ("--source test://shapes?frames=5&fps=0", 1, "4 seconds; expected 10 or more"),
        ("--folder quiet --examples wrong", 1, "wrong/circus: expected a label, one of `circle`, `heart`, `star`"),
        ("--folder quiet --examples none", 1, "found no image"),
        ("--folder quiet --minutes 5", 2, "cannot be used with"),
        ("--minutes 0", 2, "expected a number above 0"),
        ("--false-alarms-per-day -1", 2, "unexpected argument '-1' found"),
    ] {
        let done = finish(&mut place.spotter(&format!("calibrate --labels labels.toml {arguments}")));
        assert_eq!(done.code, Some(code), "{arguments}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{arguments}: {}", done.stderr);
        assert_eq!(stored(&place), None, "{arguments}");
    }
}

#[test]
fn a_live_source_is_watched_for_the_wanted_time() {
    let place = Place::new();
    place.write("labels.toml", LABELS);
    let source = "test://shapes?fps=20&size=64x64";
    let arguments = "calibrate --labels labels.toml --minutes 0.2 --false-alarms-per-day 1000 --source";
    let done = finish(place.spotter(arguments).arg(source));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("watched 0.2 minutes of test://shapes"), "{}", done.stdout);
    assert_eq!(stored(&place).unwrap()["camera"].as_str(), Some(source));
}
