//! Towers with some layers as integers and the others in float.
//!
//! Of towers that run fused, layers are exchanged between the two forms, which share the weights. Any other tower, and
//! every one that another program exported, whose layers the engine knows by other names, is built anew each time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use spotter_engine::bundle::Weights;
use spotter_engine::tower::{ImageTower, TextTower, Threads, TowerError};

use super::{Inputs, PER_LAYER};
use crate::assemble::Assembled;
use crate::compare::{Agreement, threads};
use crate::error::Error;
use crate::model::Model;
use crate::plan::{Plan, Plans, Target};
use crate::progress::Tick;

/// Normalised embeddings, in the order of the inputs.
type Embeddings = Vec<Vec<f32>>;

/// What is calibrated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Material<'a> {
    pub(crate) model: Model<'a>,
    /// How its weights are to be stored.
    pub(crate) plans: &'a Plans,
    /// Its parts, stored so.
    pub(crate) stored: &'a Assembled,
    /// Its parts with float weights.
    pub(crate) float: &'a Assembled,
    /// A folder with room for the weights of a tower.
    pub(crate) scratch: &'a Path,
}

/// The forms of one tower.
enum Forms<T> {
    Exchanged { stored: T, float: T },
    Rebuilt,
}

/// The form that a tower has but for some layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Stored,
    Float,
}

/// Both towers in both forms.
pub(super) struct Bench<'a> {
    material: Material<'a>,
    threads: Threads,
    inputs: Inputs,
    image: Forms<ImageTower>,
    text: Forms<TextTower>,
    /// Embeddings by the float towers: pictures, prompts.
    reference: [Embeddings; 2],
    /// What was measured already, by tower and layers in float.
    known: HashMap<(usize, Vec<String>), Embeddings>,
    tick: Tick<'a>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(material: Material<'a>, inputs: Inputs, tick: Tick<'a>) -> Result<Self, Error> {
        let threads = threads()?;
        let Material { model, stored, float, .. } = material;
        let own = matches!(model, Model::Checkpoint(_));
        let image = [stored.image_tower(&threads)?, float.image_tower(&threads)?];
        let reference = images(&image[1], &inputs.pixels, tick)?;
        let fused = own && image.iter().all(|tower| tower.unfused().is_none());
        let image = forms(image, fused);
        let mut text = [stored.text_tower(&threads)?, float.text_tower(&threads)?];
        let reference = [reference, texts(&mut text[1], &inputs.prompts, tick)?];
        let fused = own && text.iter().all(|tower| tower.unfused().is_none());
        let text = forms(text, fused);
        Ok(Self { material, threads, inputs, image, text, reference, known: HashMap::new(), tick })
    }

    pub(super) fn pictures(&self) -> usize {
        self.inputs.pixels.len()
    }

    pub(super) fn prompts(&self) -> usize {
        self.inputs.prompts.len()
    }

    /// What is lost where only the layers called `names` are stored as integers: of the cosine, and of agreement in
    /// points.
    pub(super) fn damage(&self, tower: usize, names: &[String]) -> Result<(f32, f32), Error> {
        let [image_reference, text_reference] = &self.reference;
        if tower == 0 {
            let tower = self.image_tower(Base::Float, names)?;
            // As evenly spaced as the pictures themselves.
            let count = self.pictures().min(PER_LAYER);
            let some = (0..count).map(|index| index * self.pictures() / count);
            let pixels: Vec<_> = some.clone().map(|index| self.inputs.pixels[index].clone()).collect();
            let expected: Vec<_> = some.map(|index| image_reference[index].clone()).collect();
            let found = images(&tower, &pixels, self.tick)?;
            let drop = drop([&found, text_reference], [&expected, text_reference]);
            return Ok((loss(&found, &expected), drop));
        }
        let mut tower = self.text_tower(Base::Float, names)?;
        let found = texts(&mut tower, &self.inputs.prompts, self.tick)?;
        let drop = drop([image_reference, &found], [image_reference, text_reference]);
        Ok((loss(&found, text_reference), drop))
    }

    /// What agreement drops by, in points, where all but the layers called `floats` are stored as integers.
    pub(super) fn drop(&mut self, floats: [Vec<String>; 2]) -> Result<f32, Error> {
        let [image_floats, text_floats] = floats;
        let image_key = (0, image_floats);
        if !self.known.contains_key(&image_key) {
            let tower = self.image_tower(Base::Stored, &image_key.1)?;
            let found = images(&tower, &self.inputs.pixels, self.tick)?;
            self.known.insert(image_key.clone(), found);
        }
        let text_key = (1, text_floats);
        if !self.known.contains_key(&text_key) {
            let mut tower = self.text_tower(Base::Stored, &text_key.1)?;
            let found = texts(&mut tower, &self.inputs.prompts, self.tick)?;
            self.known.insert(text_key.clone(), found);
        }
        let [image_reference, text_reference] = &self.reference;
        Ok(drop([&self.known[&image_key], &self.known[&text_key]], [image_reference, text_reference]))
    }

    /// The image tower as `base`, but for the layers called `others`, which have the other form.
    fn image_tower(&self, base: Base, others: &[String]) -> Result<ImageTower, Error> {
        if let Some(tower) = self.image.exchanged(base, others, ImageTower::exchanged)? {
            return Ok(tower);
        }
        let Material { model, plans, stored, scratch, .. } = self.material;
        let plan = plan(&plans.image, base, others);
        let file = model.image_tower(Target { plan: &plan, scratch }, self.tick)?;
        Ok(ImageTower::from_reader(file.onnx.reader(), &stored.manifest, &self.threads)?)
    }

    /// As [`Self::image_tower`].
    fn text_tower(&self, base: Base, others: &[String]) -> Result<TextTower, Error> {
        if let Some(tower) = self.text.exchanged(base, others, TextTower::exchanged)? {
            return Ok(tower);
        }
        let Material { model, plans, stored, scratch, .. } = self.material;
        let plan = plan(&plans.text, base, others);
        let file = model.text_tower(Target { plan: &plan, scratch }, self.tick)?;
        Ok(TextTower::from_reader(file.onnx.reader(), &stored.tokenizer, &stored.manifest, &self.threads)?)
    }
}

/// How a tower takes layers of its other form: [`ImageTower::exchanged`].
type Exchange<T> = fn(&T, &T, &dyn Fn(&str) -> bool) -> Result<T, TowerError>;

impl<T: Clone> Forms<T> {
    /// The tower as `base`, but for the layers called `others`; nothing where it has to be built anew.
    fn exchanged(&self, base: Base, others: &[String], exchange: Exchange<T>) -> Result<Option<T>, TowerError> {
        let Self::Exchanged { stored, float } = self else { return Ok(None) };
        let chosen = |step: &str| named(others, step);
        Ok(Some(match base {
            Base::Stored if others.is_empty() => stored.clone(),
            Base::Stored => exchange(stored, float, &chosen)?,
            Base::Float => exchange(float, stored, &chosen)?,
        }))
    }
}

/// Both are kept only where layers can be exchanged between them.
fn forms<T>([stored, float]: [T; 2], fused: bool) -> Forms<T> {
    if fused { Forms::Exchanged { stored, float } } else { Forms::Rebuilt }
}

/// The plan of a tower as `base`, but for the layers called `others`; `stored` is the plan of the stored form.
fn plan(stored: &Plan, base: Base, others: &[String]) -> Plan {
    let of = |name: &String| if base == Base::Float { stored.of(name) } else { Weights::F32 };
    let own = others.iter().map(|name| (name.clone(), of(name)));
    match base {
        Base::Float => Plan { weights: Weights::F32, exceptions: own.collect() },
        Base::Stored => {
            let exceptions: BTreeMap<_, _> = stored.exceptions.clone().into_iter().chain(own).collect();
            Plan { weights: stored.weights, exceptions }
        }
    }
}

/// Whether a step of a tower is one of these layers: the product before a bias has a name of its own.
fn named(names: &[String], step: &str) -> bool {
    let layer = step.strip_suffix(".product").unwrap_or(step);
    names.iter().any(|name| name == layer)
}

fn images(tower: &ImageTower, pixels: &[Vec<f32>], tick: Tick<'_>) -> Result<Embeddings, Error> {
    let embed = |pixels: &Vec<f32>| {
        tick();
        Ok(tower.embed(pixels)?)
    };
    pixels.iter().map(embed).collect()
}

fn texts(tower: &mut TextTower, prompts: &[String], tick: Tick<'_>) -> Result<Embeddings, Error> {
    let embed = |prompt: &String| {
        tick();
        Ok(tower.embed(prompt)?)
    };
    prompts.iter().map(embed).collect()
}

/// 1 less the mean cosine; not below 0, which only rounding would give.
fn loss(found: &Embeddings, expected: &Embeddings) -> f32 {
    let loss = (1.0 - Agreement::of(found, expected).cosine_mean).max(0.0);
    (loss * 1e7).round() / 1e7
}

/// Of 100 pictures, how many have another winning prompt: `found` and `expected` are embeddings of pictures and prompts.
fn drop(found: [&Embeddings; 2], expected: [&Embeddings; 2]) -> f32 {
    let (found, expected) = (winners(found), winners(expected));
    let changed = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    100.0 * changed as f32 / expected.len().max(1) as f32
}

/// The prompt with the largest cosine for each picture; the first of equal ones.
fn winners([images, texts]: [&Embeddings; 2]) -> Vec<usize> {
    let winner = |image: &Vec<f32>| {
        let score = |text: &Vec<f32>| image.iter().zip(text).map(|(a, b)| a * b).sum::<f32>();
        let mut best = (0, f32::NEG_INFINITY);
        for (index, score) in texts.iter().map(score).enumerate() {
            if score > best.1 {
                best = (index, score);
            }
        }
        best.0
    };
    images.iter().map(winner).collect()
}

#[cfg(test)]
mod tests {
    use spotter_engine::bundle::Weights;

    use super::{Base, Plan, drop, loss, named, plan};

    #[test]
    fn winning_prompts_that_change_are_counted() {
        let texts = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        let expected = vec![vec![0.8, 0.6], vec![0.6, 0.8], vec![1.0, 0.0], vec![0.0, 1.0]];
        let check = |found: &[[f32; 2]; 4], dropped: f32| {
            let found = found.iter().map(|row| row.to_vec()).collect();
            assert_eq!(drop([&found, &texts], [&expected, &texts]), dropped, "{found:?}");
        };
        check(&[[0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]], 0.0);
        check(&[[0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [0.6, 0.8]], 25.0);
        check(&[[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]], 100.0);
        assert_eq!(loss(&expected, &expected), 0.0);
        assert!((loss(&texts, &vec![vec![0.8, 0.6], vec![0.6, 0.8]]) - 0.2).abs() < 1e-6);
    }

    #[test]
    fn steps_belong_to_layers() {
        let names = ["a.query".to_owned(), "b".to_owned()];
        for (step, expected) in [("a.query.product", true), ("b", true), ("a", false), ("b.output", false)] {
            assert_eq!(named(&names, step), expected, "{step}");
        }
    }

    #[test]
    fn plans_of_mixed_towers() {
        let mut stored = Plan::from(Weights::Int4);
        stored.exceptions.insert("b".into(), Weights::Int8);
        let check = |base: Base, others: &[&str], expected: [Weights; 3]| {
            let others: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
            let plan = plan(&stored, base, &others);
            assert_eq!(["a", "b", "c"].map(|name| plan.of(name)), expected, "{base:?} {others:?}");
        };
        use Weights::{F32, Int4, Int8};
        check(Base::Stored, &[], [Int4, Int8, Int4]);
        check(Base::Stored, &["b", "c"], [Int4, F32, F32]);
        check(Base::Float, &["a", "b"], [Int4, Int8, F32]);
    }
}
