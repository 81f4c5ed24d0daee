//! `spotter run`: labels the frames of a source until it ends or is stopped.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use clap::Args;

use super::ConfigArgs;
use crate::board::signals;
use crate::config::{Config, Output};
use crate::console::is_smart;
use crate::output;
use crate::pipeline::{self, Typed};
use crate::process::LoopControl;
use crate::source::Uri;

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    limits: Limits,
}

/// What is shown, how, and for how long.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// auto, /dev/video0, csi://0, rtsp://CAMERA/PATH, http://CAMERA/PATH, video.mp4, frames:video.mp4 (every frame),
    /// "exec:PROGRAM ARGUMENT ..." (MJPEG from a program), - (MJPEG on standard input),
    /// an image, a folder or test://shapes
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// Output format
    #[arg(long, value_enum, ignore_case = true)]
    output: Option<Output>,
    /// Stop after this many labelled frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
}

impl Run {
    pub(super) fn run(self) -> Result<ExitCode> {
        start(self.config.load()?, self.limits, None)
    }
}

/// Runs the loop with `limits`, which override the configuration, until it ends or is stopped.
pub(super) fn start(mut config: Config, limits: Limits, typed: Option<Typed>) -> Result<ExitCode> {
    config.source = limits.source.unwrap_or(config.source);
    config.output = limits.output.unwrap_or(config.output);
    let control = LoopControl { frames: limits.frames, ..LoopControl::default() };
    signals::handle(&control).context("cannot install the signal handlers")?;
    let uri = Uri::from_str(&config.source)?;
    let terminal = io::stdout().is_terminal() && is_smart(std::env::var_os("TERM").as_deref());
    pipeline::run_typed(&config, &uri, typed, output::open(config.output, terminal), &control)?;
    Ok(ExitCode::SUCCESS)
}
