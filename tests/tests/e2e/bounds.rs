//! What is read takes memory within the budget, and time that grows no faster than its bytes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};
use spotter::source::split_jpegs;
use spotter_engine::bundle::{self, Bundle, Contents, Weights};
use spotter_engine::picture::{MAX_BYTES, decode};

use crate::bad_inputs::png_of;
use crate::harness::{Done, Place, finish, lines, with_ulimit};
use crate::towers::exported;

/// What the program, its libraries, the stacks of its threads and the demo model take of addresses, most of which are never
/// used.
const PROGRAM_KB: u64 = 400_000;

/// `spotter`, which can have no more addresses than this; with more it is aborted.
fn limited(place: &Place, arguments: &str, memory_kb: u64) -> Done {
    // Each heap would reserve 64 MiB.
    let done = finish(with_ulimit('v', memory_kb, &place.spotter(arguments)).env("MALLOC_ARENA_MAX", "1"));
    assert!(!done.stderr.contains("memory allocation"), "{arguments}: {}", done.stderr);
    done
}

fn encoded(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn pictures_take_no_more_memory_than_the_budget() {
    struct Case {
        what: &'static str,
        make: fn() -> Vec<u8>,
        /// What is said where it is refused.
        refused: Option<&'static str>,
    }
    let cases = [
        Case { what: "a strip", make: || png_of(89_478_485, 1), refused: Some("sides of 1 to 65535") },
        Case { what: "a square", make: || png_of(9459, 9459), refused: Some("at most 67108864 pixels") },
        Case {
            what: "as many pixels as a large camera has, in grey",
            make: || encoded(DynamicImage::new_luma8(9504, 6336), ImageFormat::Png),
            refused: None,
        },
        Case {
            what: "16 bits a channel",
            make: || encoded(DynamicImage::new_rgb16(6000, 4000), ImageFormat::Png),
            refused: None,
        },
        Case {
            what: "16 bits a channel, and more than fits",
            make: || encoded(DynamicImage::new_rgba16(7000, 4000), ImageFormat::Png),
            refused: Some("expected at most 268435456"),
        },
        Case {
            what: "a large file",
            make: || encoded(DynamicImage::new_rgb8(6400, 6400), ImageFormat::Bmp),
            refused: None,
        },
    ];
    // qemu reserves the addresses of a whole machine.
    if e2e::emulated() {
        return;
    }
    for Case { what, make, refused } in cases {
        let place = Place::new();
        place.write("x.png", make());
        place.write("spotter.toml", "[inference]\nthreads = 1\n");
        let done = limited(&place, "classify --json --config spotter.toml x.png", MAX_BYTES / 1024 + PROGRAM_KB);
        match refused {
            None => assert_eq!((done.code, lines(&done).len()), (Some(0), 1), "{what}: {}", done.stderr),
            Some(part) => {
                assert_eq!(done.code, Some(1), "{what}: {}", done.stderr);
                assert!(done.stderr.contains(part), "{what}: {}", done.stderr);
            }
        }
    }
}

#[test]
fn bundles_made_to_do_harm_take_little_memory() {
    const MEMORY_KB: u64 = 1_000_000;
    struct Case {
        what: &'static str,
        change: fn(&Path),
        expected: &'static str,
    }
    fn set_length(folder: &Path, length: u64) {
        let path = folder.join("bundle.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        manifest["tokenizer"]["max_length"] = json!(length);
        fs::write(path, manifest.to_string()).unwrap();
    }
    fn sparse(path: &Path) {
        File::create(path).unwrap().set_len(4 << 30).unwrap();
    }
    let cases = [
        Case { what: "10^5 tokens", change: |folder| set_length(folder, 100_000), expected: "2 to 4096" },
        Case { what: "10^12 tokens", change: |folder| set_length(folder, 1_000_000_000_000), expected: "2 to 4096" },
        Case { what: "2^63 tokens", change: |folder| set_length(folder, 1 << 63), expected: "2 to 4096" },
        Case {
            what: "more tokens than positions",
            change: |folder| set_length(folder, 4096),
            expected: "in the position table",
        },
        Case {
            what: "a manifest of 4 GB",
            change: |folder| sparse(&folder.join("bundle.json")),
            expected: "expected at most",
        },
        Case {
            what: "a tower of 4 GB",
            change: |folder| sparse(&folder.join("vision.onnx")),
            expected: "vision.onnx: size",
        },
        Case { what: "a tokenizer that multiplies", change: multiply, expected: "normalised it may have" },
    ];
    if e2e::emulated() {
        return;
    }
    for Case { what, change, expected } in cases {
        let (_guard, bundle) = exported(&e2e::root().join("tests/golden/tiny/checkpoint"), Weights::F32);
        change(&bundle);
        let place = Place::new();
        place.picture("x.png", 1);
        place.labels("labels.toml", &["red circle"]);
        let arguments = format!("classify --json --labels labels.toml x.png --bundle {}", bundle.display());
        let done = limited(&place, &arguments, MEMORY_KB);
        assert_eq!(done.code, Some(1), "{what}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(expected), "{what}: {}", done.stderr);
    }
}

/// Each of its steps makes a hundred letters of one.
fn multiply(folder: &Path) {
    let sound = Bundle::open(folder).unwrap();
    let manifest = sound.manifest().clone();
    let files = [&manifest.vision.file, &manifest.text.file, &manifest.model_card];
    let [vision, text, model_card] = files.map(|file| sound.read(file).unwrap());
    let mut tokenizer: Value = serde_json::from_slice(&sound.read(&manifest.tokenizer.file).unwrap()).unwrap();
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(100)});
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![step; 8]});
    let tokenizer = tokenizer.to_string().into_bytes();
    let contents = Contents { vision: &vision, text: &text, tokenizer: &tokenizer, model_card: &model_card };
    bundle::write(folder, manifest.clone(), &contents).unwrap();
}

/// The least time that `work` took in a few tries.
fn time(mut work: impl FnMut()) -> Duration {
    let once = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..3).map(once).min().unwrap()
}

/// Checks that `work` on the larger of two inputs takes no more than four times as long as on the smaller one, repeated until
/// it has as many bytes: what else runs here then slows down both. What grows with the square takes 16 times as long.
fn check_growth(what: &str, small: &[u8], large: &[u8], work: impl Fn(&[u8])) {
    const TOLERANCE: f64 = 4.0;
    let repeats = large.len().div_ceil(small.len());
    e2e::in_time(what, |_| {
        let (before, after) = (time(|| (0..repeats).for_each(|_| work(small))), time(|| work(large)));
        let growth = after.as_secs_f64() / before.as_secs_f64().max(1e-6);
        println!("{what}: {growth:.2} times as long as {repeats} pieces ({after:.1?})");
        if growth < TOLERANCE { Ok(()) } else { Err(format!("{growth:.2} times as long as {repeats} pieces")) }
    });
}

/// A GIF of codes of one byte each: the table of codes is cleared before it needs more.
fn gif(side: u16) -> Vec<u8> {
    const CLEAR: u8 = 128;
    let [low, high] = side.to_le_bytes();
    let mut gif = [&b"GIF89a"[..], &[low, high, low, high, 0xF6, 0, 0], &[0x7F; 3 * 128]].concat();
    gif.extend([0x2C, 0, 0, 0, 0, low, high, low, high, 0, 7]);
    let pixels: Vec<u8> = (0..u32::from(side).pow(2)).map(|pixel| (pixel % 127) as u8).collect();
    let mut codes: Vec<u8> = pixels.chunks(100).flat_map(|run| [&[CLEAR][..], run].concat()).collect();
    codes.push(CLEAR + 1);
    for block in codes.chunks(255) {
        gif.push(block.len() as u8);
        gif.extend_from_slice(block);
    }
    gif.extend([0, 0x3B]);
    gif
}

#[test]
fn the_time_of_decoders_grows_with_the_bytes() {
    let picture = |side: u32| {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 7 + y) as u8, (x ^ y) as u8, (x * y / 64) as u8]);
        DynamicImage::ImageRgb8(image::RgbImage::from_fn(side, side, pixel))
    };
    let check = |what: &str, small: &[u8], large: &[u8]| {
        check_growth(what, small, large, |bytes| {
            black_box(decode(bytes).unwrap());
        });
    };
    use ImageFormat::{Bmp, Jpeg, Png, Pnm, Tiff, WebP};
    for format in [Bmp, Jpeg, Png, Pnm, Tiff, WebP] {
        let [small, large] = [256, 1024].map(|side| encoded(picture(side), format));
        check(&format!("{format:?}"), &small, &large);
    }
    check("GIF", &gif(256), &gif(1024));
}

#[test]
fn the_time_of_the_splitter_grows_with_the_bytes() {
    let repeated = |part: &[u8], bytes: usize| [&[0xFF, 0xD8][..], &part.repeat(bytes / part.len())].concat();
    for (what, part) in [
        ("starts within segments", &[0xFF, 0xE0, 0, 8, 0xFF, 0xD8, 0xFF, 0xE0, 0, 2][..]),
        ("segments beyond the end", &[0xFF, 0xD8, 0xFF, 0xE0, 0xFF, 0xFF]),
        ("segments that end in stray bytes", &[0xFF, 0xD8, 0xFF, 0xE1, 0x7F, 0xFF, 7]),
        ("starts", &[0xFF, 0xD8]),
        ("tables", &[0xFF, 0xDB, 0xFF, 0xFF]),
        ("scans", &[0xFF, 0xDA, 0, 2]),
    ] {
        let [small, large] = [256 << 10, 4 << 20].map(|bytes| repeated(part, bytes));
        check_growth(what, &small, &large, |stream| {
            black_box(split_jpegs(stream.chunks(64 << 10)));
        });
    }
}
