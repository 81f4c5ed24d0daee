//! Label sets: names, prompts and templates, and the embeddings that stand for them.
//!
//! A label's sentences are all its templates filled with all its prompts. Each sentence's embedding is normalised,
//! the label's embedding is their mean, normalised again. Sentences already in the [`Cache`] cost nothing.

mod cache;
mod journal;

pub use cache::{Cache, CacheError, ENTRIES_MAX, Key};
pub use journal::Ending;

use ndarray::{Array2, ArrayView2};

use crate::bundle::Manifest;
use crate::score::normalize;

/// One label: a name, and the sentences that describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What is shown.
    pub name: String,
    /// What fills the templates; never empty.
    pub prompts: Vec<String>,
    /// Sentences with one `{}` each; never empty. `{}` alone takes a prompt as a whole sentence.
    pub templates: Vec<String>,
}

/// The embeddings of a label set, one row a label.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelEmbeddings {
    names: Vec<String>,
    matrix: Array2<f32>,
}

/// What embedding a label set took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Sentences that were in the cache.
    pub cached: usize,
    /// Sentences that cost a pass through the text tower.
    pub embedded: usize,
}

/// Why a label set has no embeddings.
#[derive(Debug, thiserror::Error)]
pub enum LabelError<E: std::error::Error + 'static> {
    /// The text tower failed.
    #[error("label {label:?}, sentence {sentence:?}")]
    Embed {
        /// The label's name.
        label: String,
        /// The sentence.
        sentence: String,
        /// The tower's error.
        source: E,
    },
    /// The sentences of a label cancel each other out.
    #[error("label {label:?}: the mean of its {sentences} sentences has no direction; use fewer or closer prompts")]
    NoDirection {
        /// The label's name.
        label: String,
        /// How many sentences it has.
        sentences: usize,
    },
}

impl Label {
    /// Every template filled with every prompt: template, prompt, sentence.
    pub fn sentences(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.templates.iter().flat_map(move |template| {
            self.prompts.iter().map(move |p| (template.as_str(), p.as_str(), template.replacen("{}", p, 1)))
        })
    }
}

impl LabelEmbeddings {
    /// From names and normalised rows [labels, P].
    ///
    /// # Panics
    /// If there are not as many rows as names.
    pub fn new(names: Vec<String>, matrix: Array2<f32>) -> Self {
        assert_eq!(names.len(), matrix.nrows(), "one row a label");
        Self { names, matrix }
    }

    /// Names in the set's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Embeddings [labels, P], each row of L2 norm 1.
    pub fn matrix(&self) -> ArrayView2<'_, f32> {
        self.matrix.view()
    }
}

/// Embeds a label set; `embed` turns a sentence that is not in `cache` into a normalised embedding.
///
/// New sentences are added to the cache, which is then cut to its limit, this set's sentences kept first.
pub fn embed_labels<E: std::error::Error + 'static>(
    labels: &[Label],
    manifest: &Manifest,
    cache: &mut Cache,
    embed: impl FnMut(&str) -> Result<Vec<f32>, E>,
) -> Result<(LabelEmbeddings, Effort), LabelError<E>> {
    embed_labels_with(labels, manifest, cache, embed, |_| ())
}

/// The same; `added` is called with the cache whenever a sentence was added to it.
pub fn embed_labels_with<E: std::error::Error + 'static>(
    labels: &[Label],
    manifest: &Manifest,
    cache: &mut Cache,
    mut embed: impl FnMut(&str) -> Result<Vec<f32>, E>,
    mut added: impl FnMut(&mut Cache),
) -> Result<(LabelEmbeddings, Effort), LabelError<E>> {
    let width = manifest.projection_dim;
    let mut matrix = Array2::zeros((labels.len(), width));
    let mut effort = Effort::default();
    let mut used = Vec::new();
    for (label, mut row) in labels.iter().zip(matrix.rows_mut()) {
        let mut mean = vec![0.0; width];
        let mut sentences = 0;
        for (template, prompt, sentence) in label.sentences() {
            let key = Key::new(manifest, template, prompt);
            if cache.get(&key, width).is_some() {
                effort.cached += 1;
            } else {
                let embedding = embed(&sentence).map_err(|source| LabelError::Embed {
                    label: label.name.clone(),
                    sentence,
                    source,
                })?;
                cache.insert(key, embedding);
                added(cache);
                effort.embedded += 1;
            }
            let embedding = cache.get(&key, width).unwrap_or_default();
            mean.iter_mut().zip(embedding).for_each(|(m, e)| *m += e);
            used.push(key);
            sentences += 1;
        }
        if !normalize(&mut mean) {
            return Err(LabelError::NoDirection { label: label.name.clone(), sentences });
        }
        row.iter_mut().zip(mean).for_each(|(r, m)| *r = m);
    }
    cache.shrink(&used);
    let names = labels.iter().map(|l| l.name.clone()).collect();
    Ok((LabelEmbeddings::new(names, matrix), effort))
}

/// How many sentences of `labels` are in the cache, and how many are not, without embedding any.
pub fn count_cached(labels: &[Label], manifest: &Manifest, cache: &Cache) -> Vec<Effort> {
    let width = manifest.projection_dim;
    let count = |label: &Label| {
        let mut effort = Effort::default();
        for (template, prompt, _) in label.sentences() {
            match cache.get(&Key::new(manifest, template, prompt), width) {
                Some(_) => effort.cached += 1,
                None => effort.embedded += 1,
            }
        }
        effort
    };
    labels.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::bundle::tests::manifest;

    fn label(name: &str, prompts: &[&str], templates: &[&str]) -> Label {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        Label { name: name.to_owned(), prompts: own(prompts), templates: own(templates) }
    }

    /// A stand-in text tower: a direction that depends on the sentence alone.
    fn fake(sentence: &str) -> Result<Vec<f32>, Infallible> {
        let mut v: Vec<f32> =
            (0..4).map(|i| sentence.bytes().map(|b| f32::from(b ^ (i * 37))).sum::<f32>().sin()).collect();
        normalize(&mut v);
        Ok(v)
    }

    #[test]
    fn a_label_is_the_normalised_mean_of_its_normalised_sentences() {
        let set = [label("cat", &["cat", "kitten"], &["a {}.", "one {}"])];
        let (embeddings, effort) = embed_labels(&set, &manifest(4), &mut Cache::default(), fake).expect("embeds");
        assert_eq!(effort, Effort { cached: 0, embedded: 4 });
        let mut mean = vec![0.0_f32; 4];
        for sentence in ["a cat.", "a kitten.", "one cat", "one kitten"] {
            mean.iter_mut().zip(fake(sentence).expect("infallible")).for_each(|(m, e)| *m += e);
        }
        normalize(&mut mean);
        for (a, b) in embeddings.matrix().row(0).iter().zip(&mean) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn only_new_sentences_are_embedded() {
        let mut cache = Cache::default();
        let first = [label("cat", &["cat"], &["a {}."])];
        let (before, _) = embed_labels(&first, &manifest(4), &mut cache, fake).expect("embeds");
        let second = [label("dog", &["dog"], &["a {}."]), label("cat", &["cat"], &["a {}."])];
        let mut asked = Vec::new();
        let (after, effort) = embed_labels(&second, &manifest(4), &mut cache, |s| {
            asked.push(s.to_owned());
            fake(s)
        })
        .expect("embeds");
        assert_eq!(asked, ["a dog."]);
        assert_eq!(effort, Effort { cached: 1, embedded: 1 });
        assert_eq!(after.matrix().row(1), before.matrix().row(0), "the same sentence gives identical scores");
    }

    #[test]
    fn another_tower_tokenizer_or_template_shares_no_entry() {
        let base = manifest(4);
        let mut tower = base.clone();
        tower.text.file.sha256 = "1".repeat(64);
        let mut tokenizer = base.clone();
        tokenizer.tokenizer.file.sha256 = "2".repeat(64);
        let keys = [
            Key::new(&base, "a {}.", "cat"),
            Key::new(&tower, "a {}.", "cat"),
            Key::new(&tokenizer, "a {}.", "cat"),
            Key::new(&base, "a {}", ".cat"),
            Key::new(&base, "a {}.", "Cat"),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b), "key {i}");
        }
    }
}
