//! Runs the same work on many items, on several threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The number of threads that was `wanted`, or one per core if that is 0.
pub(crate) fn threads_or_cores(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// Calls `run` with each number below `count`, on up to `threads` threads including the caller's, each with its own
/// result of `worker`. Returns the results in order, or the first error, which stops all threads.
///
/// # Panics
/// If `run` or `worker` panics.
pub(crate) fn in_parallel<W, T: Send, E: Send>(
    count: usize,
    threads: usize,
    worker: impl Fn() -> Result<W, E> + Sync,
    run: impl Fn(&mut W, usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut worker = worker()?;
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            done.push((number, run(&mut worker, number).inspect_err(|_| stop.store(true, Ordering::Relaxed))?));
        }
        Ok(done)
    };
    let mut parts = std::thread::scope(|scope| {
        // If the system cannot start more threads, the existing ones do the work.
        let others: Vec<_> = (1..threads.min(count))
            .map_while(|number| {
                let thread = std::thread::Builder::new().name(format!("worker {number}"));
                thread.spawn_scoped(scope, work).ok()
            })
            .collect();
        let mut parts = vec![work()];
        parts.extend(others.into_iter().map(|other| match other.join() {
            Ok(part) => part,
            Err(payload) => std::panic::resume_unwind(payload),
        }));
        parts
    });
    let mut done = Vec::with_capacity(count);
    for part in parts.drain(..) {
        done.append(&mut part?);
    }
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for (count, threads) in [(0, 4), (1, 4), (7, 1), (100, 3), (3, 0), (5, 100)] {
            let workers = AtomicUsize::new(0);
            let worker = || Ok::<_, ()>(workers.fetch_add(1, Ordering::Relaxed));
            let found = in_parallel(count, threads, worker, |_, number| Ok(number * 10)).expect("no error");
            assert_eq!(found, (0..count).map(|number| number * 10).collect::<Vec<_>>(), "{count}, {threads}");
            assert_eq!(workers.into_inner(), threads.min(count).max(1), "{count}, {threads}");
        }
    }

    #[test]
    fn an_error_stops_the_rest() {
        let calls = AtomicUsize::new(0);
        let run = |_: &mut (), number| {
            calls.fetch_add(1, Ordering::Relaxed);
            if number == 5 { Err("five") } else { Ok(()) }
        };
        assert_eq!(in_parallel(1_000_000, 1, || Ok(()), run), Err("five"));
        assert_eq!(calls.into_inner(), 6);
        assert_eq!(in_parallel(10, 3, || Err::<(), _>("no worker"), |_, _| Ok(())), Err("no worker"));
    }
}
