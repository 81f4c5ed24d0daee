//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::bundle::{Bundle, Weights};

use crate::checkpoint::Checkpoint;
use crate::overrides::{CropTo, ImageSize, Overrides, ResizeTo};
use crate::plan::Plans;
use crate::verify::COSINE_MIN;
use crate::{evaluate, export, verify};

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
    #[command(group(ArgGroup::new("overrides").multiple(true)))]
    Export {
        /// Directory with config.json, model.safetensors, tokenizer.json or vocab.txt, preprocessor_config.json.
        checkpoint: PathBuf,
        /// The bundle: a directory, or one file where the name ends in .tar.
        #[arg(long, value_name = "BUNDLE")]
        out: PathBuf,
        /// How weights are stored.
        #[arg(long, value_enum, default_value = "int8")]
        weights: Storage,
        /// Name of the model, for people; the checkpoint folder's name if left out.
        #[arg(long)]
        name: Option<String>,
        /// Resize pictures to this, not to what the checkpoint says: pixels of the shorter side, or HEIGHTxWIDTH,
        /// SHORTEST..LONGEST, none.
        #[arg(long, value_name = "SIZE", group = "overrides")]
        resize: Option<ResizeTo>,
        /// Crop the middle of this size, not of what the checkpoint says: pixels of a square's side, or HEIGHTxWIDTH,
        /// none.
        #[arg(long, value_name = "SIZE", group = "overrides")]
        crop: Option<CropTo>,
        /// Make the image tower for pictures of this size, not of what it was trained for; position embeddings are
        /// interpolated. Pixels of a square's side, or HEIGHTxWIDTH.
        #[arg(long, value_name = "SIZE", group = "overrides")]
        image_size: Option<ImageSize>,
        /// Why the checkpoint is overridden; the bundle keeps it on record.
        #[arg(long, value_name = "TEXT", requires = "overrides")]
        reason: Option<String>,
    },
    /// Compare a bundle with its checkpoint; fails where a cosine is under 0.995.
    Verify {
        /// The bundle.
        bundle: PathBuf,
        /// The checkpoint that it was made of.
        #[arg(long)]
        checkpoint: PathBuf,
        /// Inputs and embeddings from the reference: pixel_values, input_ids, attention_mask, token_type_ids,
        /// image_embeds, text_embeds.
        #[arg(long, value_name = "FILE.safetensors")]
        goldens: Option<PathBuf>,
    },
    /// Measure how well a bundle names pictures, or finds them by their captions.
    Evaluate(evaluate::command::Arguments),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Storage {
    /// 8-bit integers with one scale per output channel.
    Int8,
    /// 32-bit floats.
    F32,
}

/// Does what the command line says.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let bar = progress_bar();
    let tick = || bar.inc(1);
    match arguments.command {
        Command::Export { checkpoint, out, weights, name, resize, crop, image_size, reason } => {
            bar.set_message(format!("export {}", checkpoint.display()));
            let checkpoint = Checkpoint::open_with(&checkpoint, &Overrides { resize, crop, image_size, reason })?;
            let weights = match weights {
                Storage::Int8 => Weights::Int8,
                Storage::F32 => Weights::F32,
            };
            let plans = Plans::from(weights);
            bar.set_length(export::steps(&checkpoint, &plans));
            let name = name.unwrap_or_else(|| checkpoint.name());
            let manifest = export::export(&checkpoint, &out, &name, plans, &tick)
                .with_context(|| format!("no bundle was written to {}", out.display()))?;
            bar.finish_and_clear();
            let bytes: u64 = manifest.files().iter().map(|file| file.bytes).sum();
            let accuracy = &manifest.quantization;
            println!("{}: {}, {:.1} MB", out.display(), manifest.name, bytes as f64 / 1e6);
            for made in &manifest.overrides {
                println!("{}: {} in place of {}: {}", made.key, made.to, made.from, made.reason);
            }
            println!(
                "smallest cosine to float: images {}, texts {}",
                accuracy.image_cosine_min, accuracy.text_cosine_min
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { bundle, checkpoint, goldens } => {
            bar.set_message(format!("verify {}", bundle.display()));
            let overrides = Overrides::recorded(&Bundle::open(&bundle)?.manifest().overrides)
                .with_context(|| bundle.display().to_string())?;
            let checkpoint = Checkpoint::open_with(&checkpoint, &overrides)?;
            bar.set_length(verify::steps(&checkpoint));
            let report = verify::verify(&bundle, &checkpoint, goldens.as_deref(), &tick)?;
            bar.finish_and_clear();
            print!("{report}");
            if report.passed() {
                return Ok(ExitCode::SUCCESS);
            }
            anyhow::bail!("{}: a cosine is under {COSINE_MIN}", bundle.display())
        }
        Command::Evaluate(arguments) => evaluate::command::run(&arguments),
    }
}

/// On standard error; hidden where that is no terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} % {elapsed}") {
        bar.set_style(style);
    }
    bar
}
