//! Threads and kernels for the towers.

use anyhow::{Context as _, Result};
use spotter_engine::tower::Threads;

/// Environment variable that selects other kernels than the fastest, for comparisons and for debugging.
pub const KERNELS_VARIABLE: &str = "SPOTTER_KERNELS";

/// A pool of `count` threads with the kernels that [`KERNELS_VARIABLE`] selects, else the fastest of this CPU. 0 means one
/// thread fewer than the cores; capture, decoding and outputs share the last one.
pub fn threads(count: usize) -> Result<Threads> {
    let count = match count {
        0 => std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1),
        count => count,
    };
    let threads = Threads::new(count)?;
    match std::env::var(KERNELS_VARIABLE) {
        Ok(name) => threads.with_kernels(&name).context(KERNELS_VARIABLE),
        Err(_) => Ok(threads),
    }
}
