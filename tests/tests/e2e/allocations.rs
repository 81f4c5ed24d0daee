//! Loaded towers and whole frames allocate nothing, counted by the allocator of this test binary.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use spotter::config::Config;
use spotter::labels::demo::Scene;
use spotter::labels::demo::configured;
use spotter::labels::embedder::embed_configured;
use spotter::recognizer::{Latency, Recognizer};
use spotter::source::{Frame, PixelFormat, ShapesOptions, draw_shapes};
use spotter_engine::decide::{Decider, Moment};
use spotter_engine::tower::{ImageTower, TextTower, Threads};

/// Passes that are counted.
const PASSES: usize = 20;

/// Time from one frame to the next.
const STEP: Duration = Duration::from_millis(500);

/// Frames without a change after which the states of a picture that stays count as settled: longer than any time of the labels.
const QUIET: usize = 20;

/// The lists of a JPEG's components, which its header is read into.
const JPEG_ALLOCATIONS_MAX: usize = 4;

/// Allocations of all threads since the program began.
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be written otherwise")]
// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that are needed.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are needed.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs an ignored test of this file in a process of its own, since the other tests allocate meanwhile.
fn alone(name: &str) {
    let child = Command::new(e2e::this_test())
        .args(["--ignored", "--exact", &format!("allocations::{name}"), "--test-threads", "1"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

/// Allocations of [`PASSES`] passes of `run`, after a first one, which may allocate buffers and what the standard library
/// keeps for each thread.
fn counted(mut run: impl FnMut()) -> usize {
    run();
    let before = COUNT.load(Ordering::Relaxed);
    assert!(before > 0, "allocations are counted");
    (0..PASSES).for_each(|_| run());
    COUNT.load(Ordering::Relaxed) - before
}

#[test]
fn a_loaded_tower_allocates_nothing() {
    alone("towers");
}

#[test]
fn a_whole_frame_allocates_nothing() {
    alone("frames");
}

#[test]
#[ignore = "run by a test above in a process of its own"]
fn towers() {
    let bundle = spotter::bundles::demo::bundle().unwrap();
    let manifest = bundle.manifest();
    let [height, width] = manifest.image_size();
    let pixels = vec![0.5; 3 * height * width];
    let mut embedding = vec![0.0; manifest.projection_dim];
    for count in [1, 2, 4] {
        let threads = Threads::new(count).unwrap();
        let image = ImageTower::open(&bundle, &threads).unwrap();
        let mut text = TextTower::open(&bundle, &threads).unwrap();
        let long = text.tokenizer().encode("a photo of a small red bird on a branch in the snow").unwrap();
        let short = text.tokenizer().encode("cat").unwrap();
        let allocations = counted(|| {
            image.embed_into(&pixels, &mut embedding).unwrap();
            text.embed_encoding_into(&long, &mut embedding).unwrap();
            text.embed_encoding_into(&short, &mut embedding).unwrap();
        });
        assert_eq!(allocations, 0, "{count} threads");
    }
}

#[test]
#[ignore = "run by a test above in a process of its own"]
fn frames() {
    let bundle = Arc::new(spotter::bundles::demo::bundle().unwrap());
    let threads = Threads::new(2).unwrap();
    let mut recognizer = Recognizer::open(&bundle, &threads).unwrap();
    for file in [None, Some(e2e::root().join("config/questions.toml"))] {
        let source = "test://shapes".to_owned();
        let config = Config { source, labels: file.clone(), ..Config::default() };
        let labels = embed_configured(&config, Scene::Shapes, &bundle, &threads).unwrap();
        let rules = Arc::clone(&configured(&config, Scene::Shapes, &bundle.manifest().templates).unwrap().rules);
        let mut elapsed = Duration::ZERO;
        let mut decider = Decider::new(rules, Moment { elapsed, unix_us: 0 });
        for (frame, allocations_max) in frames_of_a_camera() {
            let mut step = || {
                let mut latency = Latency::of(&frame);
                recognizer.decode(&frame, &mut latency).unwrap();
                let scores = recognizer.recognize(&labels, &mut latency).unwrap();
                assert_eq!(scores.len(), labels.names().len());
                elapsed += STEP;
                let probabilities = scores.iter().map(|score| (score.label, score.probability));
                decider.frame(Moment { elapsed, unix_us: 0 }, probabilities);
                decider.changes().len()
            };
            // Until the same picture has changed every state that it changes; changes may allocate.
            let (mut quiet, mut passes) = (0, 0);
            while quiet < QUIET {
                quiet = if step() == 0 { quiet + 1 } else { 0 };
                passes += 1;
                assert!(passes < 1000, "states change for ever");
            }
            let allocations = counted(|| assert_eq!(step(), 0));
            let what = format!("{file:?}, {}", frame.format);
            assert!(allocations <= PASSES * allocations_max, "{what}: {allocations} in {PASSES} frames");
        }
    }
}

/// A frame in every format of cameras, with the allocations that it may take.
fn frames_of_a_camera() -> Vec<(Frame, usize)> {
    let options = ShapesOptions::default();
    let (width, height) = (options.width, options.height);
    let mut rgb = Vec::new();
    draw_shapes(&options, 0, &mut rgb);
    let mut jpeg = Vec::new();
    let size = (u32::try_from(width).unwrap(), u32::try_from(height).unwrap());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 80);
    image::ImageEncoder::write_image(encoder, &rgb, size.0, size.1, image::ExtendedColorType::Rgb8).unwrap();
    let raw = |format: PixelFormat, stride: usize, bytes: Vec<u8>| {
        (Frame { format, width, height, stride, bytes, ..Frame::default() }, 0)
    };
    vec![
        raw(PixelFormat::Rgb24, 3 * width, rgb),
        raw(PixelFormat::Yuyv, 2 * width, vec![90; 2 * width * height]),
        raw(PixelFormat::Uyvy, 2 * width, vec![90; 2 * width * height]),
        raw(PixelFormat::Nv12, width, vec![90; width * height * 3 / 2]),
        raw(PixelFormat::Grey, width, vec![90; width * height]),
        (Frame { format: PixelFormat::Mjpeg, bytes: jpeg, ..Frame::default() }, JPEG_ALLOCATIONS_MAX),
    ]
}
