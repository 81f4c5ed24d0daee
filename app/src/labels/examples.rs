//! Example pictures: embedded through the label cache, and blended with the sentences of their labels.

use std::path::Path;

use anyhow::{Context as _, Result};
use spotter_engine::bundle::{Bundle, Manifest};
use spotter_engine::embedding::{Agreement, Competition, LabelEmbeddings, blend};
use spotter_engine::files;
use spotter_engine::hash::{hex, sha256};
use spotter_engine::labels::{Cache, CacheStats, Key};
use spotter_engine::picture::MAX_FILE_BYTES;
use spotter_engine::printable::printable_path;
use spotter_engine::score::score;
use spotter_engine::tower::Threads;

use super::label_file::{ExamplePicture, Examples, LabelFile};
use crate::recognizer::{Latency, Recognizer};
use crate::source::{Frame, PixelFormat};

/// What the pictures of a label say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Blended {
    /// The label.
    pub(crate) row: usize,
    /// Number of its pictures that could be read.
    pub(crate) shown: usize,
    /// Number of pictures that it is told apart from.
    pub(crate) others: usize,
    /// Weight of the pictures.
    pub(crate) strength: f32,
    /// How well both are told apart; `None` with fewer than two of either.
    pub(crate) agreement: Option<Agreement>,
    /// Largest probability that one of its own pictures gives it, 0 to 1.
    pub(crate) best: f32,
}

/// Embeds pictures with the image tower of a bundle, which is loaded for the first one that is not cached.
pub(super) struct PictureEmbedder<'a> {
    bundle: &'a Bundle,
    threads: &'a Threads,
    recognizer: Option<Recognizer>,
    frame: Frame,
    pub(super) stats: CacheStats,
}

impl<'a> PictureEmbedder<'a> {
    pub(super) fn new(bundle: &'a Bundle, threads: &'a Threads) -> Self {
        let frame = Frame { format: PixelFormat::Encoded, ..Frame::default() };
        Self { bundle, threads, recognizer: None, frame, stats: CacheStats::default() }
    }

    /// The embedding of a picture, from `cache` if it is there, else added to it; then `added` is called.
    ///
    /// # Errors
    /// The picture cannot be read or decoded, or the tower fails.
    fn embed(&mut self, path: &Path, cache: &mut Cache, added: &mut dyn FnMut(&mut Cache)) -> Result<Vec<f32>> {
        self.frame.bytes = files::read_contained(path, MAX_FILE_BYTES)?;
        let manifest = self.bundle.manifest();
        let key = key(manifest, &self.frame.bytes);
        if let Some(found) = cache.get(&key, manifest.projection_dim) {
            self.stats.cached += 1;
            return Ok(found.to_vec());
        }
        let recognizer = match &mut self.recognizer {
            Some(recognizer) => recognizer,
            None => self.recognizer.insert(Recognizer::open(self.bundle, self.threads)?),
        };
        let latency = &mut Latency::default();
        recognizer.decode(&self.frame, latency)?;
        let embedding = recognizer.embed(latency)?.to_vec();
        self.stats.embedded += 1;
        cache.insert(key, embedding.clone());
        added(cache);
        Ok(embedding)
    }

    /// The embeddings of those pictures that can be read; others are reported.
    fn embed_all(
        &mut self,
        pictures: &[ExamplePicture],
        cache: &mut Cache,
        added: &mut dyn FnMut(&mut Cache),
    ) -> Vec<Vec<f32>> {
        let mut embed = |picture: &ExamplePicture| {
            let path = printable_path(&picture.path);
            let found =
                self.embed(&picture.path, cache, added).with_context(|| format!("{path}: the example is left out"));
            found.inspect_err(|error| log::warn!("{error:#}")).ok()
        };
        pictures.iter().filter_map(&mut embed).collect()
    }
}

/// Names a picture's embedding: by its bytes, the image tower, and how it is prepared for that.
fn key(manifest: &Manifest, bytes: &[u8]) -> Key {
    let preprocess = serde_json::to_string(&manifest.preprocess).unwrap_or_default();
    Key::of(&["picture", &manifest.vision.file.sha256, &preprocess, &hex(&sha256(bytes))])
}

/// Blends the labels of `file` that have examples with them; the result has the competition of `file`.
pub(super) fn blend_examples(
    file: &LabelFile,
    embeddings: LabelEmbeddings,
    embedder: &mut PictureEmbedder<'_>,
    cache: &mut Cache,
    added: &mut dyn FnMut(&mut Cache),
) -> (LabelEmbeddings, Vec<Blended>) {
    if file.examples.iter().all(|examples| *examples == Examples::default()) {
        return (embeddings.with_competition(file.competition.clone()), Vec::new());
    }
    let scoring = embedder.bundle.manifest().scoring();
    let factor = scoring.factor();
    let mut embed = |pictures: &[ExamplePicture]| embedder.embed_all(pictures, cache, added);
    let pictures: Vec<[Vec<Vec<f32>>; 2]> =
        file.examples.iter().map(|examples| [embed(&examples.shown), embed(&examples.not_shown)]).collect();
    let (mut matrix, mut found) = (embeddings.matrix().to_owned(), Vec::new());
    for (row, [shown, not_shown]) in pictures.iter().enumerate() {
        if shown.is_empty() {
            continue;
        }
        let others = rivals(&file.competition, row).filter(|rival| *rival != row).flat_map(|rival| &pictures[rival][0]);
        let others: Vec<Vec<f32>> = not_shown.iter().chain(others).cloned().collect();
        let text = embeddings.matrix().row(row).to_vec();
        let blend = blend(&text, shown, &others, factor);
        matrix.row_mut(row).iter_mut().zip(&blend.embedding).for_each(|(value, new)| *value = *new);
        let (strength, agreement) = (blend.strength, blend.agreement);
        found.push(Blended { row, shown: shown.len(), others: others.len(), strength, agreement, best: 0.0 });
    }
    let blended = LabelEmbeddings::new(embeddings.names().to_vec(), matrix).with_competition(file.competition.clone());
    let mut scores = Vec::new();
    for Blended { row, best, .. } in &mut found {
        for picture in &pictures[*row][0] {
            score(picture, &blended, &scoring, &mut scores);
            *best = scores.iter().find(|score| score.label == *row).map_or(*best, |score| best.max(score.probability));
        }
    }
    (blended, found)
}

/// The labels that exclude this one, and itself: those of its question, or all of a plain set.
fn rivals(competition: &Competition, row: usize) -> std::ops::Range<usize> {
    match competition.question_of(row) {
        Some(question) => question.labels.clone(),
        None if competition.opposites(row).is_empty() && competition.background().is_empty() => competition.lone(),
        None => 0..0,
    }
}

impl Blended {
    /// One line for the log.
    pub(super) fn describe(&self, file: &LabelFile) -> String {
        let Self { row, shown, others, strength, agreement, best: _ } = self;
        let what = file.describe(*row);
        let percent = |share: f32| share * 100.0;
        let agreement = agreement.map_or_else(String::new, |Agreement { sentences, blend }| {
            format!(
                "; {:.0} % of pairs in order by its sentences, {:.0} % with the examples",
                percent(sentences),
                percent(blend)
            )
        });
        format!("{what}: {shown} examples against {others} other pictures, weight {strength}{agreement}")
    }
}
