//! Parses the command line, runs the command, prints the error once.

use std::process::ExitCode;

use clap::Parser as _;
use spotter::commands::Cli;
use spotter::console;

fn main() -> ExitCode {
    console::start_log();
    console::end(Cli::parse().run())
}
