//! `model-prep export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::bundle::{Manifest, Weights};
use spotter_engine::files;
use spotter_engine::printable::{printable, printable_path};

use super::{export_calibrated, steps};
use crate::checkpoint::Checkpoint;
use crate::cli::inside;
use crate::console::print_lines;
use crate::import::{OnnxArguments, OnnxModel};
use crate::model::Model;
use crate::overrides::{CropTo, ImageProcessor, ImageSize, Overrides, ResizeTo, ScaleTo};
use crate::plan::{Plan, Plans};
use crate::{calibrate, report};

/// Bytes of the largest file of prompts; all of them are embedded.
const PROMPTS_BYTES_MAX: u64 = 16 << 20;

/// Arguments of `model-prep export`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("overrides").multiple(true)))]
pub(crate) struct Arguments {
    /// Directory with config.json, model.safetensors or pytorch_model.bin, tokenizer.json or what stands for it,
    /// preprocessor_config.json.
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
    /// Follow this implementation of the image processor, not the one that the checkpoint's class name and version mean:
    /// slow or fast (transformers 4, on Pillow or torchvision), pil or torchvision (transformers 5).
    #[arg(long, value_name = "NAME", group = "overrides")]
    image_processor: Option<ImageProcessor>,
    /// Make the image tower for pictures of this size, not of what it was trained for; position embeddings are
    /// interpolated. Pixels of a square's side, or HEIGHTxWIDTH.
    #[arg(long, value_name = "SIZE", group = "overrides")]
    image_size: Option<ImageSize>,
    /// The factor on cosines by its natural logarithm, not the checkpoint's, or the factor itself behind an x: x100.
    #[arg(long, value_name = "LOGARITHM", group = "overrides", allow_hyphen_values = true)]
    logit_scale: Option<ScaleTo>,
    /// Prompt template for labels that name none; {} stands for the label. May be given several times.
    #[arg(long, value_name = "TEXT", group = "overrides", value_parser = template)]
    template: Vec<String>,
    /// Why the checkpoint is overridden; the bundle keeps it on record.
    #[arg(long, value_name = "TEXT", requires = "overrides")]
    reason: Option<String>,
    #[command(flatten)]
    onnx: OnnxArguments,
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

/// Writes a bundle and says what it is like.
pub(crate) fn run(arguments: Arguments, bar: &ProgressBar) -> anyhow::Result<ExitCode> {
    let Arguments { checkpoint, subfolder, out, weights, onnx, .. } = arguments;
    let path = inside(checkpoint, subfolder);
    bar.set_message(format!("export {}", printable_path(&path)));
    let overrides = Overrides {
        resize: arguments.resize,
        crop: arguments.crop,
        image_processor: arguments.image_processor,
        image_size: arguments.image_size,
        logit_scale: arguments.logit_scale,
        templates: arguments.template,
        reason: arguments.reason,
    };
    let plan = |own: Option<Storage>| Plan::from(Weights::from(own.unwrap_or(weights)));
    let plans = Plans { image: plan(arguments.image_weights), text: plan(arguments.text_weights) };
    let prompts = arguments.prompts.as_deref();
    let settings = arguments.calibrate.map(|folder| settings(folder, prompts, arguments.max_drop)).transpose()?;
    let (checkpoint, towers);
    let (model, own_name) = match onnx.files(&path) {
        Some(files) => {
            towers = OnnxModel::open(&files, &overrides)?;
            (Model::from(&towers), towers.name().to_owned())
        }
        None => {
            checkpoint = Checkpoint::open_with(&path, &overrides)?;
            (Model::from(&checkpoint), checkpoint.name())
        }
    };
    if settings.is_some() {
        // How many runs a calibration takes shows on the way.
        bar.set_style(ProgressStyle::with_template("{msg} {pos} steps {elapsed}")?);
    } else {
        bar.set_length(steps(model, &plans));
    }
    let name = arguments.name.unwrap_or(own_name);
    let manifest = export_calibrated(model, &out, &name, plans, settings.as_ref(), &|| bar.inc(1))
        .with_context(|| format!("no bundle was written to {}", out.display()))?;
    bar.finish_and_clear();
    print_lines(&summary(&out, &manifest).join("\n"))?;
    let reports = report::write(&out, &manifest)
        .with_context(|| format!("the report beside {} could not be written", out.display()))?;
    reports.iter().try_for_each(|path| print_lines(&printable_path(path)))?;
    Ok(ExitCode::SUCCESS)
}

/// Lines about a bundle.
fn summary(out: &Path, manifest: &Manifest) -> Vec<String> {
    let bytes: u64 = manifest.files().iter().map(|file| file.bytes).sum();
    let accuracy = &manifest.quantization;
    let (place, name) = (printable_path(out), printable(&manifest.name));
    let mut lines = vec![format!("{place}: {name}, {:.1} MB", bytes as f64 / 1e6)];
    for made in &manifest.overrides {
        let line = format!("{}: {} in place of {}: {}", made.key, made.to, made.from, made.reason);
        lines.push(printable(&line).into_owned());
    }
    let (images, texts) = (accuracy.image_cosine_min, accuracy.text_cosine_min);
    lines.push(format!("smallest cosine to float: images {images}, texts {texts}"));
    if let Some(found) = &accuracy.calibration {
        let floats = accuracy.layers.iter().filter(|layer| layer.stored == Weights::F32).count();
        lines.push(format!(
            "{} of {} layers stay floats; {:.1} of 100 pictures have another winning prompt, {:.1} without them",
            floats,
            accuracy.layers.len(),
            found.drop,
            found.drop_without_floats
        ));
    }
    lines
}

fn template(text: &str) -> Result<String, String> {
    if text.matches("{}").count() == 1 { Ok(text.to_owned()) } else { Err("expected one {} for the label".into()) }
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
            let read = files::read(path, PROMPTS_BYTES_MAX).map_err(anyhow::Error::from);
            let text = read.and_then(|bytes| Ok(String::from_utf8(bytes)?));
            let text = text.with_context(|| path.display().to_string())?;
            let lines: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
            anyhow::ensure!(lines.len() > 1, "{}: expected two prompts or more, one on each line", path.display());
            lines
        }
    };
    Ok(calibrate::Settings { folder, prompts, max_drop })
}
