//! Helpers of the end-to-end tests.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

/// Environment variable with the command that starts a program built for another machine, such as `qemu-aarch64-static
/// -cpu cortex-a76`. Whoever sets it starts the tests with the same command, and has built the programs.
pub const RUNNER: &str = "SPOTTER_TEST_RUNNER";

/// Factor on all time limits when programs are emulated.
const EMULATED_SLOWER: u32 = 10;

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path of a program of this workspace, built like the tests, for the same machine. For an emulated machine, path of a
/// script that runs the program and is replaced by it, so that signals reach it.
///
/// The first call for each program in a test run makes cargo bring it up to date, since for an integration test cargo
/// itself builds only the programs of its own package.
///
/// # Panics
/// If the program cannot be built.
pub fn program(name: &str) -> PathBuf {
    built("--bin", name)
}

/// Path of an example of this package, as of a [`program`].
///
/// # Panics
/// If it cannot be built.
pub fn example(name: &str) -> PathBuf {
    built("--example", name)
}

fn built(kind: &str, name: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let profile = profile();
    let path = if kind == "--bin" { profile.join(name) } else { profile.join("examples").join(name) };
    if emulated() {
        return startable(&path);
    }
    let mut built = BUILT.lock().expect("no test panics while it builds");
    if built.insert(name.to_owned()) {
        let mut cargo = Command::new(env!("CARGO"));
        // The whole workspace, as for the tests: a single package would have its dependencies built with other
        // features.
        cargo.args(["build", "--quiet", "--workspace", kind, name]).current_dir(root());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        if let Some(target) = target(&profile) {
            cargo.args(["--target", target]);
        }
        // What cargo tells this test about its package would make dependencies look changed, and be compiled again.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                cargo.env_remove(name);
            }
        }
        let status = cargo.status().expect("the cargo that built the tests runs again");
        assert!(status.success(), "cargo build of {name}: {status}");
    }
    path
}

/// Returns whether tests must not skip anything silently: everything they need is installed there.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Environment variable with the Python of the tests, which has the packages of `tests/reference/requirements-check.txt`.
const PYTHON: &str = "SPOTTER_PYTHON";

/// The Python that `SPOTTER_PYTHON` names, if it has all these modules. Without it the test says that it skips the check. On
/// an emulated machine too it is a program of this machine.
///
/// # Panics
/// If it is missing with `CI=true`, except when programs are emulated: the tests of this machine need it there already.
pub fn python(modules: &[&str]) -> Option<OsString> {
    let imports: String = modules.iter().map(|module| format!("import {module}\n")).collect();
    let found = std::env::var_os(PYTHON)
        .filter(|python| Command::new(python).args(["-c", &imports]).output().is_ok_and(|done| done.status.success()));
    if found.is_none() {
        let missing = format!("{PYTHON} names no Python with {modules:?} (tests/reference/requirements-check.txt)");
        assert!(!is_ci() || emulated(), "{missing}");
        println!("skipped: {missing}");
    }
    found
}

/// Path of the running test binary, to start it once more; a script if emulated, as in [`program`].
pub fn this_test() -> PathBuf {
    startable(&std::env::current_exe().expect("a running test has a path"))
}

/// Returns whether the programs under test are emulated.
pub fn emulated() -> bool {
    std::env::var_os(RUNNER).is_some()
}

/// A time limit for something that takes less than `time` when nothing is emulated.
pub fn patience(time: Duration) -> Duration {
    if emulated() { time * EMULATED_SLOWER } else { time }
}

/// Attempts at something that a busy machine may occasionally be too slow for.
const TRIES: usize = 5;

/// Proves a claim about time. The machine may be busy with something else, so `attempt` must succeed once in a few
/// tries. It gets its number, from 0, and returns what was late; it asserts whatever does not depend on time.
///
/// # Panics
/// If every attempt was late.
pub fn in_time(what: &str, mut attempt: impl FnMut(usize) -> Result<(), String>) {
    let mut late = Vec::new();
    for number in 0..TRIES {
        match attempt(number) {
            Ok(()) => return,
            Err(why) => {
                println!("{what}: try {number}: {why}");
                late.push(why);
            }
        }
    }
    panic!("{what}: late in each of {TRIES} tries: {late:#?}");
}

/// The claim that a program ends within a second of SIGTERM, checked for one that took `took`.
///
/// # Errors
/// It took longer.
pub fn ended_in_time(what: &str, took: Duration) -> Result<(), String> {
    println!("{what}: ended {:.0} ms after SIGTERM", took.as_secs_f64() * 1e3);
    if took < patience(Duration::from_secs(1)) { Ok(()) } else { Err(format!("ended only {took:?} after SIGTERM")) }
}

/// Where cargo puts programs: the tests are in PROFILE/deps.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    test.ancestors().nth(2).expect("cargo puts tests two folders deep").to_owned()
}

/// The target that cargo was told to build for: it names a folder after it, TARGET/PROFILE.
fn target(profile: &Path) -> Option<&str> {
    let folder = profile.parent()?.file_name()?.to_str()?;
    let rest = folder.strip_prefix(std::env::consts::ARCH)?;
    rest.starts_with('-').then_some(folder)
}

/// The program itself, or a script beside it if it needs the runner.
fn startable(program: &Path) -> PathBuf {
    static WRITING: Mutex<()> = Mutex::new(());
    let Some(runner) = std::env::var_os(RUNNER) else { return program.to_owned() };
    let script = program.with_extension("emulated");
    let text = format!("#!/bin/sh\nexec {} '{}' \"$@\"\n", runner.to_string_lossy(), program.display());
    // The first tests start at the same time, and need the same script.
    let _alone = WRITING.lock().expect("no test panics while it writes");
    if std::fs::read_to_string(&script).is_ok_and(|found| found == text) {
        return script;
    }
    // Written by another process: a file that is open here is also open in every child that another thread is just
    // starting, and a file that is open for writing cannot be executed.
    let write = "printf %s \"$1\" >\"$2.new\" && chmod +x \"$2.new\" && mv \"$2.new\" \"$2\"";
    let status = Command::new("sh").args(["-c", write, "sh", &text]).arg(&script).status().expect("there is a shell");
    assert!(status.success(), "{}: {status}", script.display());
    script
}
