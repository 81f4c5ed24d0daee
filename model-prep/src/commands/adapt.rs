//! `model-prep adapt`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use spotter_engine::printable::{printable, printable_path};

use crate::adapt::{Options, adapt};
use crate::console::{PROGRESS_ITEMS, print_lines, progress_bar};
use crate::evaluate::{ImageSet, Places, Progress, read_templates};

/// Arguments of `model-prep adapt`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The bundle.
    bundle: PathBuf,
    /// A folder with one subfolder per label, with 1 to 50 images each; or a zip archive of it.
    #[arg(long, value_name = "FOLDER")]
    examples: PathBuf,
    /// The labels' names: one line per label with its folder, a tab, and its names, separated by commas. Default:
    /// FOLDER/classes.tsv if it exists, else the folders' names.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// File of prompt templates for the names: one per line, each with one {}. Default: the bundle's own. An adapted label
    /// is used by labels with the same prompts and templates.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// The new bundle. Default: BUNDLE is replaced.
    #[arg(long, value_name = "BUNDLE")]
    out: Option<PathBuf>,
    /// Number of images to process in parallel. Default: the number of cores.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

/// Adapts the labels and prints what it changes.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let places = Places { labels: arguments.labels.clone(), captions: None };
    let set = ImageSet::open(&arguments.examples, &places)?;
    let out = arguments.out.clone().unwrap_or_else(|| arguments.bundle.clone());
    let options = Options {
        bundle: arguments.bundle.clone(),
        out,
        templates: arguments.templates.as_deref().map(read_templates).transpose()?.unwrap_or_default(),
        threads: arguments.threads,
    };
    let bar = progress_bar(PROGRESS_ITEMS);
    let listener = |progress| match progress {
        Progress::Images(count) | Progress::Sentences(count) => {
            bar.set_message("images");
            bar.set_length(count as u64);
        }
        Progress::One => bar.inc(1),
    };
    let report = adapt(&set, &options, &listener);
    bar.finish_and_clear();
    let report = report?;
    let mut lines = vec![format!(
        "{}: {} labels adapted to {} examples, strength {}; of examples that were left out, {:.1}% are recognised instead of \
         {:.1}%",
        printable_path(&options.out),
        report.labels,
        report.examples,
        report.strength,
        100.0 * report.after,
        100.0 * report.before
    )];
    lines.extend(
        report
            .unreadable
            .iter()
            .map(|image| format!("left out: {}: {}", printable_path(&image.file), printable(&image.why))),
    );
    print_lines(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
