//! A program that this one starts, in a process group of its own, which is killed whole.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::children;

/// Time that a program gets to end by itself; short enough for the whole shutdown to stay within a second.
pub(crate) const END_GRACE: Duration = Duration::from_millis(300);

/// Runs a program that is killed when its parent ends, however that ends. Part of util-linux, since 2.33.
const SETPRIV: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// A command for a program in a process group of its own. It ends with this one, if `setpriv` can arrange that: a silent
/// program would not notice.
pub(crate) fn command(program: &str) -> Command {
    static WORKS: LazyLock<bool> = LazyLock::new(|| {
        let mut command = Command::new(SETPRIV[0]);
        command.args(&SETPRIV[1..]).arg("true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    // The system's own error names a missing program better.
    let mut command = if is_program(program) && *WORKS {
        let mut command = Command::new(SETPRIV[0]);
        command.args(&SETPRIV[1..]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0);
    // The service manager waits for this program, not for that one.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    command
}

/// Returns whether `name` is a program in `$PATH`, or the path of one.
pub(crate) fn is_program(name: &str) -> bool {
    let is_file =
        |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return is_file(Path::new(name));
    }
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| is_file(&folder.join(name))))
}

/// A running program and the processes that it started.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    id: Pid,
    /// Its exit status, once it was waited for.
    ended: Option<Option<ExitStatus>>,
}

impl Group {
    /// Starts a [`command`].
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let id = Pid::from_child(&child);
        children::add(id);
        Ok(Self { child, id, ended: None })
    }

    /// The pipe of the program's standard output, once, if it has one.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The pipe of the program's standard error, once, if it has one.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// The program's process.
    pub(crate) fn id(&self) -> Pid {
        self.id
    }

    /// Sends `signal`, if any, waits up to [`END_GRACE`], and kills what is left.
    pub(crate) fn end(&mut self, signal: Option<Signal>) -> Option<ExitStatus> {
        if let Some(status) = self.ended {
            return status;
        }
        // The program itself is reaped last: until then no other process can get its number.
        if let Some(signal) = signal {
            let _ = kill_process_group(self.id, signal);
        }
        children::wait_for_exit(self.id, END_GRACE);
        let _ = kill_process_group(self.id, Signal::KILL);
        children::remove(self.id);
        let status = self.child.wait().ok();
        self.ended = Some(status);
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end(Some(Signal::TERM));
    }
}

/// Waits until a process has ended: the kernel takes a moment, and a zombie waits for its new parent.
#[cfg(test)]
pub(crate) fn wait_until_gone(id: &str) {
    let start = std::time::Instant::now();
    loop {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") || state.contains(") X ") {
            return;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{state}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        assert!(is_program("sh") && is_program("/bin/sh"));
        assert!(!is_program("/etc/passwd"), "not executable");
        assert!(!is_program("no-such-camera") && !is_program("/bin/no-such-camera") && !is_program("/bin"));
    }
}
