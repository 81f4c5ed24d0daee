//! `spotter check`: every problem of configuration, labels and bundle.

use std::io::Write;
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use spotter_engine::bundle::Bundle;
use spotter_engine::console::write_line;
use spotter_engine::tower::{ImageTower, TextTower};

use crate::bundles;
use crate::compute;
use crate::config::{Config, Problem};
use crate::demo;
use crate::source::Uri;

/// Templates that stand in for a bundle's own when the bundle is what cannot be read.
const TEMPLATES: &str = "{}";

/// Prints every problem, one a line, or that there is none; gives their number. `found` are those of the configuration
/// file, in whose place `config` then has defaults.
pub fn run(config: &Config, found: &[Problem], out: &mut dyn Write) -> Result<usize> {
    let mut problems: Vec<String> = found.iter().map(Problem::to_string).collect();
    if let Err(error) = Uri::from_str(&config.source) {
        problems.push(error.to_string());
    }
    let bundle = bundles::open(config);
    let templates = match &bundle {
        Ok(bundle) => bundle.manifest().templates.clone(),
        Err(_) => vec![TEMPLATES.to_owned()],
    };
    match bundle.and_then(|bundle| towers(&bundle)) {
        Ok(()) => {}
        Err(error) => problems.push(format!("{error:#}")),
    }
    match demo::labels(config, &templates) {
        Ok(labels) if problems.is_empty() => {
            let sentences: usize = labels.iter().map(|label| label.sentences().count()).sum();
            writeln!(out, "no problems: {} labels, {sentences} sentences", labels.len()).context("standard output")?;
        }
        Ok(_) => {}
        Err(found) => problems.extend(found.iter().map(Problem::to_string)),
    }
    for problem in &problems {
        write_line(out, format_args!("{problem}")).context("standard output")?;
    }
    Ok(problems.len())
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
