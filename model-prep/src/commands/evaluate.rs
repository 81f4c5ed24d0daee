//! `model-prep evaluate`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use spotter_engine::console::write_line;

use crate::console::{PROGRESS_ITEMS, progress_bar, stdout};
use crate::evaluate::{
    EvaluateError, ImageSet, Options, Outcome, Places, Progress, Question, evaluate, read_templates, svg,
};

/// Arguments of `model-prep evaluate`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The bundle.
    bundle: PathBuf,
    /// A folder with one subfolder per class, or with images and a captions.tsv or captions.txt: one line per caption
    /// with the image's file, a tab, and the sentence. Or captions.csv, or captions.jsonl with "file_name" and "text". Or
    /// a zip archive of such a folder.
    folder: PathBuf,
    /// Names of the classes: one line per class with its folder, a tab, and its names, separated by commas; may list
    /// classes without images. Default: FOLDER/classes.tsv if it exists, else the folders' names.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// File of captions, if it is not in FOLDER.
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    captions: Option<PathBuf>,
    /// File of prompt templates for the classes' names: one per line, each with one {}. Default: the bundle's own.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// Another bundle to compare with on the same images, such as the one with float weights.
    #[arg(long, value_name = "BUNDLE")]
    against: Option<PathBuf>,
    /// Evaluate at most this many images, spread evenly over the folder.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Number of images to process in parallel. Default: the number of cores.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Write the confusion matrix as an SVG image.
    #[arg(long, value_name = "FILE.svg")]
    confusion: Option<PathBuf>,
    /// Print the whole report as one JSON document.
    #[arg(long)]
    json: bool,
}

/// Evaluates the bundle and prints the report.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let places = Places { labels: arguments.labels.clone(), captions: arguments.captions.clone() };
    let mut set = ImageSet::open(&arguments.folder, &places)?;
    if let Some(limit) = arguments.limit {
        set.limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if arguments.confusion.is_some() && matches!(set.question(), Question::Captions(_)) {
        let why = "a set with captions has no classes";
        return Err(EvaluateError::Misplaced { option: "--confusion", why }.into());
    }
    let options = Options {
        against: arguments.against.clone(),
        templates: arguments.templates.as_deref().map(read_templates).transpose()?.unwrap_or_default(),
        threads: arguments.threads,
    };
    let bar = progress_bar(PROGRESS_ITEMS);
    let listener = |progress| match progress {
        Progress::Sentences(count) | Progress::Images(count) => {
            bar.set_message(if matches!(progress, Progress::Images(_)) { "images" } else { "texts" });
            bar.reset();
            bar.set_length(count as u64);
        }
        Progress::One => bar.inc(1),
    };
    let report = evaluate(&arguments.bundle, &set, &options, &listener);
    bar.finish_and_clear();
    let report = report?;
    if let (Some(path), Some(Outcome::Classification(found))) =
        (&arguments.confusion, report.bundles.first().map(|bundle| &bundle.outcome))
    {
        std::fs::write(path, svg(found)).with_context(|| path.display().to_string())?;
    }
    let text = if arguments.json { serde_json::to_string(&report)? } else { report.to_string() };
    let mut out = stdout();
    if arguments.json {
        out.write_all((text + "\n").as_bytes())
    } else {
        text.lines().try_for_each(|line| write_line(&mut out, format_args!("{line}")))
    }
    .context("standard output")?;
    Ok(ExitCode::SUCCESS)
}
