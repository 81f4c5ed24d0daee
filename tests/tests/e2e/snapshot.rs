//! `spotter snapshot`, and what `spotter run` reports about unusable frames.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::File;

use spotter::source::{Uri, draw_shapes};

use crate::harness::{Place, drawn, events, finish, lines};

const SOURCE: &str = "test://shapes?seed=3&fps=0&hold=1&size=128x96&frames=12";

#[test]
fn a_snapshot_is_the_frame_after_those_that_are_skipped() {
    let place = Place::new();
    let Ok(Uri::Shapes(options)) = SOURCE.parse() else { panic!("{SOURCE} is a source of drawn shapes") };
    for (skip, file, frame, start) in
        [("--skip 0", "a.png", 0, &b"\x89PNG"[..]), ("--skip 5", "b.ppm", 5, b"P6\n"), ("", "c.bmp", 0, b"BM")]
    {
        let done = finish(place.spotter(&format!("snapshot {skip} {file} --source")).arg(SOURCE));
        assert_eq!(done.code, Some(0), "{file}: {}", done.stderr);
        assert!(done.stdout.starts_with(&format!("{file}: 128 x 96 pixels of test://shapes")), "{}", done.stdout);
        let mut expected = Vec::new();
        draw_shapes(&options, frame, &mut expected);
        let content = std::fs::read(place.at(file)).unwrap();
        assert!(content.starts_with(start), "{file}: {:?}", &content[..4]);
        assert!(image::open(place.at(file)).unwrap().to_rgb8().into_raw() == expected, "{file}: other pixels");
    }
}

#[test]
fn a_failed_snapshot_leaves_no_file() {
    let place = Place::new();
    place.write("x.jpg", "no picture");
    place.write("readonly", "a file, not a folder");
    for (arguments, expected) in [
        ("--source test://shapes a.txt", "a.txt: expected a name that ends in .png, .jpg or .ppm"),
        ("--source test://shapes?frames=3&fps=0 --skip 3 a.png", "ended before there was an image"),
        ("--source /dev/video99 a.png", "/dev/video99: not found"),
        ("--source x.jpg a.png", "x.jpg: cannot decode"),
        ("--source test://shapes --skip 0 readonly/a.png", "readonly/a.png: cannot write"),
    ] {
        let done = finish(&mut place.spotter(&format!("snapshot {arguments}")));
        assert_eq!(done.code, Some(1), "{arguments}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{arguments}: {}", done.stderr);
        assert!(!place.at("a.png").exists() && !place.at("a.txt").exists(), "{arguments}");
    }
}

#[test]
fn frames_that_cannot_be_decoded_are_reported_in_the_output() {
    let place = Place::new();
    let mut good = Vec::new();
    drawn(1).write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut good, 90)).unwrap();
    // Complete by its markers, but its frame header promises a size of 0.
    let mut bad = good.clone();
    let header = bad.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bad[header + 5..header + 9].fill(0);
    let stream = place.write("stream.mjpeg", [&good[..], &bad, &bad, &good].concat());
    e2e::in_time("two broken frames within seconds", |_| {
        let done = finish(place.spotter("run --source - --output json").stdin(File::open(&stream).unwrap()));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(lines(&done).iter().map(|line| line.frame.unwrap()).collect::<Vec<_>>(), [0, 3]);
        let events = events(&done);
        assert!(events.iter().all(|event| event.event == "frames_skipped" && event.time.ends_with('Z')), "{events:?}");
        assert!(events[0].message.contains("cannot decode the MJPEG frame 1"), "{events:?}");
        if events.len() == 1 { Ok(()) } else { Err("the second was told too".to_owned()) }
    });
}
