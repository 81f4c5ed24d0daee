//! The drawn shapes, classified by the program and by transformers; `tests/reference/make_accuracy.py` made the golden.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde::Deserialize;
use spotter::source::{Uri, draw_shapes};
use spotter_engine::hash::Hasher;

use crate::harness::{Place, check_labels, finish, lines};

const SOURCE: &str = "test://shapes?seed=7&fps=0&hold=1&frames=300";
/// Accuracy in percent that is enough whatever the reference says.
const RIGHT_ENOUGH: f64 = 85.0;
/// Percentage points below the reference that are accepted otherwise, where the model itself is weak.
const BELOW_REFERENCE_MAX: f64 = 2.0;

#[derive(Deserialize)]
struct Golden {
    sha256: String,
    right: usize,
    frames: Vec<GoldenFrame>,
}

#[derive(Deserialize)]
struct GoldenFrame {
    truth: String,
    predicted: String,
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(e2e::root().join("tests/golden/shapes.json")).unwrap()).unwrap()
}

/// On other machines sine and cosine may be rounded differently, and with them a pixel on an edge.
#[cfg_attr(
    not(target_arch = "x86_64"),
    ignore = "pixels on edges may be drawn otherwise, as sine and cosine are rounded"
)]
#[test]
fn the_golden_is_of_the_frames_that_are_drawn() {
    let Ok(Uri::Shapes(options)) = SOURCE.parse() else { panic!("{SOURCE} is a source of drawn shapes") };
    let (mut rgb, mut hasher) = (Vec::new(), Hasher::new());
    for number in 0..options.frames.unwrap() {
        draw_shapes(&options, number, &mut rgb);
        hasher.update(&rgb);
    }
    assert_eq!(hasher.finish_hex(), golden().sha256, "other images are drawn now: regenerate tests/golden/shapes.json");
}

#[test]
fn shapes_are_classified_as_well_as_by_the_reference() {
    let place = Place::new();
    let golden = golden();
    let done = finish(place.spotter("run --output json --source").arg(SOURCE));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let lines = lines(&done);
    assert_eq!(lines.len(), golden.frames.len(), "{}", done.stderr);
    let (mut right, mut agreed) = (0, 0);
    for (index, (line, expected)) in lines.iter().zip(&golden.frames).enumerate() {
        check_labels(line, 5);
        assert_eq!((line.frame, line.dropped), (Some(index as u64), Some(0)));
        assert_eq!(line.truth.as_ref(), Some(&expected.truth), "frame {index}");
        right += usize::from(line.labels[0].name == expected.truth);
        agreed += usize::from(line.labels[0].name == expected.predicted);
    }
    let percent = |part: usize| 100.0 * part as f64 / lines.len() as f64;
    let (found, reference) = (percent(right), percent(golden.right));
    println!(
        "{} drawn frames, 48 labels: right {found:.1} %, transformers {reference:.1} %, the same best label {:.1} %",
        lines.len(),
        percent(agreed)
    );
    let enough = found >= RIGHT_ENOUGH || found >= reference - BELOW_REFERENCE_MAX;
    assert!(enough, "right {found:.1} %, transformers {reference:.1} %");
}
