//! The command line: what can be said, and which command it leads to.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::commands::bench::tower::Tower;
use crate::bundles::command::{self, Action};
use crate::bundles::rehearsal::{self, Task};
use crate::config::{Config, Output};
use crate::console::{all_of, stdout};
use crate::pipeline::{self, Deps};
use crate::source::Uri;
use crate::{bench, bundles, check, classify, compute, doctor, labels, output, signals, snapshot};

/// Names what a camera sees, on the board itself. The labels are sentences in a file: edit it, and the running camera
/// answers to the new words.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Label what a camera, a stream or pictures show, frame by frame
    Run {
        #[command(flatten)]
        common: Common,
        /// auto, /dev/video0, csi://0, "exec:PROGRAM ARGUMENT ..." (MJPEG from a program), - (MJPEG on standard input),
        /// a picture, a folder or test://shapes
        #[arg(long, value_name = "URI")]
        source: Option<String>,
        /// What to print
        #[arg(long, value_enum, ignore_case = true)]
        output: Option<Output>,
        /// Stop after this many labelled frames
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        frames: Option<u64>,
    },
    /// Label picture files
    Classify {
        #[command(flatten)]
        common: Common,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Labels shown of each picture, best first
        #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
        top_k: Option<u32>,
        /// The pictures
        #[arg(required = true, value_name = "PICTURE")]
        pictures: Vec<PathBuf>,
    },
    /// Tell which sentences are cached and which are new, and embed the new ones
    Labels {
        #[command(flatten)]
        common: Common,
    },
    /// Check configuration, labels and bundle, and print every problem
    Check {
        #[command(flatten)]
        common: Common,
    },
    /// Examine the board, its cameras and the model, and say what is wrong and what to do
    Doctor {
        #[command(flatten)]
        common: Common,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Install bundles side by side, choose the one that runs, and go back
    Bundle {
        /// Configuration file [default: /etc/spotter/spotter.toml if it exists]
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        action: Action,
    },
    /// Save one picture of the source, to aim a camera by
    Snapshot {
        #[command(flatten)]
        common: Common,
        /// As for `run`
        #[arg(long, value_name = "URI")]
        source: Option<String>,
        /// Frames before it [default: 10 of a camera, for exposure and colours, else 0]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..1000))]
        skip: Option<u32>,
        /// The picture: .png, .jpg or .ppm
        file: PathBuf,
    },
    /// Measure each stage of the loop, or one tower by itself
    Bench {
        #[command(flatten)]
        common: Common,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Threads that compute the towers
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        threads: Option<u32>,
        /// Frames measured
        #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
        frames: u32,
        /// Where frames come from; by default drawn shapes, encoded as a 640 x 480 MJPEG camera would
        #[arg(long, value_name = "URI")]
        source: Option<String>,
        #[command(flatten)]
        alone: Alone,
    },
    /// Load a slot's bundle once, for another process of this program
    #[command(name = rehearsal::COMMAND, hide = true)]
    Rehearse(Task),
}

/// What is done with one tower by itself.
#[derive(Debug, Args)]
struct Alone {
    /// The tower that is measured by itself
    #[arg(long, value_enum, ignore_case = true)]
    tower: Option<Tower>,
    /// List the tower's steps: what was fused, or why not, and the time of each
    #[arg(long)]
    explain: bool,
    /// Compare the time of each kind of step with the most that this CPU can do
    #[arg(long, conflicts_with = "explain")]
    roofline: bool,
    /// Read numbers of passes from standard input, answer each with a line of times
    #[arg(long, requires = "tower", conflicts_with_all = ["explain", "roofline"])]
    stdin: bool,
    /// Read pixels or prompts from standard input, answer each with its embedding
    #[arg(long, requires = "tower", conflicts_with_all = ["explain", "roofline", "stdin"])]
    embed: bool,
}

impl Alone {
    /// Runs what was asked for; `false` where nothing was.
    fn run(&self, config: &Config) -> Result<bool> {
        let tower = self.tower.unwrap_or(Tower::Image);
        let (mut input, mut out) = (io::stdin().lock(), stdout());
        let threads = compute::threads(config.inference.threads)?;
        let bundle = bundles::open(config)?;
        match self {
            Self { explain: true, .. } => bench::tower::explain(tower, &bundle, &threads, &mut out)?,
            Self { roofline: true, .. } => bench::tower::roofline(tower, &bundle, &threads, &mut out)?,
            Self { stdin: true, .. } => bench::tower::serve(tower, &bundle, &threads, &mut input, &mut out)?,
            Self { embed: true, .. } => bench::tower::embed(tower, &bundle, &threads, &mut input, &mut out)?,
            Self { tower: Some(_), .. } => bench::tower::explain(tower, &bundle, &threads, &mut out)?,
            Self { tower: None, .. } => return Ok(false),
        }
        Ok(true)
    }
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file [default: /etc/spotter/spotter.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model bundle, a folder or a .tar, taken as it is, signed or not [default: the active slot's, else the demo model]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Label file [default: the demo model's labels]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

impl Cli {
    /// Runs the command; the exit code is 0, or 1 where some of the work failed and was reported.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run { common, source, output, frames } => {
                let mut config = common.load()?;
                config.source = source.unwrap_or(config.source);
                config.output = output.unwrap_or(config.output);
                run(&config, frames).map(|()| ExitCode::SUCCESS)
            }
            Command::Classify { common, json, top_k, pictures } => {
                let mut config = common.load()?;
                config.inference.top_k = top_k.map_or(config.inference.top_k, |k| k as usize);
                let failed = classify::run(&config, json, &pictures, &mut stdout())?;
                Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Command::Labels { common } => labels::run(&common.load()?, &mut stdout()).map(|()| ExitCode::SUCCESS),
            Command::Check { common } => {
                let (config, problems) = match Config::load(common.config.as_deref()) {
                    Ok(config) => (config, Vec::new()),
                    Err(problems) => (Config::default(), problems),
                };
                let problems = check::run(&common.apply(config), &problems, &mut stdout())?;
                Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Command::Doctor { common, json } => {
                let (config, problems) = match Config::load(common.config.as_deref()) {
                    Ok(config) => (config, Vec::new()),
                    Err(problems) => (Config::default(), problems),
                };
                let (config, root) = (common.apply(config), Path::new("/"));
                let problems = doctor::run(&config, &problems, root, json, &mut stdout())?;
                Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Command::Bundle { config, action } => {
                let config = Config::load(config.as_deref()).map_err(|problems| all_of(&problems))?;
                command::run(&config, action, &mut stdout()).map(|()| ExitCode::SUCCESS)
            }
            Command::Rehearse(task) => rehearsal::perform(&task).map(|()| ExitCode::SUCCESS),
            Command::Snapshot { common, source, skip, file } => {
                let config = common.load()?;
                let uri = Uri::from_str(source.as_deref().unwrap_or(&config.source))?;
                snapshot::run(&config, &uri, &file, skip, &mut stdout()).map(|()| ExitCode::SUCCESS)
            }
            Command::Bench { common, json, threads, frames, source, alone } => {
                let mut config = common.load()?;
                config.inference.threads = threads.map_or(config.inference.threads, |n| n as usize);
                if alone.run(&config)? {
                    return Ok(ExitCode::SUCCESS);
                }
                let source = source.as_deref().map(Uri::from_str).transpose()?;
                bench::run(&config, source.as_ref(), frames as usize, json, &mut stdout()).map(|()| ExitCode::SUCCESS)
            }
        }
    }
}

impl Common {
    fn load(self) -> Result<Config> {
        let config = Config::load(self.config.as_deref()).map_err(|problems| all_of(&problems))?;
        Ok(self.apply(config))
    }

    fn apply(self, mut config: Config) -> Config {
        config.bundle = self.bundle.or(config.bundle);
        config.labels = self.labels.or(config.labels);
        config
    }
}

fn run(config: &Config, frames: Option<u64>) -> Result<()> {
    let deps = Deps { frames, ..Deps::default() };
    signals::handle(&deps).context("cannot install the signal handlers")?;
    let uri = Uri::from_str(&config.source)?;
    let terminal = io::stdout().is_terminal() && output::is_smart(std::env::var_os("TERM").as_deref());
    pipeline::run(config, &uri, output::open(config.output, terminal), &deps)
}
