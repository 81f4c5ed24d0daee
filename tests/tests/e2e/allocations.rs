//! A loaded tower allocates nothing, counted by the allocator of this test binary.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

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
fn a_loaded_tower_allocates_nothing() {
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
    }
}
