//! Both towers in two forms, as stored and finer, and what mixing the forms changes. The finer form is float, or int8 of
//! int4 layers.
//!
//! Towers that run fused exchange layers between their two forms, which share the weights. All other towers, and those
//! from ONNX files of other exporters, whose layers have other names in the engine, are built again for each mix.

use std::collections::HashMap;
use std::path::Path;

use spotter_engine::bundle::TowerKind;
use spotter_engine::tower::{self, ImageTower, TextTower, Threads, TowerError};

use super::inputs::{IMAGES_PER_LAYER, Inputs};
use crate::assemble::Assembled;
use crate::compare::{Agreement, cosine, threads, top1};
use crate::error::Error;
use crate::model::Model;
use crate::plan::{Plan, Plans, Target};
use crate::progress::Tick;

/// Normalised embeddings, in the order of the inputs.
pub(super) type Embeddings = Vec<Vec<f32>>;

/// The model to calibrate, in both forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CalibrationInput<'a> {
    pub(crate) model: Model<'a>,
    /// The requested storage of its weights.
    pub(crate) plans: &'a Plans,
    /// Its parts, stored by `plans`.
    pub(crate) stored: &'a Assembled,
    /// The storage that layers may have instead.
    pub(crate) finer_plans: &'a Plans,
    /// Its parts, stored by `finer_plans`.
    pub(crate) finer: &'a Assembled,
    /// A folder for temporary files, with room for the weights of a tower.
    pub(crate) scratch: &'a Path,
}

/// Cost of storing one unit alone as integers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sensitivity {
    /// 1 minus the mean cosine to the float embeddings.
    pub(super) cosine_loss: f32,
    /// Percentage of images whose top-1 label changes.
    pub(super) top1_change: f32,
}

/// How mixes of the two forms of one tower are made.
enum Forms<T> {
    /// By exchanging layers between the two.
    Exchanged { stored: T, finer: T },
    /// By building the tower again.
    Rebuilt,
}

/// The form of all layers that are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Stored,
    Finer,
}

/// Both towers in both forms, with the inputs and the float embeddings of them.
pub(super) struct TowerPair<'a> {
    input: CalibrationInput<'a>,
    threads: Threads,
    inputs: Inputs,
    image: Forms<ImageTower>,
    text: Forms<TextTower>,
    /// Embeddings by the float towers.
    image_reference: Embeddings,
    text_reference: Embeddings,
    /// Embeddings of the mixes that were measured, by tower and names of the finer layers.
    known: HashMap<(TowerKind, Vec<String>), Embeddings>,
    tick: Tick<'a>,
}

impl<'a> TowerPair<'a> {
    /// Loads both forms of both towers. `references` are the float embeddings of `inputs`; without them, the finer form is
    /// float and gives them.
    pub(super) fn new(
        input: CalibrationInput<'a>,
        inputs: Inputs,
        references: Option<[Embeddings; 2]>,
        tick: Tick<'a>,
    ) -> Result<Self, Error> {
        let threads = threads()?;
        let CalibrationInput { model, stored, finer, .. } = input;
        let is_checkpoint = matches!(model, Model::Checkpoint(_));
        let (image_reference, text_reference) = references.map(|[image, text]| (image, text)).unzip();
        let image = [stored.image_tower(&threads)?, finer.image_tower(&threads)?];
        let embedded = || embed_images(&image[1], &inputs.pixels, tick);
        let image_reference = image_reference.map_or_else(embedded, Ok)?;
        let fused = is_checkpoint && image.iter().all(|tower| tower.unfused().is_none());
        let image = forms(image, fused);
        let mut text = [stored.text_tower(&threads)?, finer.text_tower(&threads)?];
        let embedded = || embed_texts(&mut text[1], &inputs.prompts, tick);
        let text_reference = text_reference.map_or_else(embedded, Ok)?;
        let fused = is_checkpoint && text.iter().all(|tower| tower.unfused().is_none());
        let text = forms(text, fused);
        let known = HashMap::new();
        Ok(Self { input, threads, inputs, image, text, image_reference, text_reference, known, tick })
    }

    /// Number of images.
    pub(super) fn images(&self) -> usize {
        self.inputs.pixels.len()
    }

    /// Number of prompts.
    pub(super) fn prompts(&self) -> usize {
        self.inputs.prompts.len()
    }

    /// The steps of a tower that runs fused, as the engine lists them; none of a tower that is built again for each mix.
    pub(super) fn steps(&self, tower: TowerKind) -> &[tower::Layer] {
        let steps = match tower {
            TowerKind::Image => self.image.stored().map(ImageTower::layers),
            TowerKind::Text => self.text.stored().map(TextTower::layers),
        };
        steps.unwrap_or_default()
    }

    /// Measures the cost of storing only the layers called `names`, of one tower, as integers.
    pub(super) fn sensitivity(&self, tower: TowerKind, names: &[String]) -> Result<Sensitivity, Error> {
        let (image_reference, text_reference) = (&self.image_reference, &self.text_reference);
        match tower {
            TowerKind::Image => {
                let tower = self.image_tower(Base::Finer, names)?;
                // Evenly spaced, as the images themselves are.
                let count = self.images().min(IMAGES_PER_LAYER);
                let some = (0..count).map(|index| index * self.images() / count);
                let pixels: Vec<_> = some.clone().map(|index| self.inputs.pixels[index].clone()).collect();
                let expected: Vec<_> = some.map(|index| image_reference[index].clone()).collect();
                let found = embed_images(&tower, &pixels, self.tick)?;
                let top1_change = top1_change([&found, text_reference], [&expected, text_reference]);
                Ok(Sensitivity { cosine_loss: cosine_loss(&found, &expected), top1_change })
            }
            TowerKind::Text => {
                let mut tower = self.text_tower(Base::Finer, names)?;
                let found = embed_texts(&mut tower, &self.inputs.prompts, self.tick)?;
                let top1_change = top1_change([image_reference, &found], [image_reference, text_reference]);
                Ok(Sensitivity { cosine_loss: cosine_loss(&found, text_reference), top1_change })
            }
        }
    }

    /// Percentage of images whose top-1 label changes if all layers but the listed ones are as stored.
    pub(super) fn top1_change(&mut self, image_finer: Vec<String>, text_finer: Vec<String>) -> Result<f32, Error> {
        let keys = [(TowerKind::Image, image_finer), (TowerKind::Text, text_finer)];
        keys.iter().try_for_each(|key| self.embed_mix(key))?;
        let found = [&self.known[&keys[0]], &self.known[&keys[1]]];
        Ok(top1_change(found, [&self.image_reference, &self.text_reference]))
    }

    /// Cosines to float of one tower in which all layers but `finer` are as stored, on some inputs or on all.
    pub(super) fn cosines(
        &self,
        tower: TowerKind,
        finer: &[String],
        inputs: Option<&[usize]>,
    ) -> Result<Vec<f32>, Error> {
        let (reference, found) = match tower {
            TowerKind::Image => {
                let pixels = chosen(&self.inputs.pixels, inputs);
                let mixed = self.image_tower(Base::Stored, finer)?;
                (&self.image_reference, embed_images(&mixed, &pixels, self.tick)?)
            }
            TowerKind::Text => {
                let prompts = chosen(&self.inputs.prompts, inputs);
                let mut mixed = self.text_tower(Base::Stored, finer)?;
                (&self.text_reference, embed_texts(&mut mixed, &prompts, self.tick)?)
            }
        };
        let pairs = found.iter().zip(chosen(reference, inputs));
        Ok(pairs.map(|(found, expected)| cosine(found, &expected) as f32).collect())
    }

    /// Embeds all inputs of one tower, which has the finer form of the layers in `key`, unless that is known.
    fn embed_mix(&mut self, key: &(TowerKind, Vec<String>)) -> Result<(), Error> {
        if self.known.contains_key(key) {
            return Ok(());
        }
        let found = match key.0 {
            TowerKind::Image => {
                let tower = self.image_tower(Base::Stored, &key.1)?;
                embed_images(&tower, &self.inputs.pixels, self.tick)?
            }
            TowerKind::Text => {
                let mut tower = self.text_tower(Base::Stored, &key.1)?;
                embed_texts(&mut tower, &self.inputs.prompts, self.tick)?
            }
        };
        self.known.insert(key.clone(), found);
        Ok(())
    }

    /// The image tower in the form `base`, except for the layers called `others`, which have the other form.
    fn image_tower(&self, base: Base, others: &[String]) -> Result<ImageTower, Error> {
        if let Some(tower) = self.image.exchanged(base, others, ImageTower::with_layers_from)? {
            return Ok(tower);
        }
        let CalibrationInput { model, plans, finer_plans, stored, scratch, .. } = self.input;
        let plan = mixed_plan([&plans.image, &finer_plans.image], base, others);
        let file = model.image_tower(Target { plan: &plan, scratch }, self.tick)?;
        Ok(ImageTower::from_reader(file.onnx.reader(), &stored.manifest, &self.threads)?)
    }

    /// The text tower, mixed as in [`Self::image_tower`].
    fn text_tower(&self, base: Base, others: &[String]) -> Result<TextTower, Error> {
        if let Some(tower) = self.text.exchanged(base, others, TextTower::with_layers_from)? {
            return Ok(tower);
        }
        let CalibrationInput { model, plans, finer_plans, stored, scratch, .. } = self.input;
        let plan = mixed_plan([&plans.text, &finer_plans.text], base, others);
        let file = model.text_tower(Target { plan: &plan, scratch }, self.tick)?;
        Ok(TextTower::from_reader(file.onnx.reader(), &stored.tokenizer, &stored.manifest, &self.threads)?)
    }
}

/// [`ImageTower::with_layers_from`] or [`TextTower::with_layers_from`].
type Exchange<T> = fn(&T, &T, &dyn Fn(&str) -> bool) -> Result<T, TowerError>;

impl<T: Clone> Forms<T> {
    /// The tower in its stored form, if both forms are kept.
    fn stored(&self) -> Option<&T> {
        match self {
            Self::Exchanged { stored, .. } => Some(stored),
            Self::Rebuilt => None,
        }
    }

    /// The tower in the form `base`, except for the layers called `others`; `None` if it has to be built again.
    fn exchanged(&self, base: Base, others: &[String], exchange: Exchange<T>) -> Result<Option<T>, TowerError> {
        let Self::Exchanged { stored, finer } = self else { return Ok(None) };
        let chosen = |layer: &str| others.iter().any(|name| name == layer);
        Ok(Some(match base {
            Base::Stored if others.is_empty() => stored.clone(),
            Base::Stored => exchange(stored, finer, &chosen)?,
            Base::Finer => exchange(finer, stored, &chosen)?,
        }))
    }
}

/// The inputs with these indices, or all.
fn chosen<T: Clone>(all: &[T], indices: Option<&[usize]>) -> Vec<T> {
    match indices {
        None => all.to_vec(),
        Some(indices) => indices.iter().map(|index| all[*index].clone()).collect(),
    }
}

/// Keeps both forms only if layers can be exchanged between them.
fn forms<T>([stored, finer]: [T; 2], fused: bool) -> Forms<T> {
    if fused { Forms::Exchanged { stored, finer } } else { Forms::Rebuilt }
}

/// The plan of a tower in the form `base`, except for the layers called `others`, which have the other form.
fn mixed_plan([stored, finer]: [&Plan; 2], base: Base, others: &[String]) -> Plan {
    let (base, other) = match base {
        Base::Stored => (stored, finer),
        Base::Finer => (finer, stored),
    };
    let mut mixed = base.clone();
    mixed.exceptions.extend(others.iter().map(|name| (name.clone(), other.of(name))));
    mixed
}

pub(super) fn embed_images(tower: &ImageTower, pixels: &[Vec<f32>], tick: Tick<'_>) -> Result<Embeddings, Error> {
    let embed = |pixels: &Vec<f32>| {
        tick();
        Ok(tower.embed(pixels)?)
    };
    pixels.iter().map(embed).collect()
}

pub(super) fn embed_texts(tower: &mut TextTower, prompts: &[String], tick: Tick<'_>) -> Result<Embeddings, Error> {
    let embed = |prompt: &String| {
        tick();
        Ok(tower.embed(prompt)?)
    };
    prompts.iter().map(embed).collect()
}

/// 1 minus the mean cosine, not below 0 (rounding alone would give that), rounded to seven digits.
fn cosine_loss(found: &Embeddings, expected: &Embeddings) -> f32 {
    let loss = (1.0 - Agreement::of(found, expected).cosine_mean).max(0.0);
    (loss * 1e7).round() / 1e7
}

/// Percentage of images whose top-1 label differs between two sets of image and text embeddings.
fn top1_change(found: [&Embeddings; 2], expected: [&Embeddings; 2]) -> f32 {
    let (found, expected) = (top1(found[0], found[1]), top1(expected[0], expected[1]));
    let changed = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    100.0 * changed as f32 / expected.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use spotter_engine::bundle::Weights;

    use super::{Base, Plan, cosine_loss, mixed_plan, top1_change};

    #[test]
    fn top1_labels_that_change_are_counted() {
        let texts = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        let expected = vec![vec![0.8, 0.6], vec![0.6, 0.8], vec![1.0, 0.0], vec![0.0, 1.0]];
        let check = |found: &[[f32; 2]; 4], changed: f32| {
            let found = found.iter().map(|row| row.to_vec()).collect();
            assert_eq!(top1_change([&found, &texts], [&expected, &texts]), changed, "{found:?}");
        };
        check(&[[0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]], 0.0);
        check(&[[0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [0.6, 0.8]], 25.0);
        check(&[[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]], 100.0);
        assert_eq!(cosine_loss(&expected, &expected), 0.0);
        assert!((cosine_loss(&texts, &vec![vec![0.8, 0.6], vec![0.6, 0.8]]) - 0.2).abs() < 1e-6);
    }

    #[test]
    fn plans_of_mixed_towers() {
        use Weights::{F32, Int4, Int8};
        let mut stored = Plan::from(Weights::Int4);
        stored.exceptions.insert("b".into(), Weights::Int8);
        let check = |base: Base, others: &[&str], expected: [Weights; 3]| {
            let others: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
            let plan = mixed_plan([&stored, &Plan::from(F32)], base, &others);
            assert_eq!(["a", "b", "c"].map(|name| plan.of(name)), expected, "{base:?} {others:?}");
        };
        check(Base::Stored, &[], [Int4, Int8, Int4]);
        check(Base::Stored, &["b", "c"], [Int4, F32, F32]);
        check(Base::Finer, &["a", "b"], [Int4, Int8, F32]);
    }
}
