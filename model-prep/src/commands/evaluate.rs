//! `model-prep evaluate`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use spotter_engine::console::write_line;

use super::set::templates;
use super::{EvaluateError, Options, Outcome, PictureSet, Places, Progress, evaluate, svg};
use crate::console::stdout;

/// Arguments of `model-prep evaluate`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The bundle.
    bundle: PathBuf,
    /// A folder with a folder for each class, named by it; or with pictures and their captions in captions.tsv or
    /// captions.txt: a line for each with the picture's file, a tab, and a sentence. Or a zip archive of such a folder.
    folder: PathBuf,
    /// Names of the classes: a line for each with its folder, a tab, and the names it goes by, separated by commas; also
    /// for classes without pictures. FOLDER/classes.tsv if left out and there, else folders' names.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Captions, where they are not in FOLDER.
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    captions: Option<PathBuf>,
    /// Templates for the classes' names: one a line, with one {} in each; the bundle's own if left out.
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// Another bundle to compare with on the same pictures, such as the one in floats.
    #[arg(long, value_name = "BUNDLE")]
    against: Option<PathBuf>,
    /// Take no more pictures than this, spread evenly over the folder.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Pictures to work on at the same time; as many as there are cores if left out.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Draw what was taken for what.
    #[arg(long, value_name = "FILE.svg")]
    confusion: Option<PathBuf>,
    /// Print everything as one JSON document.
    #[arg(long)]
    json: bool,
}

/// Evaluates and prints what was found.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let places = Places { labels: arguments.labels.clone(), captions: arguments.captions.clone() };
    let mut set = PictureSet::open(&arguments.folder, &places)?;
    if let Some(limit) = arguments.limit {
        set.limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if arguments.confusion.is_some() && matches!(set.question(), super::Question::Captions(_)) {
        let why = "captions have no classes that could be confused";
        return Err(EvaluateError::Misplaced { option: "--confusion", why }.into());
    }
    let options = Options {
        against: arguments.against.clone(),
        templates: arguments.templates.as_deref().map(templates).transpose()?.unwrap_or_default(),
        threads: arguments.threads,
    };
    let bar = progress_bar();
    let listener = |progress| match progress {
        Progress::Sentences(count) | Progress::Pictures(count) => {
            bar.set_message(if matches!(progress, Progress::Pictures(_)) { "pictures" } else { "texts" });
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

/// On standard error; hidden where that is no terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}
