//! Parses the command line, runs the command, prints the error once.

use std::process::ExitCode;

use clap::Parser as _;
use spotter::cli::Cli;

fn main() -> ExitCode {
    // The watcher of files warns of watches that went with their folder, which is no news: they are set up again.
    let filter = "info,tract=warn,tract_core=warn,tract_onnx=warn,notify=error";
    let filter = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(filter).format_target(false).init();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
