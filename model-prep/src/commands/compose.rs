//! `model-prep compose`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use spotter_engine::printable::printable_path;
use spotter_engine::score::LOGIT_SCALE_MAX;

use crate::compose;
use crate::console::{PROGRESS_PERCENT, print_lines, progress_bar};
use crate::hub;

/// Arguments of `model-prep compose`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Checkpoint of the image tower, a directory or a name on the Hugging Face hub, with or without a head; a CLIP or SigLIP
    /// checkpoint contributes its image tower.
    #[arg(long, value_name = "DIR")]
    vision: PathBuf,
    /// Subfolder of it that holds the model.
    #[arg(long, value_name = "FOLDER")]
    vision_subfolder: Option<PathBuf>,
    /// Checkpoint of the text tower, a directory or a name on the hub, with or without a head.
    #[arg(long, value_name = "DIR")]
    text: PathBuf,
    /// Subfolder of it that holds the model.
    #[arg(long, value_name = "FOLDER")]
    text_subfolder: Option<PathBuf>,
    /// Width of the embeddings.
    #[arg(long, default_value = "512", value_parser = clap::value_parser!(u32).range(1..=65536))]
    projection_dim: u32,
    /// Initial logit scale, as a natural logarithm.
    #[arg(long, default_value = "2.6592", value_parser = logit_scale, allow_hyphen_values = true)]
    logit_scale_init: f32,
    /// Seed of the random projections.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Directory of the new checkpoint.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Composes the two towers and prints what was written.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let bar = progress_bar(PROGRESS_PERCENT);
    bar.set_message(format!("compose {}", printable_path(&arguments.out)));
    bar.set_length(compose::STEPS);
    let options = compose::Options {
        vision: hub::local(arguments.vision, arguments.vision_subfolder)?,
        text: hub::local(arguments.text, arguments.text_subfolder)?,
        projection_dim: arguments.projection_dim as usize,
        logit_scale_init: arguments.logit_scale_init,
        seed: arguments.seed,
        out: arguments.out,
    };
    let report = compose::compose(&options, &|| bar.inc(1))?;
    bar.finish_and_clear();
    print_lines(&report.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Parses a logit scale whose exponential is a finite 32-bit float.
fn logit_scale(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| number.is_finite() && *number < LOGIT_SCALE_MAX);
    number.ok_or_else(|| format!("expected a number below {LOGIT_SCALE_MAX}"))
}
