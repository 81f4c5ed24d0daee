//! Process groups of programs that this one has started, so that an exit which runs no destructors still kills them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

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

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}
