//! States and events of labels, from outside.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::harness::{DEADLINE, Decision, Line, Place, Running, decisions, events, finish, lines};

/// Each shape is shown for two seconds, at a rate that a busy machine keeps up with.
const SOURCE: &str = "test://shapes?seed=1&fps=5&size=64x64&hold=10";

/// A question about the colour that is drawn, and a label about the shape.
pub(crate) fn questions(more: &str) -> String {
    let colours = ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"];
    let shapes = ["circle", "square", "triangle", "star", "cross", "heart"];
    let quoted = |texts: Vec<String>| texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
    let answer = |colour: &&str| {
        let prompts = quoted(shapes.iter().map(|shape| format!("{colour} {shape}")).collect());
        format!("[[question.label]]\nname = \"{colour}\"\nprompts = [{prompts}]\nfor_s = 0.2\n")
    };
    let answers: String = colours.iter().map(answer).collect();
    let of = |shape: &str| quoted(colours.iter().map(|colour| format!("{colour} {shape}")).collect());
    let others: Vec<String> = shapes[1..].iter().map(|shape| of(shape)).collect();
    format!(
        "templates = [\"a photo of a {{}}.\"]\nsmooth_s = 0.1\n[[question]]\nname = \"colour\"\n{answers}\
         [[label]]\nname = \"round\"\nprompts = [{}]\nopposites = [{}]\nfor_s = 0.2\nhold_s = 0.2\n{more}",
        of("circle"),
        others.join(", ")
    )
}

/// What holds for the events of every run: each start has at most one end, and no end comes without its start.
fn check_order(decisions: &[Decision]) {
    let mut open: BTreeMap<&str, &Decision> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for decision in decisions {
        let what = format!("{decision:?}");
        assert!(decision.since <= decision.time && decision.duration_s >= 0.0, "{what}");
        match decision.event.as_str() {
            "end" => {
                let start = open.remove(decision.id.as_str()).unwrap_or_else(|| panic!("no start: {what}"));
                assert_eq!((&start.label, &start.since), (&decision.label, &decision.since), "{what}");
                assert!(decision.peak >= start.peak && decision.mean <= decision.peak, "{what}");
            }
            "start" => {
                assert!(ids.insert(&decision.id), "{what}");
                open.insert(&decision.id, decision);
            }
            "state" => assert!(ids.insert(&decision.id) && decision.question.is_some(), "{what}"),
            other => panic!("{other}: {what}"),
        }
    }
}

fn state_of<'a>(line: &'a Line, question: &str) -> Option<&'a str> {
    let states = line.states.as_ref().unwrap();
    states.iter().find(|state| state.question.as_deref() == Some(question)).unwrap().label.as_deref()
}

#[test]
fn states_follow_what_is_drawn_and_changes_are_told_once() {
    let place = Place::new();
    let labels = place.write("labels.toml", questions(""));
    let mut command = place.spotter("run --output json --source");
    let done = finish(command.arg(format!("{SOURCE}&frames=120")).arg("--labels").arg(labels));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let (lines, told) = (lines(&done), decisions(&done));
    check_order(&told);
    let (mut right, mut known) = (0, 0);
    for line in &lines {
        assert!(line.labels.iter().all(|label| label.question.as_deref() == Some("colour") || label.name == "round"));
        // The last of the ten frames of a shape, long after what it began with.
        if line.frame.unwrap() % 10 == 9 {
            let colour = state_of(line, "colour");
            let drawn = line.truth.as_ref().unwrap();
            known += usize::from(colour.is_some());
            right += usize::from(colour.is_some_and(|colour| drawn.starts_with(colour)));
        }
    }
    println!("{} shapes, {known} states known, {right} right; {} changes", lines.len() / 10, told.len());
    assert!(known >= 6 && right * 10 >= known * 8, "{right} of {known} are right");
    // The states of the frames change where the events say so.
    let mut of_frames: Vec<Option<&str>> = lines.iter().map(|line| state_of(line, "colour")).collect();
    of_frames.insert(0, None);
    of_frames.dedup();
    let of_events: Vec<_> =
        told.iter().filter(|told| told.event == "state").map(|told| told.label.as_deref()).collect();
    assert_eq!(of_frames[1..], of_events);
    for decision in &told {
        let is_known = decision.label.is_some();
        assert_eq!(is_known, decision.probability.is_some(), "{decision:?}");
        assert!(is_known || decision.reason.as_deref() == Some("below_threshold"), "{decision:?}");
    }
}

#[test]
fn events_alone_are_printed_without_frames() {
    let place = Place::new();
    let labels = place.write("labels.toml", questions(""));
    let mut command = place.spotter("run --output events --source");
    let done = finish(command.arg(format!("{SOURCE}&frames=60")).arg("--labels").arg(labels));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    // On a busy machine some are dropped.
    assert!(done.stderr.contains(" frames labelled, 0 skipped"), "{}", done.stderr);
    let told = decisions(&done);
    check_order(&told);
    assert!(!told.is_empty());
    assert_eq!(done.stdout.lines().count(), told.len() + events(&done).len(), "{}", done.stdout);
}

#[test]
fn ids_are_unique_over_restarts() {
    let place = Place::new();
    let labels = place.write("labels.toml", questions(""));
    let run = || {
        let mut command = place.spotter("run --output events --source");
        let done = finish(command.arg(format!("{SOURCE}&frames=30")).arg("--labels").arg(&labels));
        let ids: BTreeSet<String> = decisions(&done).into_iter().map(|decision| decision.id).collect();
        assert!(!ids.is_empty(), "{}", done.stderr);
        ids
    };
    let (first, second) = (run(), run());
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
}

/// Waits for the next frame for which `wanted` holds.
fn until(program: &Running, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "{what}: {}", program.stderr());
        let line = program.next().unwrap_or_else(|| panic!("ended: {}", program.stderr()));
        if wanted(&line) {
            return line;
        }
    }
}

#[test]
fn a_state_survives_an_edit_that_does_not_touch_it() {
    let place = Place::new();
    let labels = place.write("labels.toml", questions(""));
    let mut command = place.spotter("run --output json --source");
    // One shape for as long as it takes.
    let source = SOURCE.replace("hold=10", "hold=1000000");
    let program = Running::start(command.arg(source).arg("--labels").arg(&labels));
    let known = until(&program, "no colour", |line| state_of(line, "colour").is_some());
    let (colour, state) = (state_of(&known, "colour").unwrap().to_owned(), known.states.as_ref().unwrap()[0].clone());
    // Another label, a background and other limits.
    let more = "[[label]]\nname = \"cat\"\n[[background]]\nprompts = [\"grey wall\", \"empty desk\"]\n";
    place.write("labels.toml", questions(more).replace("for_s = 0.2", "for_s = 0.3"));
    let has_edit =
        |line: &Line| line.labels.iter().any(|label| label.name == "cat") || program.stderr().contains("labels: 10");
    until(&program, "the edit", has_edit);
    for _ in 0..5 {
        let line = program.next().unwrap();
        let found = &line.states.as_ref().unwrap()[0];
        assert_eq!((&found.label, &found.since), (&state.label, &state.since), "{line:?}");
    }
    let told = program.decisions();
    check_order(&told);
    assert!(told.iter().all(|told| told.reason.as_deref() != Some("labels_changed")), "{told:?}");
    // Other sentences of the answer end it, and it begins again.
    let touched = format!("name = \"{colour}\"\nprompts = [");
    place.write("labels.toml", questions(more).replace(&touched, &format!("{touched}\"{colour} thing\", ")));
    let is_ended = |line: &Line| line.states.as_ref().unwrap()[0].since != state.since;
    until(&program, "the end", is_ended);
    let start = Instant::now();
    while !program
        .decisions()
        .iter()
        .any(|told| told.event == "end" && told.reason.as_deref() == Some("labels_changed"))
    {
        assert!(start.elapsed() < DEADLINE, "{:?}", program.decisions());
        program.next();
    }
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

#[test]
fn a_lost_source_makes_states_unknown() {
    let place = Place::new();
    let labels = place.write("labels.toml", questions(""));
    let mut jpeg = Vec::new();
    let picture = crate::harness::drawn(0);
    picture.write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
    place.write("picture.jpg", jpeg);
    // A camera that shows one picture for three seconds, and ends.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do cat picture.jpg; sleep 0.2; done";
    place.write("camera.sh", script);
    let mut command = place.spotter("run --output json --source");
    let program = Running::start(command.arg("exec:sh camera.sh").arg("--labels").arg(labels));
    until(&program, "no colour", |line| state_of(line, "colour").is_some());
    let lost = |told: &Decision| told.event == "state" && told.reason.as_deref() == Some("source_lost");
    let start = Instant::now();
    while !program.decisions().iter().any(lost) {
        assert!(start.elapsed() < DEADLINE, "{:?} {}", program.decisions(), program.stderr());
        program.next();
    }
    check_order(&program.decisions());
    assert!(program.events().iter().any(|event| event.event == "source_lost"), "{:?}", program.events());
    until(&program, "not back", |line| state_of(line, "colour").is_some());
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}
