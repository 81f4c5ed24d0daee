//! `model-prep tune`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;
use indicatif::ProgressBar;
use spotter_engine::printable::printable_path;

use crate::checkpoint::Checkpoint;
use crate::console::{PROGRESS_ITEMS, print_lines, progress_bar};
use crate::evaluate::read_templates;
use crate::hub;
use crate::tune::{Event, Lock, Locking, Options, tune};

/// Progress over steps, with their loss.
const PROGRESS_TRAINING: &str = "{msg} {wide_bar} {pos}/{len} pairs {per_sec} {eta}";

/// Arguments of `model-prep tune`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Checkpoint of a dual encoder: a directory, such as `compose` writes, or a name on the Hugging Face hub.
    checkpoint: PathBuf,
    /// Subfolder of it that holds the model.
    #[arg(long, value_name = "FOLDER")]
    subfolder: Option<PathBuf>,
    /// Images to train on: a folder with one subfolder per class, or images with a captions.tsv, captions.txt,
    /// captions.csv or captions.jsonl; or a zip archive of either. May be given several times.
    #[arg(long, value_name = "DATA", required = true)]
    data: Vec<PathBuf>,
    /// Directory of the result: the best checkpoint, in `last` the last one, in `tune` a plot and what --resume needs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Towers that stay as they are. Projections and the logit scale are always trained.
    #[arg(long, value_enum, default_value = "image")]
    lock: Lock,
    /// Train only so many of the last layers of a tower that is not locked.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    train_layers: Option<u32>,
    /// Times that every image is seen. Default: 10.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "max_minutes")]
    epochs: Option<u64>,
    /// Train for so many minutes instead. The learning rate reaches zero at their end.
    #[arg(long, value_name = "MINUTES", value_parser = positive)]
    max_minutes: Option<f64>,
    /// Pairs of a step: each image is to be told apart from so many. Memory grows with the images of two steps only.
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = clap::value_parser!(u32).range(2..=8192))]
    batch: u32,
    /// Largest learning rate. Default: 1e-3 if only projections are trained, else 1e-4.
    #[arg(long, value_name = "RATE", value_parser = positive)]
    lr: Option<f64>,
    /// Steps in which the learning rate grows. Default: a tenth of all, at most 200.
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u64>,
    /// Decay of weights, but of no biases and norms.
    #[arg(long, value_name = "DECAY", default_value = "0.1", value_parser = not_negative)]
    weight_decay: f64,
    /// Seed of all random numbers.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Continue a run that was stopped, with the same options.
    #[arg(long)]
    resume: bool,
    /// Images to evaluate after each epoch, in the same forms. Default: a twentieth of DATA, which is then not trained on.
    #[arg(long, value_name = "DATA")]
    eval: Vec<PathBuf>,
    /// File of prompt templates for the classes' names: one per line, each with one {}. Default: eight usual ones.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
}

/// Tunes the checkpoint and prints the results.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = hub::local(arguments.checkpoint, arguments.subfolder)?;
    let checkpoint = Checkpoint::open(&path)?;
    let options = Options {
        data: arguments.data,
        eval: arguments.eval,
        out: arguments.out,
        locking: Locking { lock: arguments.lock, train_layers: arguments.train_layers.map(|count| count as usize) },
        epochs: arguments.epochs,
        minutes: arguments.max_minutes,
        batch: arguments.batch as usize,
        rate: arguments.lr,
        warmup: arguments.warmup,
        weight_decay: arguments.weight_decay,
        seed: arguments.seed,
        templates: arguments.templates.as_deref().map(read_templates).transpose()?.unwrap_or_default(),
        resume: arguments.resume,
    };
    let bar = Mutex::new(progress_bar(PROGRESS_ITEMS));
    let batch = u64::from(arguments.batch);
    let listener = |event: &Event<'_>| {
        if let Ok(mut bar) = bar.lock() {
            show(&mut bar, event, batch);
        }
    };
    let report = tune(&checkpoint, &options, &listener);
    if let Ok(bar) = bar.lock() {
        bar.finish_and_clear();
    }
    let report = report?;
    let mut lines = vec![format!("{}: trained for {:.0} seconds", printable_path(&options.out), report.seconds)];
    for (name, index) in [("before training", 0), ("best", report.best)] {
        if let Some(epoch) = report.epochs.get(index) {
            let results = epoch.results.iter().map(|result| format!("{name}, epoch {}: {result}", epoch.epoch));
            lines.extend(results);
        }
    }
    print_lines(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn show(bar: &mut ProgressBar, event: &Event<'_>, batch: u64) {
    match event {
        Event::Prepared { what, done, of } => {
            bar.set_message(format!("{what} through the locked tower"));
            bar.set_length(*of as u64);
            bar.set_position(*done as u64);
        }
        Event::Started { step, steps, .. } => {
            bar.finish_and_clear();
            *bar = progress_bar(PROGRESS_TRAINING);
            bar.set_position(step * batch);
            bar.set_length(steps.unwrap_or(0) * batch);
            bar.reset_eta();
        }
        Event::Step { step, steps, loss } => {
            bar.set_message(format!("loss {loss:.4}"));
            bar.set_length(steps.unwrap_or(*step) * batch);
            bar.set_position(step * batch);
        }
        Event::Epoch(epoch) => {
            let loss = epoch.loss.map_or("before training".to_owned(), |loss| format!("loss {loss:.4}"));
            let results: Vec<String> = epoch.results.iter().map(ToString::to_string).collect();
            say(bar, &format!("epoch {}, step {}, {loss}: {}", epoch.epoch, epoch.step, results.join("; ")));
        }
        Event::Note(text) => say(bar, text),
    }
}

/// Prints above the bar; to the log if there is no terminal for it.
fn say(bar: &ProgressBar, text: &str) {
    if bar.is_hidden() {
        // Progress is worth a line where nobody sees a bar.
        text.lines().for_each(|line| log::warn!("{line}"));
    } else {
        bar.println(text);
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number of 0 or more".to_owned())
}
