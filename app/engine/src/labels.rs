//! Label sets: names, prompts and templates, and their embeddings.
//!
//! The sentences of a label are all its templates, each filled with all its prompts. A label's embedding is the normalised
//! mean of the normalised embeddings of its sentences. Sentences in the [`Cache`] do not run the text tower.

mod cache;
mod journal;
mod key;

pub use cache::{Cache, CacheError, ENTRIES_MAX};
pub use journal::JournalEnd;
pub use key::Key;

use ndarray::Array2;

use self::key::SentenceKeys;
use crate::bundle::Manifest;
use crate::embedding::{LabelEmbeddings, normalize};

/// A label: a name, and prompts and templates that describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The name that outputs show.
    pub name: String,
    /// Texts that are put into the templates; never empty.
    pub prompts: Vec<String>,
    /// Sentences with one `{}` each; never empty. The template `{}` uses the prompt itself as the sentence.
    pub templates: Vec<String>,
}

/// How many sentences of labels are in the cache, and how many are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Sentences that were in the cache.
    pub cached: usize,
    /// Sentences that need, or needed, a run of the text tower.
    pub embedded: usize,
}

/// A label set with the cache keys of its sentences, each hashed once.
#[derive(Debug)]
pub struct KeyedLabels<'a> {
    labels: &'a [Label],
    /// The keys of each label's sentences, in the order of [`Label::sentences`].
    keys: Vec<Vec<Key>>,
    /// For labels that the bundle has adapted to example images, their embeddings.
    adapted: Vec<Option<Vec<f32>>>,
    projection_dim: usize,
}

/// Why a label set could not be embedded.
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
        /// Number of its sentences.
        sentences: usize,
    },
}

impl Label {
    /// Template, prompt and sentence of every template filled with every prompt.
    pub fn sentences(&self) -> impl Iterator<Item = (&str, &str, String)> {
        self.templates.iter().flat_map(move |template| {
            self.prompts.iter().map(move |p| (template.as_str(), p.as_str(), template.replacen("{}", p, 1)))
        })
    }
}

impl<'a> KeyedLabels<'a> {
    /// Hashes the sentences of `labels` for the bundle of `manifest`.
    pub fn new(labels: &'a [Label], manifest: &Manifest) -> Self {
        let sentence_keys = SentenceKeys::new(manifest);
        let keys_of = |label: &Label| {
            label.sentences().map(|(template, prompt, _)| sentence_keys.key(template, prompt)).collect()
        };
        let keys: Vec<Vec<Key>> = labels.iter().map(keys_of).collect();
        let adapted = adapted(&keys, manifest);
        Self { labels, keys, adapted, projection_dim: manifest.projection_dim }
    }

    /// Names all sentences of a label, in their order, with text tower and tokenizer.
    ///
    /// # Panics
    /// If there is no label `index`.
    pub fn label_key(&self, index: usize) -> Key {
        label_key(&self.keys[index])
    }

    /// Counts the cached sentences of each label and embeds none.
    pub fn count_cached(&self, cache: &Cache) -> Vec<CacheStats> {
        let count = |keys: &Vec<Key>| {
            let cached = keys.iter().filter(|key| cache.get(key, self.projection_dim).is_some()).count();
            CacheStats { cached, embedded: keys.len() - cached }
        };
        self.keys.iter().map(count).collect()
    }

    /// Embeds the labels. `embed` turns a sentence that is not in `cache` into a normalised embedding; `added` is called
    /// with the cache after each sentence that was added to it. Finally the cache is cut to its limit, where the
    /// sentences of this set are the last to go.
    ///
    /// # Errors
    /// `embed` failed, or the sentences of a label cancel each other out. Sentences embedded until then stay in the cache.
    pub fn embed<E: std::error::Error + 'static>(
        &self,
        cache: &mut Cache,
        mut embed: impl FnMut(&str) -> Result<Vec<f32>, E>,
        mut added: impl FnMut(&mut Cache),
    ) -> Result<(LabelEmbeddings, CacheStats), LabelError<E>> {
        let width = self.projection_dim;
        let mut matrix = Array2::zeros((self.labels.len(), width));
        let mut stats = CacheStats::default();
        let labels = self.labels.iter().zip(&self.keys).zip(&self.adapted);
        for (((label, keys), adapted), mut row) in labels.zip(matrix.rows_mut()) {
            let mut mean = vec![0.0; width];
            for ((_, _, sentence), key) in label.sentences().zip(keys) {
                if cache.get(key, width).is_some() {
                    stats.cached += 1;
                } else {
                    let embedding = embed(&sentence).map_err(|source| LabelError::Embed {
                        label: label.name.clone(),
                        sentence,
                        source,
                    })?;
                    cache.insert(*key, embedding);
                    added(cache);
                    stats.embedded += 1;
                }
                let embedding = cache.get(key, width).unwrap_or_default();
                mean.iter_mut().zip(embedding).for_each(|(m, e)| *m += e);
            }
            if !normalize(&mut mean) {
                return Err(LabelError::NoDirection { label: label.name.clone(), sentences: keys.len() });
            }
            let embedding = adapted.as_ref().unwrap_or(&mean);
            row.iter_mut().zip(embedding).for_each(|(r, m)| *r = *m);
        }
        cache.shrink(&self.keys.concat());
        let names = self.labels.iter().map(|label| label.name.clone()).collect();
        Ok((LabelEmbeddings::new(names, matrix), stats))
    }
}

/// The key of a label by those of its sentences.
fn label_key(keys: &[Key]) -> Key {
    let keys: Vec<String> = keys.iter().map(Key::to_string).collect();
    Key::of(&keys.iter().map(String::as_str).collect::<Vec<_>>())
}

/// For each label with these keys, the embedding that the bundle has for it.
fn adapted(keys: &[Vec<Key>], manifest: &Manifest) -> Vec<Option<Vec<f32>>> {
    if manifest.adapted_labels.is_empty() {
        return vec![None; keys.len()];
    }
    let of = |keys: &Vec<Key>| {
        let key = label_key(keys).to_string();
        let label = manifest.adapted_labels.iter().find(|label| label.sentences.eq_ignore_ascii_case(&key))?;
        label.values().filter(|values| values.len() == manifest.projection_dim)
    };
    keys.iter().map(of).collect()
}

/// Embeds a label set; see [`KeyedLabels::embed`].
///
/// # Errors
/// As [`KeyedLabels::embed`].
pub fn embed_labels<E: std::error::Error + 'static>(
    labels: &[Label],
    manifest: &Manifest,
    cache: &mut Cache,
    embed: impl FnMut(&str) -> Result<Vec<f32>, E>,
) -> Result<(LabelEmbeddings, CacheStats), LabelError<E>> {
    KeyedLabels::new(labels, manifest).embed(cache, embed, |_| ())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::bundle::AdaptedLabel;
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
        let (embeddings, stats) = embed_labels(&set, &manifest(4), &mut Cache::default(), fake).expect("embeds");
        assert_eq!(stats, CacheStats { cached: 0, embedded: 4 });
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
    fn adapted_labels_take_the_place_of_their_text() {
        let set = [label("cat", &["cat", "kitten"], &["a {}."]), label("dog", &["dog"], &["a {}."])];
        let mut manifest = manifest(4);
        let key = KeyedLabels::new(&set, &manifest).label_key(0);
        let learned = [0.6, 0.0, -0.8, 0.0];
        manifest.adapted_labels.push(AdaptedLabel::new("a cat", key.to_string(), 5, &learned));
        let embedded = |set: &[Label]| embed_labels(set, &manifest, &mut Cache::default(), fake).expect("embeds").0;
        let found = embedded(&set);
        assert_eq!(found.matrix().row(0).to_vec(), learned);
        // Normalised once more, as every mean of sentences.
        for (a, b) in found.matrix().row(1).iter().zip(fake("a dog.").expect("infallible")) {
            assert!((a - b).abs() < 1e-6, "{a} and {b}");
        }
        let other = embedded(&[label("cat", &["cat"], &["a {}."])]);
        assert_ne!(other.matrix().row(0).to_vec(), learned, "other sentences are another label");
    }

    #[test]
    fn only_new_sentences_are_embedded() {
        let mut cache = Cache::default();
        let first = [label("cat", &["cat"], &["a {}."])];
        let (before, _) = embed_labels(&first, &manifest(4), &mut cache, fake).expect("embeds");
        let second = [label("dog", &["dog"], &["a {}."]), label("cat", &["cat"], &["a {}."])];
        let mut asked = Vec::new();
        let (after, stats) = embed_labels(&second, &manifest(4), &mut cache, |s| {
            asked.push(s.to_owned());
            fake(s)
        })
        .expect("embeds");
        assert_eq!(asked, ["a dog."]);
        assert_eq!(stats, CacheStats { cached: 1, embedded: 1 });
        assert_eq!(after.matrix().row(1), before.matrix().row(0), "the same sentence gives identical scores");
    }
}
