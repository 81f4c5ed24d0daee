//! From images and sentences to what the trained part of each tower takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use spotter_engine::bundle::{PaddingSide, Positions, TowerKind};
use spotter_engine::hash::Hasher;
use spotter_engine::picture;
use spotter_engine::preprocess::Preprocessor;
use spotter_engine::tokenize::{Encoding, Tokenizer};

use super::augment::augmented;
use super::error::TuneError;
use super::features::{FeatureFile, FeatureWriter};
use super::frozen::{LockedImages, LockedTexts, tokenizer};
use super::lock::Locking;
use super::model::{Model, Samples, matrix};
use super::ops::{floats, tensor};
use super::pairs::{Item, Pairs};
use super::random::Random;
use super::towers::{Input, Tokens, patches};
use crate::checkpoint::Checkpoint;
use crate::evaluate::parallel::{in_parallel, threads_or_cores};

/// Images or sentences whose features are computed before they are written.
const BLOCK: usize = 256;

/// Those of them that go through candle's towers at a time.
const PART: usize = 16;

/// Reports the number of images and sentences that were computed, of how many.
pub(super) type Prepared<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// Loads images and sentences of a set for both towers. Any thread may load.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    checkpoint: &'a Checkpoint,
    pub(super) pairs: &'a Pairs,
    /// SHA-256 of the images and of the sentences.
    pub(super) fingerprints: [[u8; 32]; 2],
    tokenizer: Tokenizer,
    images: Images,
    texts: Texts,
    /// Images that cannot be read, with the reason.
    unreadable: Mutex<BTreeMap<PathBuf, String>>,
}

/// How images reach their tower.
#[derive(Debug)]
enum Images {
    /// Decoded, changed at random, and preprocessed, each time.
    Whole,
    /// As the output of the untrained layers.
    Hidden(FeatureFile),
    /// As the pooler output.
    Pooled(FeatureFile),
}

/// How sentences reach their tower.
#[derive(Debug)]
enum Texts {
    /// As tokens.
    Whole(Vec<Encoding>),
    /// As the output of the untrained layers.
    Hidden(FeatureFile, Vec<Encoding>),
    /// As the pooler output.
    Pooled(FeatureFile),
}

impl<'a> Inputs<'a> {
    /// Computes what has to be computed once, or opens it in `folder`, where files are called after `name`. `weights` is the
    /// SHA-256 of the checkpoint's.
    pub(super) fn prepare(
        checkpoint: &'a Checkpoint,
        pairs: &'a Pairs,
        model: &Model<'_>,
        (weights, locking): (&str, &Locking),
        (folder, name): (&Path, &str),
        prepared: Prepared<'_>,
    ) -> Result<Self, TuneError> {
        let tokenizer = tokenizer(checkpoint)?;
        let unreadable = Mutex::default();
        let fingerprints = [pairs.image_fingerprint(), pairs.text_fingerprint()];
        let (images, texts) = (Images::Whole, Texts::Whole(Vec::new()));
        let mut inputs = Self { checkpoint, pairs, fingerprints, tokenizer, images, texts, unreadable };
        let path = |kind: &str| folder.join(format!("{name}-{kind}.features"));
        if locking.lock.holds(TowerKind::Image) {
            let key = inputs.image_key(weights, "pooled");
            inputs.images = Images::Pooled(inputs.pooled_images(&path("images"), key, prepared)?);
        } else if model.has_layers_below(TowerKind::Image) {
            let key = inputs.image_key(weights, &format!("without the last {:?} layers", locking.train_layers));
            inputs.images = Images::Hidden(inputs.hidden_images(model, &path("images"), key, prepared)?);
        }
        if locking.lock.holds(TowerKind::Text) {
            let key = inputs.text_key(weights, "pooled");
            inputs.texts = Texts::Pooled(inputs.pooled_texts(&path("texts"), key, prepared)?);
            return Ok(inputs);
        }
        let encodings = inputs.encodings()?;
        // Padding before the tokens moves their positions, so that what untrained layers give depends on the batch.
        let spec = (checkpoint.tokenizer.padding_side, checkpoint.config.text.positions());
        let is_moved = spec == (PaddingSide::Left, Positions::Sequential);
        inputs.texts = if model.has_layers_below(TowerKind::Text) && !is_moved {
            let key = inputs.text_key(weights, &format!("without the last {:?} layers", locking.train_layers));
            Texts::Hidden(inputs.hidden_texts(model, &encodings, &path("texts"), key, prepared)?, encodings)
        } else {
            Texts::Whole(encodings)
        };
        Ok(inputs)
    }

    fn image_key(&self, weights: &str, what: &str) -> [u8; 32] {
        let mut hasher = Hasher::new();
        let steps = serde_json::to_string(&self.checkpoint.preprocess).unwrap_or_default();
        let size = self.checkpoint.config.vision.patching().image_size;
        hasher.update(format!("images {what}\n{weights}\n{steps}\n{size:?}\n"));
        hasher.update(self.fingerprints[0]);
        hasher.finish()
    }

    fn text_key(&self, weights: &str, what: &str) -> [u8; 32] {
        let mut hasher = Hasher::new();
        let (max_length, side) = (self.checkpoint.tokenizer.max_length, self.checkpoint.tokenizer.truncation_side);
        hasher.update(format!("texts {what}\n{weights}\n{max_length}\n{side:?}\n"));
        hasher.update(&self.checkpoint.tokenizer.json);
        hasher.update(self.fingerprints[1]);
        hasher.finish()
    }

    /// Tokenizes all sentences.
    fn encodings(&self) -> Result<Vec<Encoding>, TuneError> {
        self.pairs.sentences.par_iter().map(|sentence| Ok(self.tokenizer.encode(sentence)?)).collect()
    }

    fn pooled_images(&self, path: &Path, key: [u8; 32], prepared: Prepared<'_>) -> Result<FeatureFile, TuneError> {
        let items = &self.pairs.items;
        if let Some(file) = FeatureFile::open(path, &key, items.len()) {
            return Ok(file);
        }
        let scratch = path.parent().unwrap_or(Path::new("."));
        let tower = LockedImages::new(self.checkpoint, scratch)?;
        let width = self.checkpoint.config.vision.pooled_width();
        let mut writer = FeatureWriter::new(path, key, items.len(), width)?;
        let threads = threads_or_cores(0);
        for (number, block) in items.chunks(BLOCK).enumerate() {
            let worker = || tower.worker();
            let rows = in_parallel(block.len(), threads, worker, |worker, index| {
                let item = block[index];
                let bytes = match self.pairs.sets[item.set].read(item.image) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        self.note(item, &error);
                        return Ok(Vec::new());
                    }
                };
                Ok::<_, TuneError>(worker.pooled(&bytes)?.unwrap_or_else(|error| {
                    self.note(item, &error);
                    Vec::new()
                }))
            })?;
            rows.iter().try_for_each(|row| writer.push(row))?;
            prepared("images", (number * BLOCK + block.len()).min(items.len()), items.len());
        }
        writer.finish()
    }

    fn hidden_images(
        &self,
        model: &Model<'_>,
        path: &Path,
        key: [u8; 32],
        prepared: Prepared<'_>,
    ) -> Result<FeatureFile, TuneError> {
        let items = &self.pairs.items;
        if let Some(file) = FeatureFile::open(path, &key, items.len()) {
            return Ok(file);
        }
        let mut writer: Option<FeatureWriter> = None;
        for (number, block) in items.chunks(PART).enumerate() {
            let (kept, input) = self.patches(block, None)?;
            let mut rows: Vec<Vec<f32>> = Vec::new();
            let mut width = 0;
            if let Some(input) = input {
                let hidden = model.below(TowerKind::Image, &input)?;
                width = hidden.dim(2)?;
                rows = floats(&hidden, |values| {
                    let row = values.len() / kept.len();
                    Ok(values.chunks_exact(row).map(<[f32]>::to_vec).collect())
                })?;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                // Until an image can be read, the width is not known, and items without rows need none.
                None if width == 0 => continue,
                None => {
                    let mut new = FeatureWriter::new(path, key, items.len(), width)?;
                    (0..number * PART).try_for_each(|_| new.push(&[]))?;
                    writer.insert(new)
                }
            };
            let mut rows = kept.into_iter().zip(rows).collect::<BTreeMap<_, _>>();
            for index in 0..block.len() {
                writer.push(&rows.remove(&index).unwrap_or_default())?;
            }
            prepared("images", (number * PART + block.len()).min(items.len()), items.len());
        }
        match writer {
            Some(writer) => writer.finish(),
            None => FeatureWriter::new(path, key, items.len(), 1)?.finish(),
        }
    }

    fn pooled_texts(&self, path: &Path, key: [u8; 32], prepared: Prepared<'_>) -> Result<FeatureFile, TuneError> {
        let sentences = &self.pairs.sentences;
        if let Some(file) = FeatureFile::open(path, &key, sentences.len()) {
            return Ok(file);
        }
        let scratch = path.parent().unwrap_or(Path::new("."));
        let tower = LockedTexts::new(self.checkpoint, scratch)?;
        let width = self.checkpoint.config.text.pooled_width();
        let mut writer = FeatureWriter::new(path, key, sentences.len(), width)?;
        let threads = threads_or_cores(0);
        for (number, block) in sentences.chunks(BLOCK).enumerate() {
            let worker = || Ok::<_, TuneError>(tower.clone());
            let rows = in_parallel(block.len(), threads, worker, |tower, index| tower.pooled(&block[index]))?;
            rows.iter().try_for_each(|row| writer.push(row))?;
            prepared("texts", (number * BLOCK + block.len()).min(sentences.len()), sentences.len());
        }
        writer.finish()
    }

    fn hidden_texts(
        &self,
        model: &Model<'_>,
        encodings: &[Encoding],
        path: &Path,
        key: [u8; 32],
        prepared: Prepared<'_>,
    ) -> Result<FeatureFile, TuneError> {
        if let Some(file) = FeatureFile::open(path, &key, encodings.len()) {
            return Ok(file);
        }
        let mut writer: Option<FeatureWriter> = None;
        for (number, block) in encodings.chunks(PART).enumerate() {
            let tokens = self.tokens(&block.iter().collect::<Vec<_>>());
            let length = tokens.length();
            let hidden = model.below(TowerKind::Text, &Input::Tokens(tokens))?;
            let width = hidden.dim(2)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(FeatureWriter::new(path, key, encodings.len(), width)?),
            };
            let all = floats(&hidden, |values| Ok(values.to_vec()))?;
            for (row, encoding) in all.chunks_exact(length * width).zip(block) {
                writer.push(&row[..encoding.ids.len() * width])?;
            }
            prepared("texts", (number * PART + block.len()).min(encodings.len()), encodings.len());
        }
        match writer {
            Some(writer) => writer.finish(),
            None => FeatureWriter::new(path, key, 0, 1)?.finish(),
        }
    }

    /// The images that can be read, as their indexes in `items`, and what their tower takes, if there are any. With
    /// `changed`, images that are decoded are changed at random.
    pub(super) fn images(
        &self,
        items: &[usize],
        changed: Option<[u64; 2]>,
    ) -> Result<(Vec<usize>, Option<Samples>), TuneError> {
        match &self.images {
            Images::Whole => {
                let items: Vec<Item> = items.iter().map(|item| self.pairs.items[*item]).collect();
                let (kept, input) = self.patches(&items, changed)?;
                Ok((kept, input.map(Samples::Whole)))
            }
            Images::Hidden(file) | Images::Pooled(file) => {
                let kept: Vec<usize> = (0..items.len()).filter(|index| file.has(items[*index])).collect();
                let rows = kept.iter().map(|index| file.read(items[*index])).collect::<Result<Vec<_>, _>>()?;
                let Some(first) = rows.first() else { return Ok((kept, None)) };
                let samples = if matches!(self.images, Images::Pooled(_)) {
                    Samples::Pooled(matrix(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?)
                } else {
                    let shape = [rows.len(), first.len() / file.width, file.width];
                    Samples::Hidden(tensor(rows.concat(), &shape)?, Input::Computed)
                };
                Ok((kept, Some(samples)))
            }
        }
    }

    /// Decodes and preprocesses images: the indexes of those that can be read, and their patches.
    fn patches(&self, items: &[Item], changed: Option<[u64; 2]>) -> Result<(Vec<usize>, Option<Input>), TuneError> {
        let config = &self.checkpoint.preprocess;
        let patching = *self.checkpoint.config.vision.patching();
        Preprocessor::new(config)?;
        let [height, width] = patching.patch_size;
        let size = patching.patches() * 3 * height * width;
        let mut values = vec![0.0_f32; items.len() * size];
        let read: Vec<bool> = values
            .par_chunks_mut(size)
            .zip(items)
            .map_init(
                || (Preprocessor::new(config), Vec::new()),
                |(preprocessor, pixels), (out, item)| {
                    let Ok(preprocessor) = preprocessor else { return false };
                    match self.pixels(*item, changed, preprocessor, pixels) {
                        Ok(()) => out.copy_from_slice(&patches(pixels, &patching)),
                        Err(why) => {
                            self.note(*item, why.as_ref());
                            return false;
                        }
                    }
                    true
                },
            )
            .collect();
        let kept: Vec<usize> = (0..items.len()).filter(|index| read[*index]).collect();
        if kept.is_empty() {
            return Ok((kept, None));
        }
        // Images that cannot be read leave no gap.
        for (to, from) in kept.iter().enumerate() {
            values.copy_within(from * size..(from + 1) * size, to * size);
        }
        values.truncate(kept.len() * size);
        let shape = [kept.len(), patching.patches(), 3 * height * width];
        Ok((kept, Some(Input::Patches(tensor(values, &shape)?))))
    }

    /// The planes of one image.
    fn pixels(
        &self,
        item: Item,
        changed: Option<[u64; 2]>,
        preprocessor: &mut Preprocessor,
        pixels: &mut Vec<f32>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let bytes = self.pairs.sets[item.set].read(item.image)?;
        let mut image = picture::decode(&bytes)?;
        if let Some([seed, epoch]) = changed {
            let mut random = Random::new(&[seed, epoch, item.set as u64, item.image as u64, 1]);
            image = augmented(&image, &mut random);
        }
        let size = preprocessor.run(&image, pixels)?;
        let expected = self.checkpoint.config.vision.patching().image_size;
        if [size.height, size.width] != expected {
            return Err(
                format!("{} x {} pixels when preprocessed, expected {expected:?}", size.height, size.width).into()
            );
        }
        Ok(())
    }

    /// What the text tower takes for some sentences.
    pub(super) fn texts(&self, sentences: &[usize]) -> Result<Samples, TuneError> {
        match &self.texts {
            Texts::Whole(encodings) => Ok(Samples::Whole(Input::Tokens(self.chosen(encodings, sentences)))),
            Texts::Hidden(file, encodings) => {
                let tokens = self.chosen(encodings, sentences);
                let size = tokens.length() * file.width;
                let mut values = vec![0.0; sentences.len() * size];
                for (row, sentence) in values.chunks_exact_mut(size).zip(sentences) {
                    let own = file.read(*sentence)?;
                    row[..own.len()].copy_from_slice(&own);
                }
                let shape = [sentences.len(), tokens.length(), file.width];
                Ok(Samples::Hidden(tensor(values, &shape)?, Input::Tokens(tokens)))
            }
            Texts::Pooled(file) => {
                let rows = sentences.iter().map(|sentence| file.read(*sentence)).collect::<Result<Vec<_>, _>>()?;
                Ok(Samples::Pooled(matrix(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?))
            }
        }
    }

    fn chosen(&self, encodings: &[Encoding], sentences: &[usize]) -> Tokens {
        self.tokens(&sentences.iter().map(|sentence| &encodings[*sentence]).collect::<Vec<_>>())
    }

    /// Pads sentences to the longest.
    fn tokens(&self, encodings: &[&Encoding]) -> Tokens {
        let length = encodings.iter().map(|encoding| encoding.ids.len()).max().unwrap_or(0);
        let padded: Vec<Encoding> = encodings.iter().map(|encoding| self.tokenizer.pad(encoding, length)).collect();
        let all = |of: fn(&Encoding) -> &Vec<i64>| -> Vec<u32> {
            padded.iter().flat_map(of).map(|value| u32::try_from(*value).unwrap_or(0)).collect()
        };
        // A tower without a mask attends to padding too.
        let masked = self.checkpoint.text_inputs().contains(&"attention_mask");
        let mask = padded.iter().flat_map(|encoding| &encoding.mask).map(|mask| *mask == 1 || !masked).collect();
        Tokens {
            ids: all(|encoding| &encoding.ids),
            types: all(|encoding| &encoding.type_ids),
            positions: all(|encoding| &encoding.position_ids),
            mask: Arc::new(mask),
            batch: encodings.len(),
        }
    }

    /// Remembers that an image cannot be read.
    fn note(&self, item: Item, why: &dyn std::error::Error) {
        let causes = std::iter::successors(Some(why), |error| error.source());
        let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        unreadable.insert(self.pairs.file(item), why);
    }

    /// The images that could not be read so far, with the reason.
    pub(super) fn unreadable(&self) -> BTreeMap<PathBuf, String> {
        let known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Images::Hidden(file) | Images::Pooled(file)) = &self.images else { return known };
        let missing = self.pairs.items.iter().enumerate().filter(|(index, _)| !file.has(*index));
        let missing = missing.map(|(_, item)| (self.pairs.file(*item), "it could not be read before".to_owned()));
        missing.chain(known).collect()
    }
}
