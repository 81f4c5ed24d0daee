//! The command line: one file per command, with its arguments.

mod bench;
mod bundle;
mod calibrate;
mod check;
mod classify;
pub mod doctor;
mod init;
mod labels;
mod rehearse;
mod run;
mod snapshot;
mod try_sentences;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::bundles::rehearsal;
use crate::config::{Config, Problem, all_of};

/// Names what a camera sees, on the board itself. The labels are sentences in a file: edit it, and the running program uses
/// the new ones at once.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Label what a camera, a stream or images show, frame by frame
    Run(run::Run),
    /// Write a configuration and a label file to begin with, and show the labels of one picture
    Init(init::Init),
    /// Score sentences that are typed here, live; nothing is written
    Try(try_sentences::Try),
    /// Label image files
    Classify(classify::Classify),
    /// Show which sentences are cached and which are new, and embed the new ones
    Labels(labels::Labels),
    /// Check configuration, labels and bundle, and print every problem
    Check(check::Check),
    /// Watch while nothing happens, and fit the thresholds to a rate of false alarms
    Calibrate(calibrate::Calibrate),
    /// Examine the board, its cameras and the model, and say what is wrong and what to do
    Doctor(doctor::Doctor),
    /// Install bundles side by side, choose the one to run, and roll back
    Bundle(bundle::Bundle),
    /// Save one image of the source, to aim a camera
    Snapshot(snapshot::Snapshot),
    /// Measure each stage of the loop, or one tower by itself
    Bench(bench::Bench),
    /// Load a slot's bundle once, for another process of this program
    #[command(name = rehearsal::COMMAND, hide = true)]
    Rehearse(rehearse::Rehearse),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: ~/.config/spotter/spotter.toml, else /etc/spotter/spotter.toml, if they exist]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model bundle, a folder or a .tar, used without checking its signature [default: the active slot's, else the demo model]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Label file [default: what the demo model can tell apart]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

impl Cli {
    /// Runs the command; the exit code is 0, or 1 if some of the work failed and was reported.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(command) => command.run(),
            Command::Init(command) => command.run(),
            Command::Try(command) => command.run(),
            Command::Classify(command) => command.run(),
            Command::Labels(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Calibrate(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Bundle(command) => command.run(),
            Command::Snapshot(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Rehearse(command) => command.run(),
        }
    }
}

impl ConfigArgs {
    /// The configuration with these arguments.
    fn load(self) -> Result<Config> {
        let config = Config::load(self.config.as_deref()).map_err(|problems| all_of(&problems))?;
        Ok(self.apply(config))
    }

    /// The configuration with these arguments, or the defaults with them and the problems of the configuration file.
    fn load_or_default(self) -> (Config, Vec<Problem>) {
        let (config, problems) = match Config::load(self.config.as_deref()) {
            Ok(config) => (config, Vec::new()),
            Err(problems) => (Config::default(), problems),
        };
        (self.apply(config), problems)
    }

    fn apply(self, mut config: Config) -> Config {
        config.bundle = self.bundle.or(config.bundle);
        config.labels = self.labels.or(config.labels);
        config
    }
}

/// The exit code of a command that counts what has failed.
fn exit_code(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
