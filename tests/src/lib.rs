//! Helpers of the end-to-end tests.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path of a program of this workspace, built as the tests are.
///
/// The first call for each program in a test run lets cargo bring it up to date, since cargo itself builds for an
/// integration test only the programs of its own package.
///
/// # Panics
/// Where the program cannot be built.
pub fn program(name: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let test = std::env::current_exe().expect("a running test has a path");
    // PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).expect("cargo puts tests two folders deep");
    let mut built = BUILT.lock().expect("no test panics while it builds");
    if built.insert(name.to_owned()) {
        let mut cargo = Command::new(env!("CARGO"));
        // The whole workspace, as for the tests: one package alone would have its dependencies built with other features.
        cargo.args(["build", "--quiet", "--workspace", "--bin", name]).current_dir(root());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("the cargo that built the tests runs again");
        assert!(status.success(), "cargo build of {name}: {status}");
    }
    profile.join(name)
}

/// Whether this runs where nothing may be left out in silence: what a test needs is installed there.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
