//! The images that a model is trained or evaluated on, and the sentences that belong to them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use spotter_engine::hash::Hasher;

use super::error::TuneError;
use super::random::{Random, key};
use crate::evaluate::{BadRows, ImageSet, Places, Question};

/// Templates that class names are put into, drawn again for every image.
pub(super) const TEMPLATES: [&str; 8] = [
    "a photo of a {}.",
    "a {}",
    "{}",
    "a picture of the {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a small photo of one {}.",
    "there is a {} in the picture.",
];

/// Share of the images that is held out for evaluation if no other set is given, and the most of them.
const HELD_OUT: (f64, usize) = (0.05, 1000);

/// Reasons that are listed of bad lines and unreadable images.
pub(super) const LISTED_MAX: usize = 5;

/// One image of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    /// Index of its set.
    pub(super) set: usize,
    /// Its index in the set.
    pub(super) image: usize,
    /// What it is about: its class, or the image itself.
    pub(super) group: usize,
}

/// Images of one or more sets, and the sentences that belong to them.
#[derive(Debug)]
pub(super) struct Pairs {
    pub(super) sets: Vec<ImageSet>,
    /// All images.
    pub(super) items: Vec<Item>,
    /// All sentences, each once.
    pub(super) sentences: Vec<String>,
    /// For each group, the sentences that fit.
    pub(super) fitting: Vec<Vec<usize>>,
    /// The groups of each set.
    pub(super) groups: Vec<Range<usize>>,
    /// Lines that could not be used.
    pub(super) bad_rows: Vec<String>,
}

impl Pairs {
    /// Opens sets of images by class or with captions. Class names are put into `templates`.
    pub(super) fn open(folders: &[PathBuf], templates: &[String]) -> Result<Self, TuneError> {
        let mut pairs = Self::empty();
        let mut index = HashMap::new();
        for folder in folders {
            let set = ImageSet::open_with(folder, &Places::default(), BadRows::LeftOut)?;
            pairs.bad_rows.extend_from_slice(set.bad_rows());
            pairs.add(set, templates, &mut index);
        }
        Ok(pairs)
    }

    fn empty() -> Self {
        Self {
            sets: Vec::new(),
            items: Vec::new(),
            sentences: Vec::new(),
            fitting: Vec::new(),
            groups: Vec::new(),
            bad_rows: Vec::new(),
        }
    }

    fn add(&mut self, set: ImageSet, templates: &[String], index: &mut HashMap<String, usize>) {
        let (number, first) = (self.sets.len(), self.fitting.len());
        let mut sentence = |text: String| {
            *index.entry(text).or_insert_with_key(|text| {
                self.sentences.push(text.clone());
                self.sentences.len() - 1
            })
        };
        match set.question() {
            Question::Classes { classes, truths } => {
                for class in classes {
                    let all = class.label(templates);
                    let mut fitting: Vec<usize> = all.sentences().map(|(_, _, text)| sentence(text)).collect();
                    fitting.dedup();
                    self.fitting.push(fitting);
                }
                let item = |(image, class): (usize, &usize)| Item { set: number, image, group: first + class };
                self.items.extend(truths.iter().enumerate().map(item));
            }
            Question::Captions(captions) => {
                self.fitting.resize(first + set.len(), Vec::new());
                for caption in captions {
                    let text = sentence(caption.text.clone());
                    self.fitting[first + caption.image].push(text);
                }
                let item = |image: usize| Item { set: number, image, group: first + image };
                self.items.extend((0..set.len()).map(item).filter(|item| !self.fitting[item.group].is_empty()));
            }
        }
        self.groups.push(first..self.fitting.len());
        self.sets.push(set);
    }

    /// Moves a share of the images of each set into another collection of the same sets.
    pub(super) fn hold_out(&mut self, seed: u64) -> Self {
        let mut held = Self {
            sets: self.sets.clone(),
            sentences: self.sentences.clone(),
            fitting: self.fitting.clone(),
            groups: self.groups.clone(),
            ..Self::empty()
        };
        let (share, most) = HELD_OUT;
        for set in 0..self.sets.len() {
            let mut own: Vec<Item> = self.items.iter().copied().filter(|item| item.set == set).collect();
            let count = ((own.len() as f64 * share) as usize).clamp(1, most).min(own.len() / 2);
            // The order of keys is random and does not depend on the other images.
            own.sort_by_key(|item| key(&[seed, u64::from(u32::MAX), set as u64, item.image as u64]));
            held.items.extend_from_slice(&own[..count]);
        }
        held.items.sort_by_key(|item| (item.set, item.image));
        self.items.retain(|item| {
            held.items.binary_search_by_key(&(item.set, item.image), |held| (held.set, held.image)).is_err()
        });
        held
    }

    /// File of an image.
    pub(super) fn file(&self, item: Item) -> PathBuf {
        let set = &self.sets[item.set];
        set.folder().join(set.file(item.image))
    }

    /// A sentence of an image, drawn by the epoch.
    pub(super) fn drawn(&self, item: Item, parts: [u64; 2]) -> usize {
        let fitting = &self.fitting[item.group];
        let [seed, epoch] = parts;
        fitting[Random::new(&[seed, epoch, item.set as u64, item.image as u64]).below(fitting.len())]
    }

    /// Names the images: SHA-256 over their files' names and content. Files that cannot be read count as empty.
    pub(super) fn image_fingerprint(&self) -> [u8; 32] {
        let mut hasher = Hasher::new();
        for item in &self.items {
            let set = &self.sets[item.set];
            let bytes = set.read(item.image).unwrap_or_default();
            let name = set.file(item.image).to_string_lossy().into_owned();
            hasher.update(format!("{}:{}:{name}:{}\n", item.set, name.len(), bytes.len()));
            hasher.update(bytes);
        }
        hasher.finish()
    }

    /// Names the sentences, and which of them belong to which images: SHA-256.
    pub(super) fn text_fingerprint(&self) -> [u8; 32] {
        let mut hasher = Hasher::new();
        self.items.iter().for_each(|item| hasher.update(format!("{} ", item.group)));
        for (group, fitting) in self.fitting.iter().enumerate() {
            for sentence in fitting {
                let text = &self.sentences[*sentence];
                hasher.update(format!("{group}:{}:{text}\n", text.len()));
            }
        }
        hasher.finish()
    }

    /// Checks that there is something to compare.
    pub(super) fn check(&self, path: &Path) -> Result<(), TuneError> {
        let mut groups: Vec<usize> = self.items.iter().map(|item| item.group).collect();
        groups.sort_unstable();
        groups.dedup();
        if groups.len() >= 2 {
            return Ok(());
        }
        Err(TuneError::Data {
            path: path.to_owned(),
            expected: "images of two classes or with two different captions, which can be told apart".into(),
            found: format!("{} images of {} kind", self.items.len(), groups.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }
        folder
    }

    fn templates() -> Vec<String> {
        ["a {}.", "{}"].map(str::to_owned).to_vec()
    }

    #[test]
    fn classes_and_captions_become_pairs() {
        let classes = set(&[("cat/1.png", "1"), ("cat/2.png", "2"), ("dog/1.png", "3")]);
        let captions = set(&[("captions.tsv", "x.png\tA cow.\ny.png\tcat\nbad\nx.png\tTwo cows.\n")]);
        let pairs = Pairs::open(&[classes.path().to_owned(), captions.path().to_owned()], &templates()).expect("sets");
        let found: Vec<_> = pairs.items.iter().map(|item| (item.set, item.image, item.group)).collect();
        assert_eq!(found, [(0, 0, 0), (0, 1, 0), (0, 2, 1), (1, 0, 2), (1, 1, 3)]);
        assert_eq!(pairs.sentences, ["a cat.", "cat", "a dog.", "dog", "A cow.", "Two cows."]);
        assert_eq!(pairs.fitting, [vec![0, 1], vec![2, 3], vec![4, 5], vec![1]]);
        assert_eq!(pairs.bad_rows.len(), 1);
        let drawn: Vec<usize> = (0..20).map(|epoch| pairs.drawn(pairs.items[3], [1, epoch])).collect();
        assert!(drawn.contains(&4) && drawn.contains(&5) && drawn.iter().all(|text| [4, 5].contains(text)));
        pairs.check(classes.path()).expect("two classes");
    }

    #[test]
    fn held_out_images_are_not_trained_on() {
        let files: Vec<(String, &str)> = (0..100).map(|i| (format!("{}/{i}.png", ["a", "b"][i % 2]), "")).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, content)| (name.as_str(), *content)).collect();
        let folder = set(&files);
        let open = || Pairs::open(&[folder.path().to_owned()], &templates()).expect("a set");
        let mut pairs = open();
        let held = pairs.hold_out(1);
        assert_eq!((pairs.items.len(), held.items.len()), (95, 5));
        assert!(held.items.iter().all(|item| !pairs.items.contains(item)));
        let same = open().hold_out(1);
        assert_eq!(same.items, held.items, "the same seed holds out the same images");
        assert_ne!(open().hold_out(2).items, held.items);
    }

    #[test]
    fn fingerprints_name_content_and_sentences() {
        let of = |content: &str, caption: &str| {
            let folder = set(&[("a.png", content), ("b.png", ""), ("captions.tsv", caption)]);
            let pairs = Pairs::open(&[folder.path().to_owned()], &templates()).expect("a set");
            (pairs.image_fingerprint(), pairs.text_fingerprint())
        };
        let captions = "a.png\tOne.\nb.png\tTwo.\n";
        let first = of("1", captions);
        assert_eq!(of("1", captions), first);
        let (images, texts) = of("2", captions);
        assert!(images != first.0 && texts == first.1, "another image");
        let (images, texts) = of("1", "a.png\tOne.\nb.png\tThree.\n");
        assert!(images == first.0 && texts != first.1, "another sentence");
    }
}
