//! Labels to embeddings, through the cache on flash.
//!
//! Only new sentences cost a pass through the text tower; without any, the tower is not even loaded.

mod disk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use spotter_engine::bundle::{Bundle, Manifest};
use spotter_engine::embedding::LabelEmbeddings;
use spotter_engine::labels::{Cache, CacheStats, Key, KeyedLabels, Label};
use spotter_engine::tower::{TextTower, Threads};
use spotter_engine::vocabulary::Vocabulary;

use self::disk::Disk;
use super::demo::{self, Scene};
use super::label_file::LabelFile;
use super::lint;
use crate::config::{Config, Problem, all_of};
use crate::process::supervise::{Heartbeats, beat_all};

pub(crate) use self::disk::{CACHE_BYTES_MAX, CACHE_FILE};
use super::examples::{Blended, PictureEmbedder, blend_examples};

/// Longest time that one sentence or picture takes on the slowest board.
const SENTENCE_MAX: Duration = Duration::from_secs(60);

/// Embeds the labels that `config` names with `bundle`, else those of the demo model for the scene.
pub fn embed_configured(
    config: &Config,
    scene: Scene,
    bundle: &Arc<Bundle>,
    threads: &Threads,
) -> Result<LabelEmbeddings> {
    let labels = demo::configured(config, scene, &bundle.manifest().templates).map_err(|problems| all_of(&problems))?;
    let mut embedder = Embedder::new(Arc::clone(bundle), config.state_dir.as_deref(), threads);
    embedder.embed(&labels).map(|(embeddings, _)| embeddings)
}

/// Embeds label sets with one bundle.
#[derive(Debug)]
pub struct Embedder {
    bundle: Arc<Bundle>,
    threads: Threads,
    /// `None` where there is no state folder.
    disk: Option<Disk>,
    cache: Cache,
    /// Heartbeats that beat for each sentence.
    beats: Heartbeats,
}

/// The embedded rows of a label file.
struct Rows {
    embeddings: LabelEmbeddings,
    stats: CacheStats,
    /// What the examples of labels say.
    blended: Vec<Blended>,
}

impl Embedder {
    /// Reads the cache in `state_dir`, if any; a file that is damaged or is no cache is reported and ignored.
    pub fn new(bundle: Arc<Bundle>, state_dir: Option<&Path>, threads: &Threads) -> Self {
        let (disk, cache) = state_dir.map(Disk::open).unzip();
        Self { bundle, threads: threads.clone(), disk, cache: cache.unwrap_or_default(), beats: Heartbeats::new() }
    }

    /// As [`Self::new`], but leaves the cache on disk as it is: for a command that only examines, maybe as another user.
    pub(crate) fn reading(bundle: Arc<Bundle>, state_dir: Option<&Path>, threads: &Threads) -> Self {
        Self { disk: None, ..Self::new(bundle, state_dir, threads) }
    }

    /// Embeds the labels of `file` without warnings; tells what their examples say as well.
    pub(crate) fn embed_only(&mut self, file: &LabelFile) -> Result<(LabelEmbeddings, Vec<Blended>)> {
        self.embed_rows(file).map(|rows| (rows.embeddings, rows.blended))
    }

    /// Beats for all of `beats` at each sentence.
    pub(crate) fn with_beats(self, beats: Heartbeats) -> Self {
        Self { beats, ..self }
    }

    /// The manifest of the bundle.
    pub(crate) fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The cache's file; `None` where there is no cache, or it cannot be written.
    pub(crate) fn cache_path(&self) -> Option<&Path> {
        self.disk.as_ref().and_then(Disk::path)
    }

    /// Counts, for each label, the sentences that are cached and those that are not.
    pub fn count(&self, labels: &[Label]) -> Vec<CacheStats> {
        KeyedLabels::new(labels, self.bundle.manifest()).count_cached(&self.cache)
    }

    /// Embeds the labels of `file`, caches what was new, and warns about labels that the model cannot read or tell apart.
    /// A cache that cannot be written is reported once and is no error.
    pub fn embed(&mut self, file: &LabelFile) -> Result<(LabelEmbeddings, CacheStats)> {
        self.embed_and_compare(file, |bundle, rows| {
            let (vocabulary, scoring) = (&Vocabulary::open(bundle)?, bundle.manifest().scoring());
            let (embeddings, blended) = (Some(rows.embeddings.matrix()), rows.blended.as_slice());
            Ok(lint::warnings(file, &lint::Model { vocabulary, scoring, embeddings, blended })?)
        })
    }

    /// As [`Self::embed`]; `compare` finds the warnings, which may take long. By then the embeddings are on disk.
    fn embed_and_compare(
        &mut self,
        file: &LabelFile,
        compare: impl FnOnce(&Bundle, &Rows) -> Result<Vec<Problem>>,
    ) -> Result<(LabelEmbeddings, CacheStats)> {
        let result = self.embed_rows(file);
        if let Ok(rows) = &result {
            rows.blended.iter().for_each(|blended| log::info!("{}", blended.describe(file)));
            self.warn(file, |bundle| compare(bundle, rows));
        }
        if let Some(disk) = &mut self.disk {
            disk.finish(&mut self.cache);
        }
        result.map(|rows| (rows.embeddings, rows.stats))
    }

    /// Embeds the rows of `file`; what was new is in the cache, and its journal on disk.
    fn embed_rows(&mut self, file: &LabelFile) -> Result<Rows> {
        let (bundle, threads, rows) = (&self.bundle, &self.threads, file.rows.as_slice());
        // Opened beforehand, so that a damaged file is not blamed on a label, and only where it is needed.
        let keyed = KeyedLabels::new(rows, bundle.manifest());
        let new = keyed.count_cached(&self.cache).iter().any(|stats| stats.embedded > 0);
        let mut tower = new.then(|| TextTower::open(bundle, threads)).transpose()?;
        let (disk, beats) = (&mut self.disk, &self.beats);
        let embed = |sentence: &str| match &mut tower {
            Some(tower) => tower.embed(sentence),
            // Not reached, since both counts come from the same cache; correct anyway.
            None => tower.insert(TextTower::open(bundle, threads)?).embed(sentence),
        };
        let mut added = |cache: &mut Cache| {
            beat_all(beats, SENTENCE_MAX);
            if let Some(disk) = disk {
                disk.append(cache);
            }
        };
        let result = keyed.embed(&mut self.cache, embed, &mut added);
        // Freed before another tower or the vocabulary is loaded, which are as large.
        drop(tower);
        let result = result.map(|(embeddings, stats)| {
            let mut pictures = PictureEmbedder::new(bundle, threads);
            let (embeddings, blended) = blend_examples(file, embeddings, &mut pictures, &mut self.cache, &mut added);
            if pictures.stats != CacheStats::default() {
                let CacheStats { cached, embedded } = pictures.stats;
                log::info!("example pictures: {cached} cached, {embedded} embedded");
            }
            Rows { embeddings, stats, blended }
        });
        if let Some(disk) = &mut self.disk {
            disk.keep(&mut self.cache);
        }
        Ok(result?)
    }

    /// Warns about labels that the model cannot read or tell apart. Warnings are cached by labels, towers and tokenizer, since
    /// loading a large tokenizer takes seconds and hundreds of megabytes on a board.
    fn warn(&mut self, file: &LabelFile, compare: impl FnOnce(&Bundle) -> Result<Vec<Problem>>) {
        let manifest = self.bundle.manifest();
        let labels = lint::identity(file, &manifest.scoring());
        let key = Key::of_tokenizer(manifest, &[env!("CARGO_PKG_VERSION"), &manifest.text.file.sha256, &labels]);
        if self.cache.remarks(&key).is_none() {
            match compare(&self.bundle) {
                Ok(warnings) => self.cache.set_remarks(&key, warnings.iter().map(ToString::to_string).collect()),
                Err(error) => log::warn!("cannot compare the labels with the model's vocabulary: {error:#}"),
            }
        }
        self.cache.remarks(&key).into_iter().flatten().for_each(|warning| log::warn!("{warning}"));
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::disk::JOURNAL_FILE;
    use super::*;
    use crate::bundles::demo;

    #[test]
    fn embeddings_are_kept_before_the_labels_are_compared_with_the_vocabulary() {
        for journal_is_blocked in [false, true] {
            let state = tempfile::tempdir().expect("a folder");
            if journal_is_blocked {
                std::fs::create_dir(state.path().join(JOURNAL_FILE)).expect("a folder");
            }
            let bundle = Arc::new(demo::bundle().expect("the demo"));
            let file = super::super::demo::configured(&Config::default(), Scene::Shapes, &bundle.manifest().templates)
                .expect("labels");
            let mut embedder = Embedder::new(bundle, Some(state.path()), &Threads::default());
            let mut kept = 0;
            let compare = |_: &Bundle, _: &Rows| -> Result<Vec<Problem>> {
                kept = Disk::open(state.path()).1.len();
                anyhow::bail!("killed here")
            };
            embedder.embed_and_compare(&file, compare).expect("embeddings, whatever the comparison does");
            assert!(kept > 0 && kept == embedder.cache.len(), "{kept} kept, blocked: {journal_is_blocked}");
        }
    }

    #[test]
    fn the_demo_knows_its_own_labels() {
        let bundle = Arc::new(demo::bundle().expect("the demo"));
        let templates = &bundle.manifest().templates;
        let vocabulary = spotter_engine::vocabulary::Vocabulary::open(&bundle).expect("a tokenizer");
        let scoring = bundle.manifest().scoring();
        for scene in [Scene::Everyday, Scene::Shapes] {
            let file = super::super::demo::configured(&Config::default(), scene, templates).expect("labels");
            let mut embedder = Embedder::new(Arc::clone(&bundle), None, &Threads::default());
            let embeddings = embedder.embed(&file).expect("embeddings").0;
            let model =
                lint::Model { vocabulary: &vocabulary, scoring, embeddings: Some(embeddings.matrix()), blended: &[] };
            assert_eq!(lint::warnings(&file, &model).expect("readings"), [], "{scene:?}");
        }
    }
}
