//! Programs that this one has started: their process groups, so that an exit which runs no destructors still kills them, and
//! the wait for their end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};

/// Poll interval for the end of a program on kernels without process descriptors (before 5.3).
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(5);

static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Registers a group that has started.
pub(crate) fn add(group: Pid) {
    groups().push(group);
}

/// Forgets a group that has ended, before its number can be reused.
pub(crate) fn remove(group: Pid) {
    groups().retain(|known| *known != group);
}

/// Kills every registered group. Call it right before the process exits.
pub(crate) fn kill_all() {
    for group in groups().iter() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

/// Waits until the child process `id` has ended, at most for `limit`. Does not reap it.
pub(crate) fn wait_for_exit(id: Pid, limit: Duration) {
    let start = Instant::now();
    let descriptor = pidfd_open(id, PidfdFlags::empty()).ok();
    while !has_ended(id) && start.elapsed() < limit {
        let left = Timespec::try_from(limit.saturating_sub(start.elapsed())).ok();
        let waited = descriptor
            .as_ref()
            .zip(left)
            .map(|(descriptor, left)| poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&left)));
        if !matches!(waited, Some(Ok(_) | Err(Errno::INTR))) {
            thread::sleep(POLL_EVERY.min(limit));
        }
    }
}

/// Returns whether a child process has ended, or is none of ours any more.
pub(crate) fn has_ended(id: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(id), options), Ok(None))
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_of_a_child_is_waited_for_within_the_limit() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let id = Pid::from_child(&child);
        wait_for_exit(id, Duration::from_millis(20));
        assert!(child.try_wait().unwrap().is_none(), "it waits for its input");
        drop(child.stdin.take());
        let start = Instant::now();
        wait_for_exit(id, Duration::from_secs(24 * 3600));
        assert!(child.try_wait().unwrap().is_some());
        // It is reaped by now.
        wait_for_exit(id, Duration::from_secs(24 * 3600));
        assert!(start.elapsed() < Duration::from_secs(3600), "a wait of a day ends with the child");
    }
}
