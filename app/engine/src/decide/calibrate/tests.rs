use std::time::Duration;

use super::super::{FOR_S, HOLD_S, QuestionRules, SMOOTH_S, THRESHOLD};
use super::*;

fn at(seconds: f64) -> Moment {
    let elapsed = Duration::from_secs_f64(seconds);
    Moment { elapsed, unix_us: elapsed.as_micros() as i64 }
}

fn label(name: &str) -> LabelRules {
    let release = default_release(THRESHOLD);
    LabelRules { name: name.into(), meaning: 1, threshold: THRESHOLD, release, for_s: FOR_S, hold_s: HOLD_S }
}

fn lone(names: &[&str]) -> Rules {
    Rules { smooth_s: SMOOTH_S, labels: names.iter().map(|name| label(name)).collect(), ..Rules::default() }
}

/// A number between 0 and 1 (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Probabilities of labels while nothing happens: each has bursts of four to eight seconds at random times, `often[label]` an
/// hour, whose log-odds are exponential above `floor`; all else is 0.05.
fn scene(seed: u64, hours: f64, fps: f64, often: &[f64], floor: f64, mut frame: impl FnMut(f64, &[f32])) {
    let mut random = Random(seed);
    let mut bursts = vec![(0.0_f64, 0.05_f32); often.len()];
    let mut probabilities = vec![0.05; often.len()];
    for number in 0..(hours * 3600.0 * fps) as u64 {
        let seconds = number as f64 / fps;
        for ((burst, probability), often) in bursts.iter_mut().zip(&mut probabilities).zip(often) {
            if seconds >= burst.0 && random.next() < often / (3600.0 * fps) {
                let height = floor - 0.7 * random.next().max(1e-12).ln();
                *burst = (seconds + 4.0 + 4.0 * random.next(), probability_of(height) as f32);
            }
            *probability = if seconds < burst.0 { burst.1 } else { 0.05 };
        }
        frame(seconds, &probabilities);
    }
}

/// What was fitted to some hours, and how many false alarms a day there are then in others.
fn fitted(rules: &Arc<Rules>, seed: u64, hours: (f64, f64), often: &[f64], per_day: f64) -> (Fitted, f64) {
    let mut watch = Watch::new(rules, at(0.0));
    let labels = |values: &[f32]| values.iter().copied().enumerate().collect::<Vec<_>>();
    scene(seed, hours.0, 2.0, often, -1.0, |seconds, values| watch.frame(at(seconds), labels(values)));
    let fitted = watch.fit(per_day, &vec![false; often.len()]);
    let mut calibrated = (**rules).clone();
    for (label, fit) in calibrated.labels.iter_mut().zip(&fitted.labels) {
        (label.threshold, label.release) = (fit.threshold, default_release(fit.threshold));
    }
    let mut decider = Decider::new(Arc::new(calibrated), at(0.0));
    let mut starts = 0;
    scene(seed + 1, hours.1, 2.0, often, -1.0, |seconds, values| {
        decider.frame(at(seconds), labels(values));
        starts += decider.changes().iter().filter(|change| change.kind == ChangeKind::Start).count();
    });
    (fitted, starts as f64 / hours.1 * 24.0)
}

#[test]
fn other_hours_have_the_wanted_false_alarms() {
    let rules = Arc::new(lone(&["cat", "dog", "parcel"]));
    for (what, per_day, hours, kind) in [
        ("counted", 480.0, 4.0, FitKind::Counted),
        ("counted", 144.0, 8.0, FitKind::Counted),
        ("continued", 24.0, 8.0, FitKind::Continued),
    ] {
        let (mut sum, seeds) = (0.0, 4);
        for seed in 1..=seeds {
            let (fitted, found) = fitted(&rules, seed * 1000, (hours, 24.0), &[40.0, 20.0, 10.0], per_day);
            assert!((fitted.after_per_day - per_day).abs() < per_day * 0.01, "{what}: {fitted:?}");
            assert!(fitted.labels.iter().any(|fit| fit.kind == kind), "{what}: {fitted:?}");
            let (fewest, most) = fitted.range_per_day;
            assert!(fewest < per_day && per_day < most, "{what}: {fitted:?}");
            sum += found;
        }
        let found = sum / seeds as f64;
        println!("{what}: {per_day} a day wanted, {found:.1} found");
        assert!((found / per_day - 1.0).abs() < 0.35, "{what}: {found} a day, {per_day} wanted");
    }
}

#[test]
fn what_is_not_a_false_alarm_is_not_fitted() {
    let mut rules = lone(&["given", "never", "always"]);
    rules.labels.extend([label("closed"), label("open")]);
    rules.questions.push(QuestionRules { name: "door".into(), labels: 3..5, smooth_s: SMOOTH_S });
    let mut watch = Watch::new(&Arc::new(rules), at(0.0));
    for second in 0..1200_u32 {
        // The door is closed, but for ten seconds in two minutes, in which it looks open.
        let open = if second % 120 < 10 { 0.85 } else { 0.1 };
        let all = [open, 0.2, 0.7, 1.0 - open, open].into_iter().enumerate();
        watch.frame(at(second.into()), all);
    }
    assert_eq!((watch.frames(), watch.seconds()), (1200, 1199.0));
    let fitted = watch.fit(24.0, &[true, false, false, false, false]);
    let kinds: Vec<_> = fitted.labels.iter().map(|fit| fit.kind).collect();
    let [given, never, always, closed, open] = kinds[..] else { panic!("{fitted:?}") };
    assert_eq!((given, never, closed), (FitKind::Given, FitKind::Silent, FitKind::Usual));
    assert_eq!((fitted.labels[0].threshold, fitted.labels[3].threshold), (THRESHOLD, THRESHOLD));
    assert_eq!(fitted.labels[1].threshold, FITTED_MIN);
    // One start in twenty minutes is 72 a day, and too much; so are the ten of the door.
    assert_eq!((always, open), (FitKind::Continued, FitKind::Continued), "{fitted:?}");
    for fit in [fitted.labels[2], fitted.labels[4]] {
        assert!(fit.threshold > THRESHOLD && fit.before_per_day > fit.after_per_day, "{fit:?}");
    }
    assert!((fitted.promise_per_day - 3.0 * DAY_S / 1199.0).abs() < 3.0, "{fitted:?}");
}

#[test]
fn a_gap_is_no_alarm() {
    let mut watch = Watch::new(&Arc::new(lone(&["cat"])), at(0.0));
    for second in 0..100_u32 {
        watch.frame(at(second.into()), [(0, if second < 50 { 0.1 } else { 0.3 })]);
        if second == 50 {
            watch.lose(at(50.0));
        }
    }
    assert_eq!(watch.seconds(), 98.0, "the gap is not watched");
    let fitted = watch.fit(1.0, &[false]);
    assert_eq!((fitted.before_per_day, fitted.after_per_day), (0.0, 0.0), "{fitted:?}");
    assert_eq!(watch.per_day(0, 0.6), 0.0);
}

#[test]
fn bounds_are_those_of_poisson() {
    // Exact: half of the chi-squared distribution's quantiles.
    for (count, fewest, most) in [(0.0, 0.0, 2.996), (1.0, 0.051, 4.744), (10.0, 5.425, 16.962), (100.0, 84.14, 118.1)]
    {
        let (low, high) = bounds(count);
        assert!((low - fewest).abs() < 0.02 * fewest + 0.03, "{count}: {low}, not {fewest}");
        assert!((high - most).abs() < 0.02 * most, "{count}: {high}, not {most}");
    }
}

#[test]
fn a_thousand_labels_are_watched_at_camera_rate() {
    let names: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut watch = Watch::new(&Arc::new(lone(&names)), at(0.0));
    let begun = std::time::Instant::now();
    for frame in 0..60 {
        watch.frame(at(f64::from(frame) / 30.0), (0..1000).map(|label| (label, (label % 100) as f32 / 100.0)));
    }
    let each = begun.elapsed() / 60;
    println!("{each:?} a frame");
    assert!(each < Duration::from_millis(30), "{each:?}");
}
