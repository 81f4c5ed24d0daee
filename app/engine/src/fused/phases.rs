//! Runs the phases of a program on the threads of a pool, or on the calling thread while somebody watches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::kernels::{Pool, lock};

/// What a run tells its caller. A run that is watched uses one thread.
#[derive(Clone, Copy)]
pub(crate) enum Watch<'a> {
    Nothing,
    /// The index of each step that starts, and `None` at the end.
    Steps(&'a (dyn Fn(Option<usize>) + Sync)),
    /// Each row that a linear layer reads, or each pixel that a convolution reads, with the index of its step. Pixels of
    /// overlapping windows may come again.
    LinearInputs(&'a (dyn Fn(usize, &[f32]) + Sync)),
}

impl Watch<'_> {
    pub(super) fn step(&self, step: Option<usize>) {
        if let Self::Steps(called) = self {
            called(step);
        }
    }
}

/// The scratch memory of each thread, and what is left to do of each phase.
#[derive(Debug)]
pub(super) struct Phases<S> {
    scratch: Vec<Mutex<S>>,
    /// Index of the next work item of each phase.
    next: Vec<AtomicUsize>,
    /// Serialises runs.
    running: Mutex<()>,
}

impl<S: Send> Phases<S> {
    /// Scratch memory for `threads` threads, and `count` phases.
    pub(super) fn new(threads: usize, count: usize, scratch: impl Fn() -> S) -> Self {
        Self {
            scratch: (0..threads).map(|_| Mutex::new(scratch())).collect(),
            next: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            running: Mutex::new(()),
        }
    }

    /// Index of a work item of `phase` that no thread has taken yet.
    pub(super) fn next(&self, phase: usize) -> usize {
        self.next[phase].fetch_add(1, Ordering::Relaxed)
    }

    /// Calls `phase` with the index of each phase on every thread, with a barrier after each. No other run begins before
    /// the result is dropped.
    pub(super) fn run(
        &self,
        pool: &Pool,
        watch: Watch<'_>,
        phase: &(dyn Fn(usize, &mut S) + Sync),
    ) -> MutexGuard<'_, ()> {
        let running = lock(&self.running);
        self.next.iter().for_each(|next| next.store(0, Ordering::Relaxed));
        if !matches!(watch, Watch::Nothing) {
            let mut scratch = lock(&self.scratch[0]);
            for index in 0..self.next.len() {
                phase(index, &mut scratch);
            }
            watch.step(None);
        } else {
            pool.run(&|number, barrier| {
                let mut scratch = lock(&self.scratch[number]);
                for index in 0..self.next.len() {
                    phase(index, &mut scratch);
                    barrier.wait();
                }
            });
        }
        running
    }
}
