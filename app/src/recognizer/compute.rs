//! Threads and kernels that compute the towers.

use anyhow::{Context as _, Result};
use spotter_engine::tower::Threads;

/// Environment variable that names the kernels to use instead of the fastest: to compare, or to find out what is wrong.
pub const KERNELS_VARIABLE: &str = "SPOTTER_KERNELS";

/// A pool of `count` threads with the kernels that the environment asks for, or the fastest that this CPU runs. 0 means
/// a thread for each core but one, which capture, decoding and outputs share.
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
