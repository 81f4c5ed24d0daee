//! `spotter check`: prints every problem of configuration, labels and bundle.

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr as _;

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
use crate::labels::label_file::LabelFile;
use crate::labels::{demo, lint};
use crate::output::prometheus;
use crate::recognizer::compute;
use crate::source::Uri;

/// Template that replaces the bundle's if the bundle cannot be read.
const TEMPLATE: &str = "{}";

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (config, problems) = self.config.load_or_default();
        Ok(exit_code(check(&config, &problems, &mut stdout())?))
    }
}

/// Prints every problem, one a line, or that there is none; returns their number. Warnings are printed too, but not counted.
/// `found` are the problems of the configuration file; `config` has defaults in their place.
fn check(config: &Config, found: &[Problem], out: &mut dyn Write) -> Result<usize> {
    let mut problems: Vec<String> = found.iter().map(Problem::to_string).collect();
    match Uri::from_str(&config.source) {
        Err(error) => problems.push(error.to_string()),
        Ok(uri) => {
            if let Some(path) = uri.required_path().filter(|path| !path.exists()) {
                problems.push(format!("source {}: no such file or folder", path.display()));
            }
        }
    }
    problems.extend(prometheus::problem(&config.metrics));
    let bundle = bundles::open(config);
    let templates = match &bundle {
        Ok(bundle) => bundle.manifest().templates.clone(),
        Err(_) => vec![TEMPLATE.to_owned()],
    };
    let manifest = bundle.as_ref().ok().map(|bundle| bundle.manifest().clone());
    let vocabulary = bundle.and_then(|bundle| {
        towers(&bundle)?;
        Ok(Vocabulary::open(&bundle)?)
    });
    if let Err(error) = &vocabulary {
        problems.push(format!("{error:#}"));
    }
    let (mut warnings, mut calibrations) = (Vec::new(), Vec::new());
    match demo::configured(config, &templates) {
        Ok(file) => {
            calibrations.extend(manifest.and_then(|manifest| calibration::problem(config, &manifest, &file)));
            if let Ok(vocabulary) = &vocabulary {
                match lint::warnings(&file, vocabulary) {
                    Ok(found) => warnings = found,
                    Err(error) => problems.push(error.to_string()),
                }
            }
            if problems.is_empty() {
                summarise(&file, warnings.len() + calibrations.len(), out).context("standard output")?;
            }
        }
        Err(found) => problems.extend(found.iter().map(Problem::to_string)),
    }
    let stale = calibrations.iter().map(|problem| format!("warning: {problem}"));
    let lines =
        problems.iter().cloned().chain(stale).chain(warnings.iter().map(|warning| format!("warning: {warning}")));
    for line in lines {
        write_line(out, format_args!("{line}")).context("standard output")?;
    }
    Ok(problems.len())
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
