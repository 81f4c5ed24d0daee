//! JPEGs of every kind against Pillow; `tests/reference/make_jpegs.py` made the goldens.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;

use spotter_engine::hash::{hex, sha256};
use spotter_engine::picture::{DecodeError, JpegDecoder, MAX_PIXELS, Picture, decode};

/// Width, height and SHA-256 of the RGB bytes.
pub(crate) type Pixels = (usize, usize, String);

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/jpegs").join(name);
    std::fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn pixels(picture: &Picture) -> Pixels {
    (picture.width, picture.height, hex(&sha256(&picture.rgb)))
}

/// The payload of the first segment with this marker.
fn payload(jpeg: &[u8], marker: u8) -> std::ops::Range<usize> {
    let mut at = 2;
    loop {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] == marker {
            return at + 4..end;
        }
        assert_ne!(jpeg[at + 1], 0xda, "no marker {marker:#x}");
        at = end;
    }
}

#[test]
fn every_kind_of_jpeg_gives_the_pixels_that_pillow_reads() {
    let golden: BTreeMap<String, Pixels> = serde_json::from_slice(&file("pixels.json")).expect("goldens");
    assert!(golden.len() > 100, "{} goldens", golden.len());
    let mut live = (JpegDecoder::new(), Picture::default());
    let mut wrong = Vec::new();
    for (name, expected) in &golden {
        let bytes = file(name);
        let alone = decode(&bytes).map(|picture| pixels(&picture));
        let with_buffers = live.0.decode_into(&bytes, &mut live.1).map(|()| pixels(&live.1));
        for (way, found) in [("alone", alone), ("with buffers of others", with_buffers)] {
            if !matches!(&found, Ok(found) if found == expected) {
                wrong.push(format!("{name}, {way}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "other pixels than Pillow's: {wrong:#?}");
}

#[test]
fn jpegs_that_are_not_decoded_are_refused_with_the_reason() {
    let good = file("420-plain.jpg");
    let (frame, tables) = (payload(&good, 0xc0), payload(&good, 0xdb));
    let changed = |at: usize, bytes: &[u8]| {
        let mut jpeg = good.clone();
        jpeg[at..at + bytes.len()].copy_from_slice(bytes);
        jpeg
    };
    let check = |what: &str, jpeg: Vec<u8>, expected: &str| {
        let error = decode(&jpeg).expect_err(what);
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        assert!(reason.contains(expected), "{what}: {reason:?} lacks {expected:?}");
    };
    let marker = frame.start - 3;
    check("lossless", changed(marker, &[0xc3]), "lossless JPEG: expected baseline");
    check("arithmetic coding", changed(marker, &[0xc9]), "sequential with arithmetic coding");
    check("progressive, arithmetic coding", changed(marker, &[0xca]), "progressive with arithmetic coding");
    check("hierarchical", changed(marker, &[0xc5]), "hierarchical");
    check("12 bits", changed(frame.start, &[12]), "12 bits a sample: expected 8");
    check("no height", changed(frame.start + 1, &[0, 0]), "without a height");
    check("no width", changed(frame.start + 3, &[0, 0]), "0 x 27 pixels");
    check("two components", changed(frame.start + 5, &[2]), "2 components");
    check(
        "sampling factors that do not divide",
        changed(frame.start + 7, &[0x32, 0, 2, 0x21]),
        "sampling factors 2 x 1",
    );
    check("a sampling factor of 0", changed(frame.start + 7, &[0x02]), "sampling factors 0 x 2");
    check("too large an MCU", changed(frame.start + 7, &[0x44]), "more than 10 blocks");
    check("missing quantisation table", changed(frame.start + 8, &[3]), "quantisation table 3 is missing");
    check("quantisation table 5", changed(tables.start, &[5]), "malformed segment after the marker 0xdb");
    check("a second frame", [&good[..frame.end], &good[frame.start - 4..]].concat(), "marker 0xc0");
    check("end before the scan", [&good[..frame.end], &[0xff, 0xd9]].concat(), "no image");
}

#[test]
fn sizes_are_refused_before_pixels_are_allocated() {
    for name in ["420-plain.jpg", "420-progressive.jpg", "l.jpg", "cmyk-progressive.jpg"] {
        let mut jpeg = file(name);
        let marker = if name.contains("progressive") { 0xc2 } else { 0xc0 };
        let frame = payload(&jpeg, marker);
        jpeg[frame.start + 1..frame.start + 5].fill(0xff);
        let error = decode(&jpeg).expect_err(name);
        assert!(matches!(error, DecodeError::Size { width: 65_535, height: 65_535 }), "{name}: {error:?}");
        assert!(error.to_string().contains(&MAX_PIXELS.to_string()), "{name}: {error}");
    }
}

#[test]
fn a_jpeg_that_ends_early_is_refused_wherever_it_ends() {
    for name in ["420-plain.jpg", "420-progressive.jpg", "restart-1.jpg", "factors-410-apart.jpg", "cmyk.jpg"] {
        let jpeg = file(name);
        for length in 2..jpeg.len() {
            let result = decode(&jpeg[..length]);
            let is_refused = matches!(result, Err(DecodeError::Truncated { found_bytes }) if found_bytes == length);
            assert!(is_refused, "{name}: {length} of {} bytes", jpeg.len());
        }
    }
}
