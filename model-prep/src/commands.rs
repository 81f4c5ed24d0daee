//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::bundle::Bundle;
use spotter_engine::printable::printable_path;

use crate::checkpoint::Checkpoint;
use crate::console::print_lines;
use crate::overrides::Overrides;
use crate::{compose, evaluate, export, verify};

/// Turns a Hugging Face VisionTextDualEncoder checkpoint into the bundle that Spotter runs.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a bundle of a checkpoint.
    Export(Box<export::command::Arguments>),
    /// Make one dual encoder of an image tower and a text tower. It must be tuned before it is good for anything.
    Compose(Box<ComposeArguments>),
    /// Compare a bundle with its checkpoint; fails where a cosine is under 0.995 or a prompt has other tokens.
    Verify {
        /// The bundle.
        bundle: PathBuf,
        /// The checkpoint that it was made of.
        #[arg(long)]
        checkpoint: PathBuf,
        /// Where in that directory the model lies.
        #[arg(long, value_name = "FOLDER")]
        subfolder: Option<PathBuf>,
        /// Inputs and embeddings from the reference: pixel_values, input_ids, attention_mask, token_type_ids,
        /// image_embeds, text_embeds. Where the file's metadata has `prompts`, a JSON list with the text of each row of
        /// input_ids, the tokens that the bundle makes of them are compared too.
        #[arg(long, value_name = "FILE.safetensors")]
        goldens: Option<PathBuf>,
    },
    /// Measure how well a bundle names pictures, or finds them by their captions.
    Evaluate(evaluate::command::Arguments),
}

/// Arguments of `model-prep compose`.
#[derive(Debug, Args)]
struct ComposeArguments {
    /// Checkpoint of the image tower, with any head or none; of CLIP and SigLIP the image tower is taken.
    #[arg(long, value_name = "DIR")]
    vision: PathBuf,
    /// Where in that directory the model lies.
    #[arg(long, value_name = "FOLDER")]
    vision_subfolder: Option<PathBuf>,
    /// Checkpoint of the text tower, with any head or none.
    #[arg(long, value_name = "DIR")]
    text: PathBuf,
    /// Where in that directory the model lies.
    #[arg(long, value_name = "FOLDER")]
    text_subfolder: Option<PathBuf>,
    /// Width of the embeddings.
    #[arg(long, default_value = "512", value_parser = clap::value_parser!(u32).range(1..=65536))]
    projection_dim: u32,
    /// Natural logarithm of the factor on cosines.
    #[arg(long, default_value = "2.6592", value_parser = logit_scale, allow_hyphen_values = true)]
    logit_scale_init: f32,
    /// Chooses the random numbers of the new projections.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// The new checkpoint, a directory.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Does what the command line says.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let bar = progress_bar();
    let tick = || bar.inc(1);
    match arguments.command {
        Command::Export(arguments) => export::command::run(*arguments, &bar),
        Command::Compose(arguments) => {
            bar.set_message(format!("compose {}", printable_path(&arguments.out)));
            bar.set_length(compose::STEPS);
            let options = compose::Options {
                vision: inside(arguments.vision, arguments.vision_subfolder),
                text: inside(arguments.text, arguments.text_subfolder),
                projection_dim: arguments.projection_dim as usize,
                logit_scale_init: arguments.logit_scale_init,
                seed: arguments.seed,
                out: arguments.out,
            };
            let report = compose::compose(&options, &tick)?;
            bar.finish_and_clear();
            print_lines(&report.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { bundle, checkpoint, subfolder, goldens } => {
            bar.set_message(format!("verify {}", printable_path(&bundle)));
            let overrides = Overrides::recorded(&Bundle::open(&bundle)?.manifest().overrides)
                .with_context(|| bundle.display().to_string())?;
            let checkpoint = Checkpoint::open_with(&inside(checkpoint, subfolder), &overrides)?;
            bar.set_length(verify::steps(&checkpoint));
            let report = verify::verify(&bundle, &checkpoint, goldens.as_deref(), &tick)?;
            bar.finish_and_clear();
            print_lines(&report.to_string())?;
            match report.fault() {
                None => Ok(ExitCode::SUCCESS),
                Some(fault) => anyhow::bail!("{}: {fault}", bundle.display()),
            }
        }
        Command::Evaluate(arguments) => evaluate::command::run(&arguments),
    }
}

/// The folder with the model in a checkpoint.
pub(crate) fn inside(checkpoint: PathBuf, subfolder: Option<PathBuf>) -> PathBuf {
    subfolder.map_or_else(|| checkpoint.clone(), |folder| checkpoint.join(folder))
}

/// A factor on cosines whose exponential is a 32-bit float.
fn logit_scale(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|n: &f32| n.is_finite() && *n < 88.0);
    number.ok_or_else(|| "expected a number below 88".to_owned())
}

/// On standard error; hidden where that is no terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} % {elapsed}") {
        bar.set_style(style);
    }
    bar
}
