//! The labels of a running loop: embedded aside when their file changes, swapped in whole between two frames.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{Label, LabelEmbeddings};
use spotter_engine::tower::Threads;

use crate::cli::all_of;
use crate::config::Config;
use crate::embedder::Embedder;
use crate::watch::Watcher;
use crate::{demo, label_file};

/// The label set in force, and the next one when there is one.
pub struct LiveLabels {
    current: Arc<LabelEmbeddings>,
    next: Arc<Mutex<Option<Arc<LabelEmbeddings>>>>,
    /// `None` for labels that are inside the program.
    watcher: Option<Watcher>,
}

/// Reads and embeds the labels; shared with the watcher's thread.
struct Loader {
    embedder: Embedder,
    templates: Vec<String>,
    /// What was embedded last.
    labels: Vec<Label>,
}

impl LiveLabels {
    /// Embeds the labels that `config` names and watches their file from here on.
    pub fn start(config: &Config, bundle: &Arc<Bundle>, threads: &Threads) -> Result<Self> {
        let templates = bundle.manifest().templates.clone();
        let embedder = Embedder::new(Arc::clone(bundle), config.state_dir.as_deref(), threads);
        let loader = Arc::new(Mutex::new(Loader { embedder, templates, labels: Vec::new() }));
        let next = Arc::new(Mutex::new(None));
        // Watched before it is read, so that no change falls between the two.
        let watcher = match &config.labels {
            Some(path) => Some(watch(path, &loader, &next)?),
            None => None,
        };
        let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = demo::labels(config, &loader.templates).map_err(|problems| all_of(&problems))?;
        let place = config.labels.as_ref().map_or_else(|| demo::LABELS_NAME.to_owned(), |p| p.display().to_string());
        let current = loader.embed(labels, &place)?;
        drop(loader);
        Ok(Self { current, next, watcher })
    }

    /// The label set for the next frame.
    pub fn current(&mut self) -> &Arc<LabelEmbeddings> {
        if let Some(next) = self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.current = next;
        }
        &self.current
    }

    /// Reads the file anew, as if it had changed.
    pub fn reload(&self) {
        match &self.watcher {
            Some(watcher) => watcher.poke(),
            None => log::info!("nothing to read anew: the labels are inside the program"),
        }
    }
}

fn watch(path: &Path, loader: &Arc<Mutex<Loader>>, next: &Arc<Mutex<Option<Arc<LabelEmbeddings>>>>) -> Result<Watcher> {
    let (loader, next, file): (_, _, PathBuf) = (Arc::clone(loader), Arc::clone(next), path.to_owned());
    let on_change = move || {
        let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(labels) = loader.read_again(&file) {
            *next.lock().unwrap_or_else(PoisonError::into_inner) = Some(labels);
        }
    };
    Watcher::start(path, on_change).with_context(|| format!("{}: cannot be watched", path.display()))
}

impl Loader {
    /// The embeddings of the file's labels, unless it is broken or says what it said before.
    fn read_again(&mut self, path: &Path) -> Option<Arc<LabelEmbeddings>> {
        let labels = match label_file::load(path, &self.templates) {
            Ok(labels) => labels,
            Err(problems) => {
                problems.iter().for_each(|problem| log::error!("{problem}"));
                log::warn!("the labels stay as they were");
                return None;
            }
        };
        if labels == self.labels {
            log::info!("labels unchanged: {}", path.display());
            return None;
        }
        self.embed(labels, &path.display().to_string())
            .inspect_err(|error| log::error!("{}: {error:#}; the labels stay as they were", path.display()))
            .ok()
    }

    fn embed(&mut self, labels: Vec<Label>, place: &str) -> Result<Arc<LabelEmbeddings>> {
        let (embeddings, effort) = self.embedder.embed(&labels)?;
        log::info!(
            "labels: {} from {place}, {} sentences: {} cached, {} embedded",
            labels.len(),
            effort.cached + effort.embedded,
            effort.cached,
            effort.embedded
        );
        self.labels = labels;
        Ok(Arc::new(embeddings))
    }
}
