//! `spotter classify`: labels image files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use spotter_engine::console;
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::files;
use spotter_engine::picture::MAX_FILE_BYTES;
use spotter_engine::printable::serialize_path;
use spotter_engine::score::Score;

use super::{ConfigArgs, exit_code};
use crate::bundles;
use crate::config::Config;
use crate::console::{stdout, tell_error};
use crate::labels::demo::Scene;
use crate::labels::embedder::embed_configured;
use crate::output::full_name;
use crate::output::json::{LabelScore, write_line};
use crate::recognizer::{Latency, Recognizer, compute};
use crate::source::Frame;

#[derive(Debug, Args)]
pub(super) struct Classify {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Labels shown for each image, best first
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

impl Classify {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut config = self.config.load()?;
        config.inference.top_k = self.top_k.map_or(config.inference.top_k, |k| k as usize);
        Ok(exit_code(classify(&config, self.json, &self.images, &mut stdout())?))
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "serialize_path")]
    path: &'a Path,
    labels: Vec<LabelScore<'a>>,
}

/// Prints the best labels of each image. Images that cannot be read are reported on standard error; returns their number.
fn classify(config: &Config, json: bool, images: &[PathBuf], out: &mut dyn Write) -> Result<usize> {
    let bundle = Arc::new(bundles::open(config)?);
    let threads = compute::threads(config.inference.threads)?;
    let labels = embed_configured(config, Scene::Everyday, &bundle, &threads)?;
    let mut recognizer = Recognizer::open(&bundle, &threads)?;
    let mut frame = Frame::default();
    let mut failed = 0;
    for path in images {
        match scores(&mut recognizer, &mut frame, path, &labels) {
            Ok(scores) => {
                let best = &scores[..config.inference.top_k.min(scores.len())];
                write(out, json, path, &labels, best).context("standard output")?;
            }
            Err(error) => {
                tell_error(&error);
                failed += 1;
            }
        }
    }
    Ok(failed)
}

fn scores<'a>(
    recognizer: &'a mut Recognizer,
    frame: &mut Frame,
    path: &Path,
    labels: &LabelEmbeddings,
) -> Result<&'a [Score]> {
    frame.path = Some(path.to_owned());
    frame.bytes = files::read(path, MAX_FILE_BYTES).with_context(|| path.display().to_string())?;
    let mut latency = Latency::of(frame);
    recognizer.decode(frame, &mut latency)?;
    recognizer.recognize(labels, &mut latency).with_context(|| path.display().to_string())
}

fn write(
    out: &mut dyn Write,
    json: bool,
    path: &Path,
    labels: &LabelEmbeddings,
    scores: &[Score],
) -> std::io::Result<()> {
    let named =
        scores.iter().map(|score| LabelScore::new(labels.question(score.label), &labels.names()[score.label], score));
    if json {
        return write_line(out, &Line { path, labels: named.collect() });
    }
    console::write_line(out, format_args!("{}", path.display()))?;
    for label in named {
        let name = full_name(label.question, label.name);
        console::write_line(out, format_args!("  {:5.1}%  {name}", label.probability * 100.0))?;
    }
    out.flush()
}
