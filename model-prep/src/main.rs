//! `model-prep`: turns a checkpoint into the bundle that Spotter runs.

use std::process::ExitCode;

use clap::Parser as _;
use model_prep::{commands, console};

fn main() -> ExitCode {
    console::start_log();
    console::end(commands::run(commands::Arguments::parse()))
}
