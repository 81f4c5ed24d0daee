//! A pool of threads that run one tower together.
//!
//! A pool is started once. A run calls the same function on every thread, which synchronise at barriers. The caller is one
//! of the threads, so a pool of one has no thread of its own. A run allocates nothing.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Iterations of a spin loop before a thread sleeps: some tens of microseconds, about the cost of sleeping and waking.
const SPINS: usize = 4096;

/// The function of one run, called with the index of each thread.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A pool of threads. It serves one run at a time.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a run.
    busy: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    threads: usize,
    state: Mutex<State>,
    start: Condvar,
    /// Number of the latest run, which waiting workers watch.
    run: AtomicUsize,
    /// Workers that have not finished the latest run.
    unfinished: AtomicUsize,
    finished: Condvar,
    panicked: AtomicBool,
    barrier: SpinBarrier,
}

#[derive(Debug)]
struct State {
    job: Option<JobPointer>,
    stop: bool,
}

#[derive(Debug, Clone, Copy)]
struct JobPointer(*const (dyn Fn(usize) + Sync + 'static));

// SAFETY: the function is `Sync`, and `Pool::run` keeps it alive until every thread is done with it.
unsafe impl Send for JobPointer {}

impl Pool {
    /// Starts a pool of `threads` threads, the caller included.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let mut pool = Self::idle(threads);
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("tower {number}"));
            pool.workers.push(thread.spawn(move || shared.work(number))?);
        }
        Ok(pool)
    }

    /// A pool of the caller alone.
    pub(crate) fn single() -> Self {
        Self::idle(1)
    }

    fn idle(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            threads,
            state: Mutex::new(State { job: None, stop: false }),
            start: Condvar::new(),
            run: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            finished: Condvar::new(),
            panicked: AtomicBool::new(false),
            barrier: SpinBarrier::default(),
        });
        Self { shared, workers: Vec::new(), busy: Mutex::new(()) }
    }

    /// Number of threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Calls `job` once on every thread, with the index of the thread and the barrier of the run; returns when all are
    /// done. If the pool is busy with another run, the caller works alone, with a barrier for one thread.
    ///
    /// # Panics
    /// If `job` panics on any thread.
    pub(crate) fn run(&self, job: &(dyn Fn(usize, Barrier<'_>) + Sync)) {
        let shared = &*self.shared;
        let free = match self.busy.try_lock() {
            Ok(guard) => Some(guard),
            // A run that panicked has reset the state.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let Some(_busy) = free.filter(|_| shared.threads > 1) else {
            job(0, Barrier { inner: &shared.barrier, threads: 1 });
            return;
        };
        let barrier = Barrier { inner: &shared.barrier, threads: shared.threads };
        let each = |number: usize| {
            let result = catch_unwind(AssertUnwindSafe(|| job(number, barrier)));
            if result.is_err() {
                shared.panicked.store(true, Ordering::Release);
                shared.barrier.release();
            }
            if let (0, Err(payload)) = (number, result) {
                // Not before the others are done, since they borrow from this stack frame.
                shared.wait_for_workers();
                shared.reset();
                resume_unwind(payload);
            }
        };
        let each: Job<'_> = &each;
        // The workers outlive the job, so its lifetime has to be erased. `std::thread::scope` needs no `unsafe`, but starts
        // threads for every run. `rayon::ThreadPool::broadcast` would move the erasure into rayon, and the barrier between
        // phases would remain. Replace this if the image tower is no slower with rayon, measured with `spotter bench --tower
        // image` on two and four threads.
        // SAFETY: only the lifetime changes; this function does not return before `unfinished` is 0, after which no
        // thread calls the job.
        let pointer: JobPointer = JobPointer(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(each)
        });
        {
            let mut state = lock(&shared.state);
            state.job = Some(pointer);
            shared.unfinished.store(shared.threads - 1, Ordering::Release);
            shared.run.fetch_add(1, Ordering::Release);
        }
        shared.start.notify_all();
        each(0);
        shared.wait_for_workers();
        if shared.panicked.load(Ordering::Acquire) {
            shared.reset();
            panic!("a thread of the tower panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.run.fetch_add(1, Ordering::Release);
        self.shared.start.notify_all();
        for worker in self.workers.drain(..) {
            // Workers catch panics of their jobs, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, number: usize) {
        let mut seen = 0;
        loop {
            spin_until(|| self.run.load(Ordering::Acquire) != seen);
            let job = {
                let mut state = lock(&self.state);
                while self.run.load(Ordering::Acquire) == seen && !state.stop {
                    state = self.start.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stop {
                    return;
                }
                seen = self.run.load(Ordering::Acquire);
                state.job
            };
            if let Some(JobPointer(job)) = job {
                // SAFETY: `Pool::run` waits for `unfinished` before the job goes out of scope.
                unsafe { (*job)(number) };
            }
            if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
                drop(lock(&self.state));
                self.finished.notify_one();
            }
        }
    }

    fn wait_for_workers(&self) {
        let done = || self.unfinished.load(Ordering::Acquire) == 0;
        if spin_until(done) {
            return;
        }
        let mut state = lock(&self.state);
        while !done() {
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn reset(&self) {
        self.panicked.store(false, Ordering::Release);
        self.barrier.reset();
    }
}

/// The barrier of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Barrier<'a> {
    inner: &'a SpinBarrier,
    /// Number of threads of the run.
    pub(crate) threads: usize,
}

impl Barrier<'_> {
    /// Waits until every thread of the run has called this. What they wrote before is visible to all of them after.
    ///
    /// # Panics
    /// If another thread has panicked.
    pub(crate) fn wait(&self) {
        if self.threads > 1 {
            self.inner.wait(self.threads);
        }
    }
}

/// As [`std::sync::Barrier`], but spins before it sleeps, and can be released after a panic.
#[derive(Debug, Default)]
struct SpinBarrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
    sleepers: Mutex<()>,
    wake: Condvar,
}

impl SpinBarrier {
    fn wait(&self, threads: usize) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Release);
            self.next_round();
        } else {
            // A thread that panicked never arrives.
            let passed = || self.round.load(Ordering::Acquire) != round || self.broken.load(Ordering::Acquire);
            if !spin_until(passed) {
                let mut guard = lock(&self.sleepers);
                while !passed() {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the tower panicked");
    }

    fn next_round(&self) {
        self.round.fetch_add(1, Ordering::AcqRel);
        drop(lock(&self.sleepers));
        self.wake.notify_all();
    }

    /// Wakes all threads, which then panic.
    fn release(&self) {
        self.broken.store(true, Ordering::Release);
        self.next_round();
    }

    fn reset(&self) {
        self.broken.store(false, Ordering::Release);
        self.arrived.store(0, Ordering::Release);
    }
}

/// Spins until `ready` returns true; false if it did not in time.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    (0..SPINS).any(|_| {
        let ready = ready();
        if !ready {
            std::hint::spin_loop();
        }
        ready
    })
}

/// Locks a mutex whose value is valid at any time, also after a panic of the thread that held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
