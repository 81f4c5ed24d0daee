//! `model-prep`: a checkpoint becomes the bundle that Spotter runs.

use std::process::ExitCode;

use clap::Parser as _;
use model_prep::console;

fn main() -> ExitCode {
    console::start_log();
    console::end(model_prep::cli::run(model_prep::cli::Arguments::parse()))
}
