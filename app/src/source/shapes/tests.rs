use std::collections::HashSet;

use super::*;

fn options(change: impl FnOnce(&mut ShapesOptions)) -> ShapesOptions {
    let mut options = ShapesOptions { fps: 0, width: 160, height: 120, ..ShapesOptions::default() };
    change(&mut options);
    options
}

fn frame(options: &ShapesOptions, number: u64) -> (String, Vec<u8>) {
    let mut rgb = vec![77; 10];
    let truth = draw(options, number, &mut rgb);
    assert_eq!(rgb.len(), options.width * options.height * 3);
    (truth, rgb)
}

#[test]
fn the_same_seed_and_number_give_the_same_image() {
    let a = options(|o| o.seed = 3);
    assert_eq!(frame(&a, 100), frame(&a, 100));
    assert_ne!(frame(&a, 100).1, frame(&a, 101).1, "it moves");
    assert_eq!(frame(&a, 100).0, frame(&a, 119).0, "one object for 30 frames");
    assert_ne!(frame(&a, 100).1, frame(&options(|o| o.seed = 4), 100).1);
}

#[test]
fn no_combination_repeats_before_all_were_drawn() {
    let options = options(|o| o.hold = 1);
    for round in 0..3 {
        let truths: HashSet<_> = (0..48).map(|i| frame(&options, round * 48 + i).0).collect();
        assert_eq!(truths.len(), 48);
    }
}

#[test]
fn objects_are_inside_and_keep_their_size() {
    for (width, height) in [(640, 480), (480, 640), (16, 16), (4096, 16), (641, 479)] {
        for number in 0..500 {
            let options = options(|o| (o.width, o.height, o.hold) = (width, height, 5));
            let corners = Scene::new(&options, number).outline();
            let (w, h) = (width as f32, height as f32);
            for (x, y) in &corners {
                assert!((-0.01..=w + 0.01).contains(x) && (-0.01..=h + 0.01).contains(y), "{number}: {x},{y}");
            }
            let across = |side: fn(&(f32, f32)) -> f32| {
                let values = corners.iter().map(side);
                values.clone().fold(f32::MIN, f32::max) - values.fold(f32::MAX, f32::min)
            };
            let small = w.min(h);
            assert!(across(|c| c.0) > 0.2 * small && across(|c| c.1) < 1.0 * small);
        }
    }
}

#[test]
fn a_white_circle_is_white_and_round() {
    let options = options(|o| (o.hold, o.width, o.height) = (1, 640, 480));
    let number = (0..48).find(|n| Scene::new(&options, *n).shape.to_string() == "circle").unwrap();
    let scene = Scene::new(&options, number);
    let (_, rgb) = frame(&options, number);
    let inside = rgb.chunks(3).filter(|pixel| **pixel == scene.rgb).count() as f32;
    let corners = scene.outline();
    let diameter =
        corners.iter().map(|c| c.0).fold(f32::MIN, f32::max) - corners.iter().map(|c| c.0).fold(f32::MAX, f32::min);
    let expected = std::f32::consts::PI * diameter * diameter / 4.0;
    assert!((inside / expected - 1.0).abs() < 0.03, "{inside} {expected}");
}

#[test]
fn the_source_ends_after_its_frames() {
    let mut source = Shapes::new(options(|o| o.frames = Some(3)));
    let (mut frame, stop, mut truths) = (Frame::default(), Stop::new(), Vec::new());
    while source.next(&mut frame, &stop).unwrap() {
        assert_eq!((frame.format, frame.width, frame.height, frame.stride), (PixelFormat::Rgb24, 160, 120, 480));
        truths.push(frame.truth.take().unwrap());
    }
    assert_eq!(truths.len(), 3);
    assert!(!source.is_live());
}

#[test]
fn the_source_keeps_its_rate_and_can_be_stopped() {
    // The first frame is due when the source is made.
    let start = Instant::now();
    let mut source = Shapes::new(options(|o| o.fps = 100));
    let (mut frame, stop) = (Frame::default(), Stop::new());
    for _ in 0..11 {
        assert!(source.next(&mut frame, &stop).unwrap());
    }
    assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
    assert!(source.is_live());
    stop.set();
    assert!(!source.next(&mut frame, &stop).unwrap());
}
