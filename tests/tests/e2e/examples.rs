//! Example pictures of labels, and what is doubtful about labels, from outside.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Instant;

use spotter::source::{ShapesOptions, draw_shapes};

use crate::harness::{DEADLINE, Done, Place, Running, finish, lines};

/// Pictures of each shape in a folder.
const EXAMPLES: usize = 8;

/// Draws pictures of `shape` as `FOLDER/NUMBER.png`, from number `from` of the drawn frames on; returns the next number.
fn draw(place: &Place, folder: &str, shape: &str, from: u64) -> u64 {
    std::fs::create_dir_all(place.at(folder)).unwrap();
    let options = ShapesOptions { seed: 3, width: 128, height: 96, hold: 1, ..ShapesOptions::default() };
    let (mut number, mut count) = (from, 0);
    while count < EXAMPLES {
        let mut rgb = Vec::new();
        if draw_shapes(&options, number, &mut rgb).ends_with(shape) {
            let mut png = Cursor::new(Vec::new());
            let picture = image::RgbImage::from_raw(128, 96, rgb).unwrap();
            picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
            place.write(&format!("{folder}/{number}.png"), png.into_inner());
            count += 1;
        }
        number += 1;
    }
    number
}

/// Folders `circles` and `squares` with examples, and `held/circles` and `held/squares` with other pictures.
fn pictures(place: &Place) {
    for shape in ["circle", "square"] {
        let next = draw(place, &format!("{shape}s"), shape, 0);
        draw(place, &format!("held/{shape}s"), shape, next);
    }
}

/// A question about words that mean nothing.
fn question(place: &Place, [first, second]: [&str; 2]) -> PathBuf {
    let label = |name: &str, keys: &str| format!("[[question.label]]\nname = \"{name}\"\n{keys}\n");
    place
        .write("labels.toml", format!("[[question]]\nname = \"q\"\n{}{}", label("alpha", first), label("beta", second)))
}

/// Number of held pictures of circles that are alpha, and of squares that are beta.
fn right(place: &Place) -> (usize, Done) {
    let mut command = place.spotter("classify --json --labels labels.toml");
    for shape in ["circles", "squares"] {
        let mut files: Vec<_> =
            place.at(&format!("held/{shape}")).read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        command.args(files);
    }
    let done = finish(&mut command);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let is_right = |(index, line): &(usize, crate::harness::Line)| {
        line.labels[0].name == if *index < EXAMPLES { "alpha" } else { "beta" }
    };
    (lines(&done).into_iter().enumerate().filter(is_right).count(), done)
}

#[test]
fn examples_teach_what_a_name_means_and_are_cached() {
    let place = Place::new();
    pictures(&place);
    question(&place, ["", ""]);
    let (without, _) = right(&place);
    question(&place, ["examples = \"circles/\"", "examples = \"squares\""]);
    let (with, first) = right(&place);
    println!("{without} of {} right by the names, {with} with examples", 2 * EXAMPLES);
    assert!(with >= 2 * EXAMPLES - 2 && with > without, "{with} with examples, {without} without: {}", first.stderr);
    assert!(first.stderr.contains("example pictures: 0 cached, 16 embedded"), "{}", first.stderr);
    let (again, second) = right(&place);
    assert_eq!(again, with);
    assert!(second.stderr.contains("example pictures: 16 cached, 0 embedded"), "{}", second.stderr);
    // The other way round they teach the opposite.
    question(&place, ["examples = \"squares\"", "examples = \"circles\""]);
    let (swapped, _) = right(&place);
    assert_eq!(swapped, 2 * EXAMPLES - with);
    // A label outside of questions is told apart from what it is not.
    place.write(
        "labels.toml",
        "[[label]]\nname = \"alpha\"\nexamples = \"circles\"\nnot_examples = \"squares\"\nopposites = [\"beta\"]",
    );
    let (_, lone) = right(&place);
    assert!(lone.stderr.contains("label `alpha`: 8 examples against 8 other pictures"), "{}", lone.stderr);
}

#[test]
fn an_example_that_is_changed_takes_effect_when_the_labels_are_read_again() {
    let place = Place::new();
    pictures(&place);
    let labels = question(&place, ["examples = \"circles\"", "examples = \"squares\""]);
    let mut command = place.spotter("run --output json --source test://shapes?seed=1&fps=5&size=64x64 --labels");
    let program = Running::start(command.arg(labels));
    let until = |text: &str| {
        let start = Instant::now();
        while !program.stderr().contains(text) {
            assert!(start.elapsed() < DEADLINE, "{text:?} was never said: {}", program.stderr());
            program.next().unwrap();
        }
    };
    until("example pictures: 0 cached, 16 embedded");
    program.next().unwrap();
    let file = place.at("circles").read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::write(
        &file,
        std::fs::read(place.at("held/circles").read_dir().unwrap().next().unwrap().unwrap().path()).unwrap(),
    )
    .unwrap();
    program.signal("HUP");
    until("example pictures: 15 cached, 1 embedded");
    // What is no picture is left out, and said.
    std::fs::write(&file, "no picture").unwrap();
    program.signal("HUP");
    until("the example is left out");
    until("label `q: alpha`: 7 examples against 8 other pictures");
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

/// `spotter check` finds every one of `expected` as a warning, which fails only if it is told to be strict.
fn check(place: &Place, labels: &str, expected: &[&str]) {
    place.write("labels.toml", labels);
    let run = |more: &str| finish(&mut place.spotter(&format!("check --labels labels.toml {more}")));
    let (lax, strict) = (run(""), run("--strict"));
    assert_eq!((lax.code, strict.code), (Some(0), Some(i32::from(!expected.is_empty()))), "{labels}: {}", lax.stdout);
    assert_eq!(lax.stdout, strict.stdout);
    let found: Vec<&str> = lax.stdout.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(found.len(), expected.len(), "{labels}: {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{expected:?} is not in {found:?}");
    }
    assert!(!place.cache().exists() && !place.journal().exists(), "it leaves the cache alone");
}

#[test]
fn check_doubts_labels_with_numbers_and_fails_only_if_strict() {
    let place = Place::new();
    pictures(&place);
    let shapes = "[[label]]\nname = \"red circle\"\n[[label]]\nname = \"blue square\"\n";
    check(&place, shapes, &[]);
    check(&place, "[[label]]\nname = \"red circle\"", &["labels.toml:2:8: label `red circle`: competes with nothing"]);
    check(
        &place,
        &format!("{shapes}prompts = [\"no blue square\", \"square\"]\nthreshold = 0.7"),
        &["2 labels outside of questions have neither", "the prompt `no blue square` says what is not there"],
    );
    let near = format!("{shapes}[[label]]\nname = \"x\"\nprompts = [\"red circle\", \"red circle.\"]\n");
    check(&place, &near, &["label `x`: has nearly the embedding of the label `red circle` in line 2 (cosine "]);
    let circle = "[[label]]\nname = \"circle\"\nprompts = [\"red circle\", \"blue circle\", \"green circle\", \"black circle\"]\n\
                  opposites = [\"red square\", \"blue square\", \"green square\", \"black square\"]\n";
    check(&place, &format!("{circle}examples = \"circles\"\nnot_examples = \"squares\""), &[]);
    let circle_or_square = circle.replace("[\"red square", "[\"circle\", \"a circle\", \"red square");
    let strict = format!("{circle_or_square}threshold = 0.999\nexamples = \"circles\"\nnot_examples = \"squares\"");
    check(&place, &strict, &["none of its 8 example pictures reaches its threshold of 0.999: the best has 0."]);
    let swapped = format!("{circle}examples = \"squares\"\nnot_examples = \"circles\"");
    check(&place, &swapped, &["its examples disagree with its prompts, which fit the other pictures better"]);
    check(
        &place,
        &format!("{circle}examples = \"circles\""),
        &["has 8 example pictures and none to tell them apart from"],
    );
}
