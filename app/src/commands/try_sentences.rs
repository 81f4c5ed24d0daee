//! `spotter try`: scores sentences that are typed on the command line, and writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::ConfigArgs;
use super::run::{self, Limits};
use crate::bundles;
use crate::config::{Config, Metrics};
use crate::labels::typed;
use crate::pipeline::Typed;

#[derive(Debug, Args)]
pub(super) struct Try {
    /// The sentences, each in quotation marks, as they are: without a template
    #[arg(required = true, value_name = "SENTENCE")]
    sentences: Vec<String>,
    /// Configuration file, of which labels, receivers and metrics are not used [default: as for `run`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model bundle, a folder or a .tar, used without checking its signature [default: the active slot's, else the demo model]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

impl Try {
    pub(super) fn run(self) -> Result<ExitCode> {
        let labels = typed::parse(&self.sentences)?;
        let config = ConfigArgs { config: self.config, bundle: self.bundle, labels: None }.load()?;
        let (name, bundle) = bundles::open_named(&config)?;
        // Nothing is cached, stored, sent or measured.
        let config =
            Config { labels: None, state_dir: None, notify: Vec::new(), metrics: Metrics::default(), ..config };
        let others = if self.sentences.len() > 1 { "the others and " } else { "" };
        log::info!("each sentence competes with {others}\"{}\"; nothing is written", typed::AGAINST.join("\", \""));
        run::start(config, self.limits, Some(Typed { labels, name, bundle }))
    }
}
