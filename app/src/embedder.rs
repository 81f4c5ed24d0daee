//! Labels to embeddings, through the cache on flash.
//!
//! Only sentences that are new cost a pass through the text tower; when none is new, the tower is not even read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{self, Cache, Effort, Key, Label, LabelEmbeddings};
use spotter_engine::tower::{TextTower, Threads};
use spotter_engine::vocabulary::Vocabulary;

use crate::config::Config;
use crate::console::all_of;
use crate::label_file::LabelFile;
use crate::{demo, lint, store};

/// Name of the cache in the state folder.
pub const CACHE_FILE: &str = "label-cache.safetensors";

/// Largest cache file that is read: the most sentences that a cache holds, with embeddings of 1024 values.
pub(crate) const CACHE_BYTES_MAX: u64 = 64 << 20;

/// The labels that `config` names, embedded by `bundle`.
pub fn embed_configured(config: &Config, bundle: &Arc<Bundle>, threads: &Threads) -> Result<LabelEmbeddings> {
    let labels = demo::labels(config, &bundle.manifest().templates).map_err(|problems| all_of(&problems))?;
    let mut embedder = Embedder::new(Arc::clone(bundle), config.state_dir.as_deref(), threads);
    embedder.embed(&labels).map(|(embeddings, _)| embeddings)
}

/// Embeds label sets of one bundle.
#[derive(Debug)]
pub struct Embedder {
    bundle: Arc<Bundle>,
    threads: Threads,
    /// `None` where there is no state folder, or it turned out that it cannot be written.
    path: Option<PathBuf>,
    cache: Cache,
}

impl Embedder {
    /// Reads the cache in `state_dir`, if any; a file that is damaged or not a cache is reported and left out.
    pub fn new(bundle: Arc<Bundle>, state_dir: Option<&Path>, threads: &Threads) -> Self {
        let path = state_dir.map(|folder| folder.join(CACHE_FILE));
        let cache = path.as_deref().map(read).unwrap_or_default();
        Self { bundle, threads: threads.clone(), path, cache }
    }

    /// Where the cache is kept, if anywhere.
    pub fn cache_path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Which sentences are cached and which are not, label by label.
    pub fn count(&self, labels: &[Label]) -> Vec<Effort> {
        labels::count_cached(labels, self.bundle.manifest(), &self.cache)
    }

    /// Embeds the labels of `file` and keeps what was new; warns of what the model cannot read of them, or tell apart.
    /// That the cache cannot be written is reported once, and is no error.
    pub fn embed(&mut self, file: &LabelFile) -> Result<(LabelEmbeddings, Effort)> {
        let (bundle, threads, labels) = (&self.bundle, &self.threads, file.labels.as_slice());
        // Opened beforehand, so that a damaged file is not blamed on a label; and only where it is needed.
        let new = self.count(labels).iter().any(|effort| effort.embedded > 0);
        let mut tower = new.then(|| TextTower::open(bundle, threads)).transpose()?;
        let result = labels::embed_labels(labels, bundle.manifest(), &mut self.cache, |sentence| match &mut tower {
            Some(tower) => tower.embed(sentence),
            // Not reached, since both look into the same cache; it would be right all the same.
            None => tower.insert(TextTower::open(bundle, threads)?).embed(sentence),
        });
        // No longer needed, and as large as what comes.
        drop(tower);
        if result.is_ok() {
            self.warn(file);
        }
        self.save();
        Ok(result?)
    }

    /// Warns about labels that the model cannot read. Unchanged labels under an unchanged tokenizer repeat the cached
    /// warnings: loading a large tokenizer takes seconds and hundreds of megabytes on a board.
    fn warn(&mut self, file: &LabelFile) {
        let tokenizer = format!("{:?}", self.bundle.manifest().tokenizer);
        let key = Key::of(&[env!("CARGO_PKG_VERSION"), &tokenizer, &format!("{file:?}")]);
        if self.cache.remarks(&key).is_none() {
            let found = Vocabulary::open(&self.bundle).map_err(anyhow::Error::from);
            match found.and_then(|vocabulary| Ok(lint::warnings(file, &vocabulary)?)) {
                Ok(warnings) => self.cache.set_remarks(&key, warnings.iter().map(ToString::to_string).collect()),
                Err(error) => log::warn!("the labels cannot be compared with the model's vocabulary: {error:#}"),
            }
        }
        self.cache.remarks(&key).into_iter().flatten().for_each(|warning| log::warn!("{warning}"));
    }

    fn save(&mut self) {
        let Some(path) = self.path.as_deref().filter(|_| self.cache.is_changed()) else { return };
        let written = self.cache.encode().map_err(io::Error::other).and_then(|b| store::replace_state_file(path, &b));
        match written {
            Ok(()) => self.cache.mark_saved(),
            Err(error) => {
                log::warn!(
                    "{}: the label cache cannot be written ({error}); labels are embedded anew at every start",
                    path.display()
                );
                self.path = None;
            }
        }
    }
}

fn read(path: &Path) -> Cache {
    let bytes = match store::read_bounded(path, CACHE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Cache::default(),
        Err(error) => {
            log::warn!("{}: the label cache cannot be read ({error}); it is built anew", path.display());
            return Cache::default();
        }
    };
    Cache::decode(&bytes).unwrap_or_else(|error| {
        log::warn!("{}: the label cache is ignored and built anew: {error}", path.display());
        Cache::default()
    })
}
