//! Labels to embeddings, through the cache on flash.
//!
//! Only sentences that are new cost a pass through the text tower; when none is new, the tower is not even read.

mod disk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use spotter_engine::bundle::Bundle;
use spotter_engine::labels::{self, Cache, Effort, Key, Label, LabelEmbeddings};
use spotter_engine::tower::{TextTower, Threads};
use spotter_engine::vocabulary::Vocabulary;

use self::disk::Disk;
use crate::config::{Config, Problem};
use crate::console::all_of;
use crate::label_file::LabelFile;
use crate::supervise::{Beats, give_all};
use crate::{demo, lint};

pub(crate) use self::disk::CACHE_BYTES_MAX;
pub use self::disk::{CACHE_FILE, JOURNAL_FILE};

/// A sentence is embedded within this time on the slowest board.
const SENTENCE_MAX: Duration = Duration::from_secs(60);

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
    /// `None` where there is no state folder.
    disk: Option<Disk>,
    cache: Cache,
    /// Given a sign for each sentence.
    beats: Beats,
}

impl Embedder {
    /// Reads the cache in `state_dir`, if any; a file that is damaged or not a cache is reported and left out.
    pub fn new(bundle: Arc<Bundle>, state_dir: Option<&Path>, threads: &Threads) -> Self {
        let (disk, cache) = state_dir.map(Disk::open).unzip();
        Self { bundle, threads: threads.clone(), disk, cache: cache.unwrap_or_default(), beats: Beats::new() }
    }

    /// Has a sign of life given for each sentence.
    pub(crate) fn with_beats(self, beats: Beats) -> Self {
        Self { beats, ..self }
    }

    /// Where the cache is kept, if anywhere.
    pub fn cache_path(&self) -> Option<&Path> {
        self.disk.as_ref().and_then(Disk::path)
    }

    /// Which sentences are cached and which are not, label by label.
    pub fn count(&self, labels: &[Label]) -> Vec<Effort> {
        labels::count_cached(labels, self.bundle.manifest(), &self.cache)
    }

    /// Embeds the labels of `file` and keeps what was new; warns of what the model cannot read of them, or tell apart.
    /// That the cache cannot be written is reported once, and is no error.
    pub fn embed(&mut self, file: &LabelFile) -> Result<(LabelEmbeddings, Effort)> {
        self.embed_and_compare(file, |bundle| Ok(lint::warnings(file, &Vocabulary::open(bundle)?)?))
    }

    /// The same; `compare` finds out what to warn of, which may take long. By then the embeddings are on the disk.
    fn embed_and_compare(
        &mut self,
        file: &LabelFile,
        compare: impl FnOnce(&Bundle) -> Result<Vec<Problem>>,
    ) -> Result<(LabelEmbeddings, Effort)> {
        let (bundle, threads, labels) = (&self.bundle, &self.threads, file.labels.as_slice());
        // Opened beforehand, so that a damaged file is not blamed on a label; and only where it is needed.
        let new = self.count(labels).iter().any(|effort| effort.embedded > 0);
        let mut tower = new.then(|| TextTower::open(bundle, threads)).transpose()?;
        let (disk, beats) = (&mut self.disk, &self.beats);
        let embed = |sentence: &str| match &mut tower {
            Some(tower) => tower.embed(sentence),
            // Not reached, since both look into the same cache; it would be right all the same.
            None => tower.insert(TextTower::open(bundle, threads)?).embed(sentence),
        };
        let added = |cache: &mut Cache| {
            give_all(beats, SENTENCE_MAX);
            if let Some(disk) = disk {
                disk.append(cache);
            }
        };
        let result = labels::embed_labels_with(labels, bundle.manifest(), &mut self.cache, embed, added);
        // No longer needed, and as large as what comes.
        drop(tower);
        if let Some(disk) = &mut self.disk {
            disk.keep(&mut self.cache);
        }
        if result.is_ok() {
            self.warn(file, compare);
        }
        if let Some(disk) = &mut self.disk {
            disk.finish(&mut self.cache);
        }
        Ok(result?)
    }

    /// Warns about labels that the model cannot read. Unchanged labels under an unchanged tokenizer repeat the cached
    /// warnings: loading a large tokenizer takes seconds and hundreds of megabytes on a board.
    fn warn(&mut self, file: &LabelFile, compare: impl FnOnce(&Bundle) -> Result<Vec<Problem>>) {
        let labels = format!("{file:?}");
        let key = Key::of_tokenizer(self.bundle.manifest(), &[env!("CARGO_PKG_VERSION"), &labels]);
        if self.cache.remarks(&key).is_none() {
            match compare(&self.bundle) {
                Ok(warnings) => self.cache.set_remarks(&key, warnings.iter().map(ToString::to_string).collect()),
                Err(error) => log::warn!("the labels cannot be compared with the model's vocabulary: {error:#}"),
            }
        }
        self.cache.remarks(&key).into_iter().flatten().for_each(|warning| log::warn!("{warning}"));
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_kept_before_the_labels_are_compared_with_the_vocabulary() {
        for journal_is_blocked in [false, true] {
            let state = tempfile::tempdir().expect("a folder");
            if journal_is_blocked {
                std::fs::create_dir(state.path().join(JOURNAL_FILE)).expect("a folder");
            }
            let bundle = Arc::new(demo::bundle().expect("the demo"));
            let file = demo::labels(&Config::default(), &bundle.manifest().templates).expect("labels");
            let mut embedder = Embedder::new(bundle, Some(state.path()), &Threads::default());
            let mut kept = 0;
            let compare = |_: &Bundle| -> Result<Vec<Problem>> {
                kept = Disk::open(state.path()).1.len();
                anyhow::bail!("killed here")
            };
            embedder.embed_and_compare(&file, compare).expect("embeddings, whatever comes of the comparison");
            assert!(kept > 0 && kept == embedder.cache.len(), "{kept} kept, blocked: {journal_is_blocked}");
        }
    }
}
