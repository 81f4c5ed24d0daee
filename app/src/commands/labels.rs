//! `spotter labels`: which sentences are cached, which are new; embeds the new ones.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use spotter_engine::console::{Onward, write_line};

use crate::bundles;
use crate::recognizer::compute;
use crate::config::Config;
use crate::console::all_of;
use crate::bundles::demo;
use crate::labels::embedder::Embedder;

/// Prints a line a label and a sum, and leaves every sentence in the cache.
pub fn run(config: &Config, out: &mut dyn Write) -> Result<()> {
    // Whoever reads only the first line wants the rest embedded all the same.
    let mut out = Onward::new(out);
    let bundle = Arc::new(bundles::open(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let file = demo::labels(config, &bundle.manifest().templates).map_err(|problems| all_of(&problems))?;
    let mut embedder = Embedder::new(bundle, config.state_dir.as_deref(), &threads);
    for (label, count) in file.labels.iter().zip(embedder.count(&file.labels)) {
        let line = format_args!("{}: {} cached, {} new", label.name, count.cached, count.embedded);
        write_line(&mut out, line).context("standard output")?;
    }
    let (_, effort) = embedder.embed(&file)?;
    let place = embedder.cache_path().map_or_else(|| "kept nowhere".to_owned(), |p| format!("in {}", p.display()));
    let sum = effort.cached + effort.embedded;
    let line = format_args!("{sum} sentences: {} cached, {} embedded, {place}", effort.cached, effort.embedded);
    write_line(&mut out, line).context("standard output")
}
