//! `model-prep export`.

mod onnx;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args, ValueEnum};
use spotter_engine::bundle::{Manifest, Weights};
use spotter_engine::files;
use spotter_engine::printable::{printable, printable_path};

use self::onnx::OnnxArguments;
use crate::calibrate::{Settings, report};
use crate::checkpoint::{Checkpoint, in_subfolder};
use crate::console::{PROGRESS_PERCENT, PROGRESS_STEPS, print_lines, progress_bar};
use crate::export::{export_calibrated, steps};
use crate::hub;
use crate::import::OnnxModel;
use crate::model::Model;
use crate::overrides::{CropTo, ImageProcessor, ImageSize, Overrides, ResizeTo, ScaleTo};
use crate::plan::{Plan, Plans};

/// Largest file of prompts, in bytes. Every prompt in it is embedded.
const PROMPTS_BYTES_MAX: u64 = 16 << 20;

/// Arguments of `model-prep export`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("overrides").multiple(true)))]
pub(super) struct Arguments {
    /// Checkpoint: the name of a model on the Hugging Face hub (OWNER/NAME or OWNER/NAME@REVISION, if no such path exists),
    /// or a directory with config.json, model.safetensors or pytorch_model.bin, tokenizer.json or the vocabulary files it is
    /// built from, and preprocessor_config.json.
    checkpoint: PathBuf,
    /// Subfolder of it that holds the model.
    #[arg(long, value_name = "FOLDER")]
    subfolder: Option<PathBuf>,
    /// Output bundle: a directory, or a single file if the name ends in .tar.
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// Storage of both towers' weights.
    #[arg(long, value_enum, default_value = "int8")]
    weights: Storage,
    /// Storage of the image tower's weights, if different.
    #[arg(long, value_enum, value_name = "WEIGHTS")]
    image_weights: Option<Storage>,
    /// Storage of the text tower's weights, if different.
    #[arg(long, value_enum, value_name = "WEIGHTS")]
    text_weights: Option<Storage>,
    /// Measure every layer on the images in this folder and keep the most sensitive layers in float. Writes a report
    /// and a plot next to the bundle.
    #[arg(long, value_name = "FOLDER")]
    calibrate: Option<PathBuf>,
    /// Percentage of images whose top-1 label may differ from that of float weights.
    #[arg(long, value_name = "POINTS", default_value = "0.5", requires = "calibrate")]
    max_drop: f32,
    /// File with one prompt per line. Default: the folder names in FOLDER, put into the template; built-in captions if
    /// there are none.
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    prompts: Option<PathBuf>,
    /// Display name of the model. Default: the name of the checkpoint's folder.
    #[arg(long)]
    name: Option<String>,
    /// Resize images to this size instead of the checkpoint's: length of the shorter side in pixels, HEIGHTxWIDTH,
    /// SHORTEST..LONGEST, or none.
    #[arg(long, value_name = "SIZE", group = "overrides")]
    resize: Option<ResizeTo>,
    /// Center-crop images to this size instead of the checkpoint's: side of a square in pixels, HEIGHTxWIDTH, or none.
    #[arg(long, value_name = "SIZE", group = "overrides")]
    crop: Option<CropTo>,
    /// Reproduce this implementation of the image processor instead of the one that the checkpoint's class name and
    /// version select: slow or fast (transformers 4, on Pillow or torchvision), pil or torchvision (transformers 5).
    #[arg(long, value_name = "NAME", group = "overrides")]
    image_processor: Option<ImageProcessor>,
    /// Input size of the image tower instead of the trained one; position embeddings are interpolated. Side of a square
    /// in pixels, or HEIGHTxWIDTH.
    #[arg(long, value_name = "SIZE", group = "overrides")]
    image_size: Option<ImageSize>,
    /// Logit scale instead of the checkpoint's: a natural logarithm, or the factor itself after an x, as in x100.
    #[arg(long, value_name = "LOGARITHM", group = "overrides", allow_hyphen_values = true)]
    logit_scale: Option<ScaleTo>,
    /// Default prompt template; {} stands for the label. May be given several times.
    #[arg(long, value_name = "TEXT", group = "overrides", value_parser = template)]
    template: Vec<String>,
    /// Why the checkpoint is overridden; recorded in the bundle.
    #[arg(long, value_name = "TEXT", requires = "overrides")]
    reason: Option<String>,
    #[command(flatten)]
    onnx: OnnxArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Storage {
    /// 8-bit integers with one scale per output channel.
    Int8,
    /// 4-bit integers with one scale per 32 inputs of an output channel: half the size of int8, for small flash.
    Int4,
    /// 32-bit floats.
    F32,
}

/// Exports the bundle and prints a summary.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { checkpoint, subfolder, out, weights, onnx, .. } = arguments;
    // Beside ONNX towers only a tokenizer and configurations are needed, which are in a folder.
    let path = if onnx.has_towers() { in_subfolder(checkpoint, subfolder) } else { hub::local(checkpoint, subfolder)? };
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
    // The number of steps of a calibration is not known before it ends.
    let bar = progress_bar(if settings.is_some() { PROGRESS_STEPS } else { PROGRESS_PERCENT });
    bar.set_message(format!("export {}", printable_path(&path)));
    bar.set_length(steps(model, &plans));
    let name = arguments.name.unwrap_or(own_name);
    let manifest = export_calibrated(model, &out, &name, plans, settings.as_ref(), &|| bar.inc(1))
        .with_context(|| format!("no bundle was written to {}", out.display()))?;
    bar.finish_and_clear();
    print_lines(&summary(&out, &manifest).join("\n"))?;
    let reports = report::write(&out, &manifest)
        .with_context(|| format!("the report next to {} could not be written", out.display()))?;
    reports.iter().try_for_each(|path| print_lines(&printable_path(path)))?;
    Ok(ExitCode::SUCCESS)
}

/// Summarises the written bundle, one string per line.
fn summary(out: &Path, manifest: &Manifest) -> Vec<String> {
    let bytes: u64 = manifest.files().iter().map(|file| file.bytes).sum();
    let accuracy = &manifest.quantization;
    let (place, name) = (printable_path(out), printable(&manifest.name));
    let mut lines = vec![format!("{place}: {name}, {:.1} MB", bytes as f64 / 1e6)];
    for made in &manifest.overrides {
        let line = format!("{}: {} instead of {}: {}", made.key, made.to, made.from, made.reason);
        lines.push(printable(&line).into_owned());
    }
    let (images, texts) = (accuracy.image_cosine_min, accuracy.text_cosine_min);
    lines.push(format!("smallest cosine to float: images {images}, texts {texts}"));
    lines.extend(storage_words(manifest));
    if let Some(found) = &accuracy.calibration {
        let floats = accuracy.layers.iter().filter(|layer| layer.stored == Weights::F32).count();
        lines.push(format!(
            "{} of {} layers stay in float; the top-1 label changes for {:.1}% of the images, {:.1}% with all layers \
             quantised",
            floats,
            accuracy.layers.len(),
            found.drop,
            found.drop_without_floats
        ));
    }
    lines
}

/// How the towers are stored, in words, and the layers that lose too much as integers; nothing if all layers are stored as
/// asked for, or a calibration chose.
fn storage_words(manifest: &Manifest) -> Vec<String> {
    let accuracy = &manifest.quantization;
    if accuracy.calibration.is_some() || accuracy.exceptions.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![printable(&accuracy.recipe).into_owned()];
    let halves = accuracy.exceptions.iter().filter(|(_, stored)| **stored == Weights::F16);
    let halves: Vec<_> = halves.map(|(name, _)| printable(name)).collect();
    if !halves.is_empty() {
        lines.push(format!("in 16-bit floats: {}", halves.join(", ")));
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

fn settings(folder: PathBuf, prompts: Option<&Path>, max_drop: f32) -> anyhow::Result<Settings> {
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
    Ok(Settings { folder, prompts, max_drop })
}
