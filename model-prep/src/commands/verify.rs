//! `model-prep verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use spotter_engine::bundle::Bundle;
use spotter_engine::printable::printable_path;

use crate::checkpoint::Checkpoint;
use crate::console::{PROGRESS_PERCENT, print_lines, progress_bar};
use crate::hub;
use crate::overrides::Overrides;
use crate::verify;

/// Arguments of `model-prep verify`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The bundle.
    bundle: PathBuf,
    /// The checkpoint that it was exported from: a directory, or a name on the hub.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Subfolder of it that holds the model.
    #[arg(long, value_name = "FOLDER")]
    subfolder: Option<PathBuf>,
    /// Inputs and embeddings from the reference: pixel_values, input_ids, attention_mask, token_type_ids, image_embeds,
    /// text_embeds. If the file's metadata has `prompts`, a JSON list with the text of each row of input_ids, the
    /// bundle's tokens for them are compared too.
    #[arg(long, value_name = "FILE.safetensors")]
    goldens: Option<PathBuf>,
    /// Smallest cosine to float at which the bundle passes. Default: 0.995, and 0.99 for a tower with int4 weights.
    #[arg(long, value_name = "COSINE", allow_hyphen_values = true)]
    min_cosine: Option<f32>,
}

/// Compares the bundle with its checkpoint and prints the cosines; an error if the bundle fails.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { bundle, checkpoint, subfolder, goldens, min_cosine } = arguments;
    if let Some(floor) = min_cosine {
        anyhow::ensure!((-1.0..=1.0).contains(&floor), "--min-cosine {floor}: expected a number from -1 to 1");
    }
    let bar = progress_bar(PROGRESS_PERCENT);
    bar.set_message(format!("verify {}", printable_path(&bundle)));
    let overrides = Overrides::recorded(&Bundle::open(&bundle)?.manifest().overrides)
        .with_context(|| bundle.display().to_string())?;
    let checkpoint = Checkpoint::open_with(&hub::local(checkpoint, subfolder)?, &overrides)?;
    bar.set_length(verify::steps(&checkpoint));
    let report = verify::verify(&bundle, &checkpoint, goldens.as_deref(), min_cosine, &|| bar.inc(1))?;
    bar.finish_and_clear();
    print_lines(&report.to_string())?;
    match report.fault() {
        None => Ok(ExitCode::SUCCESS),
        Some(fault) => anyhow::bail!("{}: {fault}", bundle.display()),
    }
}
