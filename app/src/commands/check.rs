//! `spotter check`: prints every problem of configuration, labels and bundle.

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use spotter_engine::bundle::Bundle;
use spotter_engine::console::write_line;
use spotter_engine::tower::{ImageTower, TextTower};
use spotter_engine::vocabulary::Vocabulary;

use super::{ConfigArgs, exit_code};
use crate::bundles;
use crate::calibration;
use crate::config::{Config, Problem};
use crate::console::stdout;
use crate::labels::demo::Scene;
use crate::labels::embedder::Embedder;
use crate::labels::label_file::LabelFile;
use crate::labels::{demo, lint};
use crate::output::{notify, prometheus};
use crate::recognizer::compute;
use crate::source::{self, Uri};

/// Template that replaces the bundle's if the bundle cannot be read.
const TEMPLATE: &str = "{}";

/// Maximum number of sentences that are embedded for the check; a board takes about ten seconds for them.
const NEW_SENTENCES_MAX: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Exit with code 1 if there are warnings, as with problems
    #[arg(long)]
    strict: bool,
}

/// What a check has found.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (config, problems) = self.config.load_or_default();
        let found = check(&config, &problems, &mut stdout())?;
        let warnings = if self.strict { found.warnings.len() } else { 0 };
        Ok(exit_code(found.problems.len() + warnings))
    }
}

/// Prints every problem, one a line, or that there is none, then the warnings. `given` are the problems of the configuration
/// file; `config` has defaults in their place.
fn check(config: &Config, given: &[Problem], out: &mut dyn Write) -> Result<Found> {
    let mut found = Found { problems: given.iter().map(Problem::to_string).collect(), warnings: Vec::new() };
    let problems = &mut found.problems;
    match Uri::from_str(&config.source) {
        Err(error) => problems.push(error.to_string()),
        Ok(uri) => {
            if let Some(path) = uri.required_path().filter(|path| !path.exists()) {
                problems.push(format!("source {}: no such file or folder", path.display()));
            }
            problems.extend(source::problems(&uri, &config.capture.options()));
        }
    }
    problems.extend(prometheus::problem(&config.metrics));
    problems.extend(notify::problems(&config.notify));
    let bundle = bundles::open(config).and_then(|bundle| {
        towers(&bundle)?;
        Ok(Arc::new(bundle))
    });
    let templates = match &bundle {
        Ok(bundle) => bundle.manifest().templates.clone(),
        Err(_) => vec![TEMPLATE.to_owned()],
    };
    let labels = demo::configured(config, Scene::expected(config), &templates);
    match (&bundle, &labels) {
        (Err(error), _) => problems.push(format!("{error:#}")),
        (Ok(bundle), Ok(file)) => match doubts(config, bundle, file) {
            Ok(warnings) => found.warnings.extend(warnings.iter().map(Problem::to_string)),
            Err(error) => problems.push(format!("{error:#}")),
        },
        (Ok(bundle), Err(_)) => problems.extend(Vocabulary::open(bundle).err().map(|error| error.to_string())),
    }
    match &labels {
        Ok(file) => {
            found.warnings.extend(notify::unknown_labels(&config.notify, file.names()));
            let calibration =
                bundle.as_ref().ok().and_then(|bundle| calibration::problem(config, bundle.manifest(), file));
            found.warnings.extend(calibration.map(|problem| problem.to_string()));
            if problems.is_empty() {
                summarise(file, found.warnings.len(), out).context("standard output")?;
            }
        }
        Err(of_labels) => problems.extend(of_labels.iter().map(Problem::to_string)),
    }
    let lines =
        found.problems.iter().cloned().chain(found.warnings.iter().map(|warning| format!("warning: {warning}")));
    for line in lines {
        write_line(out, format_args!("{line}")).context("standard output")?;
    }
    Ok(found)
}

/// Finds what is doubtful about the labels. They are compared with each other unless too many have to be embedded first.
fn doubts(config: &Config, bundle: &Arc<Bundle>, file: &LabelFile) -> Result<Vec<Problem>> {
    let vocabulary = Vocabulary::open(bundle)?;
    let mut embedder = Embedder::reading(Arc::clone(bundle), config.state_dir.as_deref(), &compute::threads(1)?);
    let new: usize = embedder.count(&file.rows).iter().map(|stats| stats.embedded).sum();
    let embedded = if new <= NEW_SENTENCES_MAX {
        Some(embedder.embed_only(file)?)
    } else {
        let why = format!("{new} of the sentences are not cached: `spotter labels` embeds them, and compares");
        log::info!("the labels are not compared with each other, since {why}");
        None
    };
    let (embeddings, blended) =
        embedded.as_ref().map(|(embeddings, blended)| (embeddings.matrix(), &blended[..])).unzip();
    let blended = blended.unwrap_or_default();
    let model = lint::Model { vocabulary: &vocabulary, scoring: bundle.manifest().scoring(), embeddings, blended };
    Ok(lint::warnings(file, &model)?)
}

fn summarise(file: &LabelFile, warnings: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let sentences: usize = file.rows.iter().map(|label| label.sentences().count()).sum();
    let warned = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        _ => format!(", {warnings} warnings"),
    };
    write_line(out, format_args!("no problems{warned}: {} labels, {sentences} sentences", file.labels().len()))
}

/// Verifies all hashes and runs both towers once.
fn towers(bundle: &Bundle) -> Result<()> {
    bundle.verify()?;
    let manifest = bundle.manifest();
    let threads = compute::threads(1)?;
    let [height, width] = manifest.image_size();
    ImageTower::open(bundle, &threads)?.embed(&vec![0.0; 3 * height * width])?;
    TextTower::open(bundle, &threads)?.embed(&manifest.templates[0])?;
    Ok(())
}
