//! `spotter check`: every problem of configuration, labels and bundle.

use std::io::Write;
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use spotter_engine::bundle::Bundle;
use spotter_engine::console::write_line;
use spotter_engine::tower::{ImageTower, TextTower};
use spotter_engine::vocabulary::Vocabulary;

use crate::bundles;
use crate::recognizer::compute;
use crate::config::{Config, Problem};
use crate::labels::label_file::LabelFile;
use crate::source::Uri;
use crate::{demo, lint, metrics};

/// Templates that stand in for a bundle's own when the bundle is what cannot be read.
const TEMPLATES: &str = "{}";

/// Prints every problem, one a line, or that there is none; gives their number. Warnings are printed too, and are no
/// problems. `found` are those of the configuration file, in whose place `config` then has defaults.
pub fn run(config: &Config, found: &[Problem], out: &mut dyn Write) -> Result<usize> {
    let mut problems: Vec<String> = found.iter().map(Problem::to_string).collect();
    match Uri::from_str(&config.source) {
        Err(error) => problems.push(error.to_string()),
        // A camera may be plugged in later.
        Ok(Uri::Pictures(path)) if !path.exists() => {
            problems.push(format!("source {}: no such file or folder", path.display()));
        }
        Ok(_) => {}
    }
    problems.extend(metrics::problem(&config.metrics));
    let bundle = bundles::open(config);
    let templates = match &bundle {
        Ok(bundle) => bundle.manifest().templates.clone(),
        Err(_) => vec![TEMPLATES.to_owned()],
    };
    let vocabulary = bundle.and_then(|bundle| {
        towers(&bundle)?;
        Ok(Vocabulary::open(&bundle)?)
    });
    if let Err(error) = &vocabulary {
        problems.push(format!("{error:#}"));
    }
    let mut warnings = Vec::new();
    match demo::labels(config, &templates) {
        Ok(file) => {
            if let Ok(vocabulary) = &vocabulary {
                match lint::warnings(&file, vocabulary) {
                    Ok(found) => warnings = found,
                    Err(error) => problems.push(error.to_string()),
                }
            }
            if problems.is_empty() {
                summarise(&file, warnings.len(), out).context("standard output")?;
            }
        }
        Err(found) => problems.extend(found.iter().map(Problem::to_string)),
    }
    let lines = problems.iter().cloned().chain(warnings.iter().map(|warning| format!("warning: {warning}")));
    for line in lines {
        write_line(out, format_args!("{line}")).context("standard output")?;
    }
    Ok(problems.len())
}

fn summarise(file: &LabelFile, warnings: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let sentences: usize = file.labels.iter().map(|label| label.sentences().count()).sum();
    let warned = match warnings {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        _ => format!(", {warnings} warnings"),
    };
    write_line(out, format_args!("no problems{warned}: {} labels, {sentences} sentences", file.labels.len()))
}

/// Reads every file and runs both towers once.
fn towers(bundle: &Bundle) -> Result<()> {
    bundle.verify()?;
    let manifest = bundle.manifest();
    let threads = compute::threads(1)?;
    let [height, width] = manifest.image_size();
    ImageTower::open(bundle, &threads)?.embed(&vec![0.0; 3 * height * width])?;
    TextTower::open(bundle, &threads)?.embed(&manifest.templates[0])?;
    Ok(())
}
