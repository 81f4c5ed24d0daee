//! The thread pool: every thread runs, writes are visible after a barrier, and a panic propagates and harms no later run.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use super::super::Pool;
use super::super::pool::Barrier;

fn counters(threads: usize) -> Vec<AtomicUsize> {
    (0..threads).map(|_| AtomicUsize::new(0)).collect()
}

fn loads(counters: &[AtomicUsize]) -> Vec<usize> {
    counters.iter().map(|counter| counter.load(Relaxed)).collect()
}

/// Limit for a loaded machine, where waiting threads spin while others need the CPU; the tests take seconds.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Fails instead of hanging if threads deadlock.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        // The receiver is gone only where the test has failed already.
        let _ = done.send(());
    });
    match wait.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("threads wait for each other"),
        _ => thread.join().unwrap(),
    }
}

/// Checks that a run calls each thread once.
#[track_caller]
fn check_all_run(pool: &Pool) {
    let calls = counters(pool.threads());
    pool.run(&|number, barrier| {
        assert_eq!(barrier.threads, calls.len());
        calls[number].fetch_add(1, Relaxed);
        barrier.wait();
        assert_eq!(loads(&calls), vec![1; calls.len()], "the barrier let someone through early");
    });
    assert_eq!(loads(&calls), vec![1; calls.len()]);
}

#[test]
fn every_thread_runs_once() {
    in_time(|| {
        assert_eq!(Pool::new(0).unwrap().threads(), 1, "the caller is a thread");
        for threads in 1..=8 {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            check_all_run(&pool);
            // Long enough for the workers to sleep.
            std::thread::sleep(Duration::from_millis(5));
            check_all_run(&pool);
        }
    });
}

#[test]
fn writes_before_a_barrier_are_visible_after_it() {
    in_time(|| {
        for threads in 2..=8 {
            let pool = Pool::new(threads).unwrap();
            let slots = counters(threads);
            pool.run(&|number, barrier| {
                for round in 1..=200 {
                    if round % 50 == number {
                        // Lets the others sleep now and then.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    slots[number].store(round, Relaxed);
                    barrier.wait();
                    assert_eq!(loads(&slots), vec![round; threads]);
                    barrier.wait();
                }
            });
            assert_eq!(loads(&slots), vec![200; threads]);
        }
    });
}

#[test]
fn many_quick_runs() {
    in_time(|| {
        for (threads, runs) in [(1, 100), (2, 10_000), (3, 1000)] {
            let pool = Pool::new(threads).unwrap();
            let calls = counters(threads);
            for run in 1..=runs {
                pool.run(&|number, _| {
                    calls[number].fetch_add(1, Relaxed);
                });
                assert_eq!(loads(&calls), vec![run; threads]);
            }
        }
    });
}

/// `culprit` panics before or after `barriers` barriers while the others go on to two more.
#[track_caller]
fn check_panic(pool: &Pool, culprit: usize, barriers: usize, late: bool) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.run(&|number, barrier| {
            (0..barriers).for_each(|_| barrier.wait());
            if number == culprit {
                panic_any("meant");
            }
            if late {
                // Until the culprit has panicked.
                std::thread::sleep(Duration::from_millis(1));
            }
            (0..2).for_each(|_| barrier.wait());
        });
    }));
    assert!(result.is_err(), "thread {culprit} of {} after {barriers} barriers, late: {late}", pool.threads());
    check_all_run(pool);
}

#[test]
fn a_panic_propagates_and_the_pool_remains_usable() {
    in_time(|| {
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            for culprit in 0..threads {
                for (barriers, late) in [(0, false), (0, true), (1, false), (3, true)] {
                    check_panic(&pool, culprit, barriers, late);
                }
            }
            // Without a barrier: one panics, or all do.
            for culprit in (0..threads).map(Some).chain([None]) {
                let job = |number: usize, _: Barrier<'_>| assert!(culprit.is_some_and(|it| it != number), "meant");
                assert!(catch_unwind(AssertUnwindSafe(|| pool.run(&job))).is_err(), "{culprit:?} of {threads}");
                check_all_run(&pool);
            }
        }
    });
}

#[test]
fn a_busy_pool_lets_callers_work_alone() {
    in_time(|| {
        let pool = Pool::new(3).unwrap();
        let (calls, expected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let job = |number: usize, barrier: Barrier<'_>| {
            if number == 0 {
                expected.fetch_add(barrier.threads, Relaxed);
            }
            calls.fetch_add(1, Relaxed);
            barrier.wait();
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2000).for_each(|_| pool.run(&job)));
            }
        });
        assert_eq!(calls.load(Relaxed), expected.load(Relaxed));
        assert!(calls.load(Relaxed) > 4000, "no run had the threads");
        // A job that starts a run itself finds its own pool busy.
        pool.run(&|_, barrier| {
            assert_eq!(barrier.threads, 3);
            pool.run(&|number, barrier| assert_eq!((number, barrier.threads), (0, 1)));
        });
        check_all_run(&pool);
    });
}
