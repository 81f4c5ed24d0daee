//! Loaded towers, and whole frames from decoding to scores, allocate nothing, counted by the allocator of this test binary.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Array2;
use spotter::recognizer::{Latency, Recognizer};
use spotter::source::{Frame, PixelFormat, ShapesOptions, draw_shapes};
use spotter_engine::bundle::Bundle;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

/// Allocations of all threads since the program began.
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator cannot be written otherwise")]
// SAFETY: every call is forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// In a separate process, since other tests allocate at the same time.
#[test]
fn towers_and_whole_frames_allocate_nothing_once_they_are_warm() {
    let child = Command::new(e2e::this_test())
        .args(["--ignored", "--exact", "allocations::counted", "--test-threads", "1"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
#[ignore = "run by the test above in a process of its own"]
fn counted() {
    let bundle = spotter::demo::bundle().unwrap();
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
        let mut run = || {
            image.embed_into(&pixels, &mut embedding).unwrap();
            text.embed_encoding_into(&long, &mut embedding).unwrap();
            text.embed_encoding_into(&short, &mut embedding).unwrap();
        };
        // The first run may set up thread-local data of the standard library.
        run();
        let before = COUNT.load(Ordering::Relaxed);
        assert!(before > 0, "allocations are counted");
        (0..50).for_each(|_| run());
        assert_eq!(COUNT.load(Ordering::Relaxed) - before, 0, "{count} threads");
        count_frames(&bundle, &threads);
    }
}

/// As many as the demo has.
const LABELS: usize = 48;

/// Decodes and scores frames, as the inference thread does.
fn count_frames(bundle: &Bundle, threads: &Threads) {
    let mut recognizer = Recognizer::open(bundle, threads).unwrap();
    let width = bundle.manifest().projection_dim;
    let names = (0..LABELS).map(|number| format!("label {number}")).collect();
    let value = |(row, column): (usize, usize)| ((row * 31 + column * 7) % 13) as f32 / 100.0 - 0.06;
    let labels = LabelEmbeddings::new(names, Array2::from_shape_fn((LABELS, width), value));
    for format in [PixelFormat::Rgb24, PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Grey] {
        let frame = frame(format);
        let mut run = || {
            let mut latency = Latency::default();
            recognizer.decode(&frame, &mut latency).unwrap();
            assert_eq!(recognizer.recognize(&labels, &mut latency).unwrap().len(), LABELS);
        };
        // The first frame of a size makes the buffers.
        run();
        let before = COUNT.load(Ordering::Relaxed);
        (0..20).for_each(|_| run());
        assert_eq!(COUNT.load(Ordering::Relaxed) - before, 0, "{format} frames");
    }
}

/// A frame of a camera, whose bytes are those of a drawn RGB image, or its beginning.
fn frame(format: PixelFormat) -> Frame {
    let options = ShapesOptions { width: 320, height: 240, ..ShapesOptions::default() };
    let (width, height) = (options.width, options.height);
    let stride = match format {
        PixelFormat::Rgb24 => 3 * width,
        PixelFormat::Yuyv => 2 * width,
        _ => width,
    };
    let mut frame = Frame { format, width, height, stride, ..Frame::default() };
    draw_shapes(&options, 0, &mut frame.bytes);
    frame
}
