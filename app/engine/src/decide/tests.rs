use std::time::{Duration, Instant};

use super::*;

/// Labels of `Set`, by index: those outside of questions first.
#[derive(Clone)]
struct Set {
    lone: Vec<LabelRules>,
    questions: Vec<(&'static str, Vec<LabelRules>)>,
    smooth_s: f32,
}

/// A label that starts at 0.6 after 1 s and ends below 0.4 after 2 s.
fn label(name: &str) -> LabelRules {
    LabelRules { name: name.into(), meaning: 1, threshold: 0.6, release: 0.4, for_s: 1.0, hold_s: 2.0 }
}

impl Set {
    fn rules(&self) -> Arc<Rules> {
        let mut rules = Rules { smooth_s: self.smooth_s, labels: self.lone.clone(), ..Rules::default() };
        for (name, labels) in &self.questions {
            let start = rules.labels.len();
            rules.labels.extend(labels.iter().cloned());
            let labels = start..rules.labels.len();
            rules.questions.push(QuestionRules { name: (*name).into(), labels, smooth_s: self.smooth_s });
        }
        Arc::new(rules)
    }
}

/// One label and one question with two, not smoothed.
fn set() -> Set {
    Set { lone: vec![label("cat")], questions: vec![("door", vec![label("open"), label("closed")])], smooth_s: 0.0 }
}

fn at(seconds: f64) -> Moment {
    let elapsed = Duration::from_secs_f64(seconds);
    Moment { elapsed, unix_us: 1_000_000_000 + i64::try_from(elapsed.as_micros()).expect("a short time") }
}

/// A change in one line: when, kind, question and label, since when, and why.
fn describe(change: &Change) -> String {
    let question = change.question.as_ref().map_or_else(String::new, |question| format!("{question}="));
    let label = change.label.as_deref().unwrap_or("?");
    let kind = format!("{:?}", change.kind).to_lowercase();
    let reason = change.reason.map_or_else(String::new, |reason| format!(" {reason:?}"));
    let (at, since) = (change.at.elapsed.as_secs_f64(), change.since.elapsed.as_secs_f64());
    format!("{at:.1} {kind} {question}{label} since {since:.1}{reason}")
}

/// The changes of frames at every half second from 0 on, which have these probabilities.
fn told(set: &Set, frames: &[[f32; 3]]) -> Vec<String> {
    let mut decider = Decider::new(set.rules(), at(0.0));
    let mut told = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        decider.frame(at(index as f64 / 2.0), frame.iter().copied().enumerate());
        told.extend(decider.changes().iter().map(describe));
    }
    told
}

/// The frames of a label outside of questions.
fn cat(probabilities: &[f32]) -> Vec<[f32; 3]> {
    probabilities.iter().map(|probability| [*probability, 0.5, 0.5]).collect()
}

/// The frames of a question.
fn door(probabilities: &[(f32, f32)]) -> Vec<[f32; 3]> {
    probabilities.iter().map(|(open, closed)| [0.0, *open, *closed]).collect()
}

#[test]
fn labels_follow_thresholds_and_times() {
    for (what, probabilities, expected) in [
        ("absent", &[0.0, 0.5, 0.59, 0.5][..], &[][..]),
        ("too short", &[0.0, 0.9, 0.0, 0.9, 0.0], &[]),
        // A frame counts for the time since the one before.
        ("long enough", &[0.0, 0.9, 0.9, 0.9], &["1.0 start cat since 0.0"]),
        ("from the first frame on", &[0.9, 0.9, 0.9], &["1.0 start cat since 0.0"]),
        ("exactly at the threshold", &[0.0, 0.6, 0.6], &["1.0 start cat since 0.0"]),
        ("between the limits it stays", &[0.9, 0.9, 0.9, 0.4, 0.5, 0.4, 0.5, 0.4, 0.5], &["1.0 start cat since 0.0"]),
        ("short gaps are held", &[0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0], &["1.0 start cat since 0.0"]),
        (
            "it ends after its time, and starts again",
            &[0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.7],
            &["1.0 start cat since 0.0", "3.0 end cat since 0.0", "4.5 start cat since 3.5"],
        ),
        ("not a number is nothing", &[f32::NAN, 0.9, f32::NAN, f32::INFINITY], &[]),
    ] {
        assert_eq!(told(&set(), &cat(probabilities)), expected, "{what}");
    }
}

#[test]
fn questions_have_one_answer_at_most() {
    let (start, state) = ("1.0 start door=open since 0.0", "1.0 state door=open since 0.0");
    let opened = [(0.9, 0.1); 3];
    for (what, then, expected) in [
        ("it stays", &[(0.5, 0.5), (0.4, 0.6), (0.4, 0.59)][..], &[][..]),
        (
            "another one replaces it at once, not after the time for which it is held",
            &[(0.3, 0.7), (0.3, 0.7)],
            &["2.0 end door=open since 0.0", "2.0 start door=closed since 1.0", "2.0 state door=closed since 1.0"],
        ),
        ("another one that is too short does not", &[(0.3, 0.7), (0.9, 0.1)], &[]),
        (
            "unknown after the time for which it is held",
            &[(0.3, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3, 0.3)],
            &["3.0 end door=open since 0.0", "3.0 state door=? since 1.0 BelowThreshold"],
        ),
        ("a lead that is too small replaces nothing", &[(0.6, 0.7), (0.6, 0.7), (0.6, 0.79)], &[]),
        (
            "one that leads far replaces what is not released",
            &[(0.6, 0.7), (0.6, 0.7), (0.6, 0.81)],
            &["2.5 end door=open since 0.0", "2.5 start door=closed since 1.0", "2.5 state door=closed since 1.0"],
        ),
    ] {
        let found = told(&set(), &door(&[&opened, then].concat()));
        assert_eq!(found, [&[start, state], expected].concat(), "{what}");
    }
    let first = told(&set(), &door(&[(0.7, 0.8); 3]));
    assert_eq!(first, ["1.0 start door=closed since 0.0", "1.0 state door=closed since 0.0"], "the better one");
    let neither = told(&set(), &door(&[(0.5, 0.5); 9]));
    assert_eq!(neither, [""; 0], "unknown from the beginning is no change");
}

#[test]
fn a_lost_source_ends_everything_once() {
    let mut decider = Decider::new(set().rules(), at(0.0));
    let all = [(0, 0.9), (1, 0.9), (2, 0.1)];
    (0..3).for_each(|second| decider.frame(at(second.into()), all));
    decider.lose(at(3.0), Reason::SourceLost);
    let told: Vec<_> = decider.changes().iter().map(describe).collect();
    let expected = [
        "3.0 end cat since 0.0 SourceLost",
        "3.0 end door=open since 0.0 SourceLost",
        "3.0 state door=? since 3.0 SourceLost",
    ];
    assert_eq!(told, expected);
    let states: Vec<_> = decider.states(at(4.0)).collect();
    assert_eq!(states.len(), 1, "{states:?}");
    let State { label, last, reason, probability, .. } = &states[0];
    assert_eq!((label.as_deref(), last.as_deref(), *reason), (None, Some("open"), Some(Reason::SourceLost)));
    assert_eq!(*probability, None);
    decider.lose(at(5.0), Reason::SourceLost);
    assert_eq!(decider.changes(), []);
    // The first frame afterwards does not count for the time without frames.
    decider.frame(at(100.0), all);
    assert_eq!(decider.changes(), []);
    assert_eq!(decider.states(at(100.0)).next().and_then(|state| state.reason), Some(Reason::BelowThreshold));
    decider.frame(at(101.0), all);
    assert_eq!(decider.changes().len(), 3, "{:?}", decider.changes());
}

#[test]
fn figures_and_numbers_belong_to_one_presence() {
    let mut decider = Decider::new(set().rules(), at(0.0));
    let mut changes = Vec::new();
    // Present for one second each at 0.7, 0.9 and 0.8, then absent for two at 0.2.
    for (second, probability) in [0.0, 0.7, 0.9, 0.8, 0.2, 0.2, 0.0, 0.9].into_iter().enumerate() {
        decider.frame(at(second as f64), [(0, probability)]);
        changes.extend(decider.changes().to_vec());
    }
    let numbers: Vec<_> = changes.iter().map(|change| (change.kind, change.number)).collect();
    assert_eq!(numbers, [(ChangeKind::Start, 0), (ChangeKind::End, 0), (ChangeKind::Start, 1)]);
    let end = changes[1].figures.expect("the label's");
    assert_eq!((end.probability, end.peak), (0.2, 0.9));
    assert!((end.mean - (0.7 + 0.9 + 0.8 + 0.2 + 0.2) / 5.0).abs() < 1e-6, "{end:?}");
    assert_eq!(changes[1].at.since(changes[1].since), Duration::from_secs(5));
    assert_eq!(changes[1].since.unix_us, 1_000_000_000, "moments between frames have a time of day too");
    let start = changes[2].figures.expect("the label's");
    assert_eq!((start.probability, start.peak, start.mean), (0.9, 0.9, 0.9));
}

#[test]
fn smoothing_has_its_time_constant() {
    let rules = Set { smooth_s: 2.0, ..set() }.rules();
    for frames in [1, 10, 300] {
        let mut decider = Decider::new(Arc::clone(&rules), at(0.0));
        decider.frame(at(0.0), [(0, 0.0)]);
        // A step to 1 has come to 1 - 1/e after the time constant.
        (1..=frames).for_each(|frame| decider.frame(at(2.0 * f64::from(frame) / f64::from(frames)), [(0, 1.0)]));
        let value = decider.tracks[0].value();
        assert!((value - (1.0 - (-1.0_f64).exp())).abs() < 1e-9, "{frames} frames: {value}");
        let passed = decider.tracks[0].since(at(9.0)).elapsed.as_secs_f64();
        let expected = -2.0 * (1.0 - 0.6_f64).ln();
        assert!((passed - expected).abs() < 1e-6, "{frames} frames: passed at {passed}, not {expected}");
    }
}

#[test]
fn the_order_of_frames_is_that_of_their_times() {
    let mut decider = Decider::new(Set { smooth_s: 1.0, ..set() }.rules(), at(0.0));
    [(5.0, 0.9), (6.0, 0.9)].into_iter().for_each(|(second, value)| decider.frame(at(second), [(0, value)]));
    // One that comes late has no weight, and the next one counts from the newest.
    decider.frame(at(1.0), [(0, 0.0)]);
    assert!((decider.tracks[0].value() - 0.9).abs() < 1e-6);
    decider.frame(at(6.0), [(0, 0.0)]);
    assert!((decider.tracks[0].value() - 0.9).abs() < 1e-6);
}

#[test]
fn what_an_edit_does_not_touch_survives_it() {
    let begun = || {
        let mut decider = Decider::new(set().rules(), at(0.0));
        let all = [(0, 0.9), (1, 0.9), (2, 0.1)];
        (0..3).for_each(|second| decider.frame(at(second.into()), all));
        decider
    };
    let states = |decider: &Decider| -> Vec<_> {
        let name = |state: State| (state.label.map(|l| l.to_string()), state.since.elapsed.as_secs());
        decider.states(at(3.0)).map(name).collect()
    };
    let (open, cat) = ((Some("open".to_owned()), 0), (Some("cat".to_owned()), 0));
    let door_ended = ["3.0 end door=open since 0.0 LabelsChanged", "3.0 state door=? since 3.0 LabelsChanged"];
    let cat_ended = "3.0 end cat since 0.0 LabelsChanged";
    let edited = |edit: fn(&mut Set)| {
        let mut edited = set();
        edit(&mut edited);
        edited
    };
    for (what, edited, ended, kept) in [
        ("the same", set(), vec![], vec![open.clone(), cat.clone()]),
        (
            "more labels before and after",
            edited(|set| {
                set.lone.insert(0, label("dog"));
                set.questions.insert(0, ("gate", vec![label("open"), label("closed")]));
                set.questions[1].1.insert(0, label("ajar"));
            }),
            vec![],
            vec![(None, 3), open.clone(), cat.clone()],
        ),
        (
            "other limits",
            edited(|set| {
                set.lone[0].threshold = 0.95;
                set.questions[0].1[0].hold_s = 9.0;
                set.smooth_s = 3.0;
            }),
            vec![],
            vec![open.clone(), cat.clone()],
        ),
        ("other sentences", edited(|set| set.lone[0].meaning = 2), vec![cat_ended], vec![open.clone()]),
        ("without the label", edited(|set| set.lone.clear()), vec![cat_ended], vec![open.clone()]),
        (
            "other sentences of the answer",
            edited(|set| set.questions[0].1[0].meaning = 2),
            door_ended.to_vec(),
            vec![(None, 3), cat.clone()],
        ),
        ("without the question", edited(|set| set.questions.clear()), door_ended.to_vec(), vec![cat.clone()]),
        (
            "another name of the question",
            edited(|set| set.questions[0].0 = "gate"),
            door_ended.to_vec(),
            vec![(None, 3), cat.clone()],
        ),
    ] {
        let mut decider = begun();
        decider.adopt(edited.rules(), at(3.0));
        assert_eq!(decider.changes().iter().map(describe).collect::<Vec<_>>(), ended, "{what}");
        assert_eq!(states(&decider), kept, "{what}");
        // The new labels are the ones that frames are about now.
        let all: Vec<_> = decider.rules().labels.iter().enumerate().map(|(index, _)| (index, 0.5)).collect();
        decider.frame(at(3.0), all);
    }
}

#[test]
fn a_label_that_survives_an_edit_ends_under_its_number() {
    let mut decider = Decider::new(set().rules(), at(0.0));
    (0..3).for_each(|second| decider.frame(at(second.into()), [(0, 0.9)]));
    let number = decider.changes().first().map_or(0, |change| change.number);
    decider.adopt(Set { lone: vec![label("dog"), label("cat")], questions: vec![], smooth_s: 0.0 }.rules(), at(3.0));
    (3..9).for_each(|second| decider.frame(at(second.into()), [(0, 0.9), (1, 0.0)]));
    decider.lose(at(9.0), Reason::SourceLost);
    assert_eq!(describe(&decider.changes()[0]), "9.0 end dog since 3.0 SourceLost", "{number}");
    let mut decider = Decider::new(set().rules(), at(0.0));
    (0..2).for_each(|second| decider.frame(at(second.into()), [(0, 0.9)]));
    let started = decider.changes()[0].number;
    decider.adopt(Set { lone: vec![label("dog"), label("cat")], questions: vec![], smooth_s: 0.0 }.rules(), at(2.0));
    decider.lose(at(2.0), Reason::SourceLost);
    assert_eq!(
        (describe(&decider.changes()[0]).as_str(), decider.changes()[0].number),
        ("2.0 end cat since 0.0 SourceLost", started)
    );
}

/// A stream of probabilities that are constant for random times, as a function of time. The label and the question's first
/// label have one of three levels, none of which is a limit. The last ones last to the end, at 300 seconds.
struct Stream {
    steps: Vec<(f64, [f32; 3])>,
}

impl Stream {
    fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut random = move || {
            // xorshift64*, from a state that is not 0.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f64 / (1_u64 << 24) as f64
        };
        let (mut steps, mut time) = (Vec::new(), 0.0);
        while time < 280.0 {
            let mut level = || [0.02, 0.45, 0.98][(random() * 3.0) as usize];
            let (cat, open) = (level(), level());
            steps.push((time, [cat, open, 1.0 - open]));
            // Longer than it takes to settle, so that all rates see the same steps.
            time += 8.0 + 10.0 * random();
        }
        Self { steps }
    }

    /// The probabilities at a time.
    fn at(&self, seconds: f64) -> [f32; 3] {
        let after = self.steps.partition_point(|(time, _)| *time <= seconds);
        self.steps[after.max(1) - 1].1
    }

    /// Kinds and names of the changes with their times, of frames at `times`.
    fn changes(&self, rules: &Arc<Rules>, times: impl Iterator<Item = f64>) -> Vec<(String, f64)> {
        let mut decider = Decider::new(Arc::clone(rules), at(0.0));
        let mut changes = Vec::new();
        for seconds in times {
            decider.frame(at(seconds), self.at(seconds).into_iter().enumerate());
            changes.extend(decider.changes().iter().map(|change| {
                let (kind, question, label) = (change.kind, &change.question, &change.label);
                (format!("{kind:?} {question:?} {label:?}"), change.at.elapsed.as_secs_f64())
            }));
        }
        changes
    }
}

#[test]
fn events_do_not_depend_on_the_frame_rate() {
    let label = |name: &str| LabelRules {
        threshold: THRESHOLD,
        release: default_release(THRESHOLD),
        for_s: FOR_S,
        hold_s: HOLD_S,
        ..label(name)
    };
    let set = |smooth_s| {
        let questions = vec![("door", vec![label("open"), label("closed")])];
        Set { lone: vec![label("cat")], questions, smooth_s }
    };
    let times = |fps: f64| (0..(300.0 * fps) as u32).map(move |frame| f64::from(frame) / fps);
    // Of 5 frames a second, every third and a whole second now and then are dropped.
    let dropped = || (0..1500_u32).filter(|frame| frame % 3 != 1 && frame % 50 > 4).map(|frame| f64::from(frame) / 5.0);
    let gap_max = dropped().zip(dropped().skip(1)).map(|(a, b)| b - a).fold(0.0, f64::max);
    let mut compared = 0;
    for seed in 1..=40 {
        let (stream, rules) = (Stream::new(seed), set([SMOOTH_S, 0.3, 2.0][seed as usize % 3]).rules());
        // As close to continuous time as a test can afford.
        let exact = stream.changes(&rules, times(200.0));
        for (what, frame_s, found) in [
            ("30 frames/s", 1.0 / 30.0, stream.changes(&rules, times(30.0))),
            ("5 frames/s", 0.2, stream.changes(&rules, times(5.0))),
            ("1 frame/s", 1.0, stream.changes(&rules, times(1.0))),
            ("dropped frames", gap_max, stream.changes(&rules, dropped())),
        ] {
            // Those of label and question may change places.
            let of = |changes: &[(String, f64)], name: &str| -> Vec<(String, f64)> {
                changes.iter().filter(|(what, _)| what.contains(name)).cloned().collect()
            };
            for name in ["cat", "door"] {
                let (exact, found) = (of(&exact, name), of(&found, name));
                let kinds =
                    |changes: &[(String, f64)]| changes.iter().map(|(what, _)| what.clone()).collect::<Vec<_>>();
                assert_eq!(kinds(&found), kinds(&exact), "seed {seed}, {what}");
                for ((event, found), (_, exact)) in found.iter().zip(&exact) {
                    assert!(
                        (found - exact).abs() <= frame_s + 0.006,
                        "seed {seed}, {what}: {event} at {found}, not {exact}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 2000, "{compared} events");
}

#[test]
fn a_thousand_labels_in_two_hundred_questions_are_cheap() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut rules = Rules { smooth_s: 1.0, ..Rules::default() };
    for question in 0..200 {
        let labels = question * 5..question * 5 + 5;
        rules.labels.extend(NAMES.map(label));
        rules.questions.push(QuestionRules { name: question.to_string().into(), labels, smooth_s: 1.0 });
    }
    let mut decider = Decider::new(Arc::new(rules), at(0.0));
    let frames = 300;
    let started = Instant::now();
    let mut changes = 0;
    for frame in 0..frames {
        // The answer of every question changes every three seconds.
        let best = frame / 90 % 5;
        let probability = |label: usize| (label, if label % 5 == best { 0.9 } else { 0.025 });
        decider.frame(at(frame as f64 / 30.0), (0..1000).map(probability));
        changes += decider.changes().len();
    }
    let each = started.elapsed() / frames as u32;
    println!("1,000 labels in 200 questions: {each:?} a frame, {changes} changes");
    assert_eq!(changes, 200 * (2 + 3 + 3), "three answers, of which two end the one before");
    // 2 % of the frame of a camera; a slow machine takes a tenth of it.
    assert!(each < Duration::from_micros(600), "{each:?}");
}

#[test]
fn defaults_leave_room_between_the_limits() {
    for (threshold, expected) in [(0.6, 0.4), (0.9, 0.7), (0.2, 0.1), (0.1, 0.05), (0.001, 0.0005)] {
        let release = default_release(threshold);
        assert!((release - expected).abs() < 1e-6 && release > 0.0, "{threshold}: {release}");
    }
}

/// A view that is neither dark nor covered nor blurred.
const CLEAR: View = View { brightest: 200.0, step: 90.0, sharpness: 0.5, digest: 0 };

const DARK: View = View { brightest: 5.0, ..CLEAR };

#[test]
fn nothing_is_judged_while_the_view_shows_nothing() {
    let covered = View { step: 2.0, ..CLEAR };
    let blurred = View { sharpness: 0.1, ..CLEAR };
    let all = ViewRules::default();
    let no_dark = ViewRules { dark: false, ..all };
    let no_other = ViewRules { covered: false, blurred: false, ..all };
    let (clear, c, b) = (CLEAR, covered, blurred);
    for (what, rules, views, expected) in [
        ("a flash changes nothing", all, &[clear, clear, DARK, clear, DARK, clear][..], "++-+-+"),
        ("dark after a second", all, &[clear, DARK, DARK, DARK, DARK], "+--dd"),
        ("from the first frame on", all, &[DARK, DARK, DARK], "--d"),
        ("clear after a second", all, &[DARK, DARK, DARK, clear, clear, clear, clear], "--ddd++"),
        ("a glimpse is not enough", all, &[DARK, DARK, DARK, clear, clear, DARK, clear, clear], "--dddddd"),
        ("another reason after a second", all, &[c, c, c, b, b, b, b], "--cccbb"),
        ("a night that is to be judged", no_dark, &[DARK, DARK, DARK, DARK], "++++"),
        ("what else is to be judged", no_other, &[c, c, c, c, b, b, b, b], "++++++++"),
    ] {
        let rules = Arc::new(Rules { view: rules, ..(*set().rules()).clone() });
        let mut decider = Decider::new(rules, at(0.0));
        let mut found = String::new();
        for (index, view) in views.iter().enumerate() {
            let counts = decider.look(at(index as f64 / 2.0), &View { digest: index as u64, ..*view });
            found.push(match (counts, decider.blind()) {
                (true, None) => '+',
                (false, None) => '-',
                (false, Some(Reason::Dark)) => 'd',
                (false, Some(Reason::Covered)) => 'c',
                (false, Some(Reason::Blurred)) => 'b',
                other => panic!("{what}: {other:?}"),
            });
        }
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn an_image_that_never_changes_is_frozen() {
    for (frozen_s, digests, expected) in [
        (2.0, [1, 1, 1, 1, 1, 1, 2, 3, 4], "++++ff  +"),
        (2.0, [1, 1, 1, 2, 2, 2, 2, 2, 2], "+++++++ff"),
        (2.0, [1, 2, 1, 2, 1, 2, 1, 2, 1], "+++++++++"),
        (0.0, [1; 9], "+++++++++"),
    ] {
        let view = ViewRules { frozen_s, ..ViewRules::default() };
        let mut decider = Decider::new(Arc::new(Rules { view, ..(*set().rules()).clone() }), at(0.0));
        let mut found = String::new();
        for (index, digest) in digests.into_iter().enumerate() {
            let counts = decider.look(at(index as f64 / 2.0), &View { digest, ..CLEAR });
            found.push(if counts { '+' } else { 'f' });
            assert_eq!(decider.blind(), (!counts).then_some(Reason::Frozen), "{frozen_s}, {digests:?}: {found}");
        }
        assert_eq!(found, expected.replace(' ', "f"), "{frozen_s}, {digests:?}");
    }
}

#[test]
fn a_view_that_shows_nothing_ends_what_was_there() {
    let mut decider = Decider::new(set().rules(), at(0.0));
    let mut told = Vec::new();
    for index in 0..14 {
        let (now, view) = (at(f64::from(index) / 2.0), if (4..8).contains(&index) { DARK } else { CLEAR });
        let counts = decider.look(now, &View { digest: index as u64, ..view });
        told.extend(decider.changes().iter().map(describe));
        if counts {
            decider.frame(now, [(0, 0.9), (1, 0.9), (2, 0.1)]);
            told.extend(decider.changes().iter().map(describe));
        }
        if index == 7 {
            let unknown = decider.states(now).next().expect("the question");
            assert_eq!((unknown.label, unknown.reason), (None, Some(Reason::Dark)));
        }
    }
    let expected = [
        "1.0 start cat since 0.0",
        "1.0 start door=open since 0.0",
        "1.0 state door=open since 0.0",
        "3.0 end cat since 0.0 Dark",
        "3.0 end door=open since 0.0 Dark",
        "3.0 state door=? since 3.0 Dark",
        // Clear since 4.0, believed from 5.0 on.
        "6.0 start cat since 5.0",
        "6.0 start door=open since 5.0",
        "6.0 state door=open since 5.0",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_lost_source_is_looked_at_anew() {
    let mut decider = Decider::new(set().rules(), at(0.0));
    for index in 0..3 {
        decider.look(at(f64::from(index)), &View { digest: index as u64, ..DARK });
    }
    assert_eq!(decider.blind(), Some(Reason::Dark));
    decider.lose(at(3.0), Reason::SourceLost);
    assert!(decider.blind().is_none() && decider.look(at(4.0), &CLEAR));
}
