//! `spotter labels`: shows which sentences are cached and which are new, and embeds the new ones.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use spotter_engine::console::{IgnoreBrokenPipe, write_line};

use super::ConfigArgs;
use crate::bundles;
use crate::config::{Config, all_of};
use crate::console::stdout;
use crate::labels::demo::{self, Scene};
use crate::labels::embedder::Embedder;
use crate::recognizer::compute;

#[derive(Debug, Args)]
pub(super) struct Labels {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Labels {
    pub(super) fn run(self) -> Result<ExitCode> {
        embed(&self.config.load()?, &mut stdout())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a line for each label and whatever it competes with, and a sum, and caches every sentence.
fn embed(config: &Config, out: &mut dyn Write) -> Result<()> {
    // The sentences are embedded even if the reader stops after the first line.
    let mut out = IgnoreBrokenPipe::new(out);
    let bundle = Arc::new(bundles::open(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let file = demo::configured(config, Scene::expected(config), &bundle.manifest().templates)
        .map_err(|problems| all_of(&problems))?;
    let mut embedder = Embedder::new(bundle, config.state_dir.as_deref(), &threads);
    for (row, count) in embedder.count(&file.rows).into_iter().enumerate() {
        let is_label = row < file.competition.labels();
        let name = if is_label { file.full_name(row) } else { file.describe(row) };
        let line = format_args!("{name}: {} cached, {} new", count.cached, count.embedded);
        write_line(&mut out, line).context("standard output")?;
    }
    let (_, effort) = embedder.embed(&file)?;
    let place = embedder.cache_path().map_or_else(|| "not cached".to_owned(), |p| format!("in {}", p.display()));
    let sum = effort.cached + effort.embedded;
    let line = format_args!("{sum} sentences: {} cached, {} embedded, {place}", effort.cached, effort.embedded);
    write_line(&mut out, line).context("standard output")
}
