//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::bundle::{Bundle, Weights};

use crate::checkpoint::Checkpoint;
use crate::overrides::{CropTo, ImageSize, Overrides, ResizeTo};
use crate::plan::{Plan, Plans};
use crate::verify::COSINE_MIN;
use crate::{calibrate, compose, evaluate, export, report, verify};

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
        /// Directory with config.json, model.safetensors or pytorch_model.bin, tokenizer.json or vocab.txt, preprocessor_config.json.
        checkpoint: PathBuf,
        /// Where in that directory the model lies.
        #[arg(long, value_name = "FOLDER")]
        subfolder: Option<PathBuf>,
        /// The bundle: a directory, or one file where the name ends in .tar.
        #[arg(long, value_name = "BUNDLE")]
        out: PathBuf,
        /// How the weights of both towers are stored.
        #[arg(long, value_enum, default_value = "int8")]
        weights: Storage,
        /// The same for the image tower alone.
        #[arg(long, value_enum, value_name = "WEIGHTS")]
        image_weights: Option<Storage>,
        /// The same for the text tower alone.
        #[arg(long, value_enum, value_name = "WEIGHTS")]
        text_weights: Option<Storage>,
        /// Measure every layer on the pictures in this folder, and keep in float what costs more than it saves. Writes a
        /// report and a plot beside the bundle.
        #[arg(long, value_name = "FOLDER")]
        calibrate: Option<PathBuf>,
        /// Of 100 pictures, how many may have another winning prompt than with float weights.
        #[arg(long, value_name = "POINTS", default_value = "0.5", requires = "calibrate")]
        max_drop: f32,
        /// A file with a prompt on each line; else the names of the folders in FOLDER fill the template, or there are
        /// built-in captions.
        #[arg(long, value_name = "FILE", requires = "calibrate")]
        prompts: Option<PathBuf>,
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
    /// Make one dual encoder of an image tower and a text tower. It must be tuned before it is good for anything.
    Compose {
        /// Checkpoint of the image tower, with any head or none; of CLIP and SigLIP the image tower is taken.
        #[arg(long, value_name = "DIR")]
        vision: PathBuf,
        /// Checkpoint of the text tower, with any head or none.
        #[arg(long, value_name = "DIR")]
        text: PathBuf,
        /// Width of the embeddings.
        #[arg(long, default_value = "512", value_parser = clap::value_parser!(u32).range(1..=65536))]
        projection_dim: u32,
        /// Natural logarithm of the factor on cosines.
        #[arg(long, default_value = "2.6592", value_parser = logit_scale)]
        logit_scale_init: f32,
        /// Chooses the random numbers of the new projections.
        #[arg(long, default_value = "0")]
        seed: u64,
        /// The new checkpoint, a directory.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Compare a bundle with its checkpoint; fails where a cosine is under 0.995.
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
    /// 4-bit integers with one scale for 32 inputs of an output channel: half the size again, for little flash.
    Int4,
    /// 32-bit floats.
    F32,
}

/// Does what the command line says.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let bar = progress_bar();
    let tick = || bar.inc(1);
    match arguments.command {
        Command::Export {
            checkpoint,
            subfolder,
            out,
            weights,
            image_weights,
            text_weights,
            calibrate,
            max_drop,
            prompts,
            name,
            resize,
            crop,
            image_size,
            reason,
        } => {
            bar.set_message(format!("export {}", checkpoint.display()));
            let overrides = Overrides { resize, crop, image_size, reason };
            let checkpoint = Checkpoint::open_with(&inside(checkpoint, subfolder), &overrides)?;
            let plan = |own: Option<Storage>| Plan::from(Weights::from(own.unwrap_or(weights)));
            let plans = Plans { image: plan(image_weights), text: plan(text_weights) };
            let settings = calibrate.map(|folder| settings(folder, prompts.as_deref(), max_drop)).transpose()?;
            if settings.is_some() {
                // How many runs a calibration takes shows on the way.
                bar.set_style(ProgressStyle::with_template("{msg} {pos} steps {elapsed}")?);
            } else {
                bar.set_length(export::steps(&checkpoint, &plans));
            }
            let name = name.unwrap_or_else(|| checkpoint.name());
            let manifest = export::export_calibrated(&checkpoint, &out, &name, plans, settings.as_ref(), &tick)
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
            if let Some(found) = &accuracy.calibration {
                let floats = accuracy.layers.iter().filter(|layer| layer.stored == Weights::F32).count();
                println!(
                    "{} of {} layers stay floats; {:.1} of 100 pictures have another winning prompt, {:.1} without them",
                    floats,
                    accuracy.layers.len(),
                    found.drop,
                    found.drop_without_floats
                );
            }
            let reports = report::write(&out, &manifest)
                .with_context(|| format!("the report beside {} could not be written", out.display()))?;
            reports.iter().for_each(|path| println!("{}", path.display()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Compose { vision, text, projection_dim, logit_scale_init, seed, out } => {
            bar.set_message(format!("compose {}", out.display()));
            bar.set_length(compose::STEPS);
            let projection_dim = projection_dim as usize;
            let options = compose::Options { vision, text, projection_dim, logit_scale_init, seed, out };
            let report = compose::compose(&options, &tick)?;
            bar.finish_and_clear();
            print!("{report}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { bundle, checkpoint, subfolder, goldens } => {
            bar.set_message(format!("verify {}", bundle.display()));
            let overrides = Overrides::recorded(&Bundle::open(&bundle)?.manifest().overrides)
                .with_context(|| bundle.display().to_string())?;
            let checkpoint = Checkpoint::open_with(&inside(checkpoint, subfolder), &overrides)?;
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

impl From<Storage> for Weights {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Int8 => Self::Int8,
            Storage::Int4 => Self::Int4,
            Storage::F32 => Self::F32,
        }
    }
}

fn settings(folder: PathBuf, prompts: Option<&Path>, max_drop: f32) -> anyhow::Result<calibrate::Settings> {
    anyhow::ensure!((0.0..=100.0).contains(&max_drop), "--max-drop {max_drop}: expected a number from 0 to 100");
    let prompts = match prompts {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let lines: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
            anyhow::ensure!(lines.len() > 1, "{}: expected two prompts or more, one on each line", path.display());
            lines
        }
    };
    Ok(calibrate::Settings { folder, prompts, max_drop })
}

/// The folder with the model in a checkpoint.
fn inside(checkpoint: PathBuf, subfolder: Option<PathBuf>) -> PathBuf {
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
