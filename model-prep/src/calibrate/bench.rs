//! Float towers with some layers exchanged for their integer forms, and the other way round.

use std::collections::HashMap;

use spotter_engine::tower::{ImageTower, TextTower};

use super::{Inputs, PER_LAYER};
use crate::compare::{Agreement, threads};
use crate::export::Assembled;
use crate::{Error, Tick};

/// Normalised embeddings, in the order of the inputs.
type Embeddings = Vec<Vec<f32>>;

/// Both towers in both forms.
pub(super) struct Bench<'a> {
    inputs: Inputs,
    image: [ImageTower; 2],
    text: [TextTower; 2],
    /// Embeddings by the float towers: pictures, prompts.
    reference: [Embeddings; 2],
    /// What was measured already, by tower and layers in float.
    known: HashMap<(usize, Vec<String>), Embeddings>,
    tick: Tick<'a>,
}

/// The form in [`Bench::image`] and [`Bench::text`].
const STORED: usize = 0;
const FLOAT: usize = 1;

impl<'a> Bench<'a> {
    pub(super) fn new(stored: &Assembled, float: &Assembled, inputs: Inputs, tick: Tick<'a>) -> Result<Self, Error> {
        let threads = threads()?;
        let image = [stored.image_tower(&threads)?, float.image_tower(&threads)?];
        let mut text = [stored.text_tower(&threads)?, float.text_tower(&threads)?];
        let reference = [images(&image[FLOAT], &inputs.pixels, tick)?, texts(&mut text[FLOAT], &inputs.prompts, tick)?];
        Ok(Self { inputs, image, text, reference, known: HashMap::new(), tick })
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
        let chosen = |step: &str| named(names, step);
        let [image_reference, text_reference] = &self.reference;
        if tower == 0 {
            let tower = self.image[FLOAT].exchanged(&self.image[STORED], &chosen)?;
            // As evenly spaced as the pictures themselves.
            let count = self.pictures().min(PER_LAYER);
            let some = (0..count).map(|index| index * self.pictures() / count);
            let pixels: Vec<_> = some.clone().map(|index| self.inputs.pixels[index].clone()).collect();
            let expected: Vec<_> = some.map(|index| image_reference[index].clone()).collect();
            let found = images(&tower, &pixels, self.tick)?;
            let drop = drop([&found, text_reference], [&expected, text_reference]);
            return Ok((loss(&found, &expected), drop));
        }
        let mut tower = self.text[FLOAT].exchanged(&self.text[STORED], &chosen)?;
        let found = texts(&mut tower, &self.inputs.prompts, self.tick)?;
        let drop = drop([image_reference, &found], [image_reference, text_reference]);
        Ok((loss(&found, text_reference), drop))
    }

    /// What agreement drops by, in points, where all but the layers called `floats` are stored as integers.
    pub(super) fn drop(&mut self, floats: [Vec<String>; 2]) -> Result<f32, Error> {
        let [image_floats, text_floats] = floats;
        let image_key = (0, image_floats);
        if !self.known.contains_key(&image_key) {
            let tower = mixed_image(&self.image, &image_key.1)?;
            let found = images(&tower, &self.inputs.pixels, self.tick)?;
            self.known.insert(image_key.clone(), found);
        }
        let text_key = (1, text_floats);
        if !self.known.contains_key(&text_key) {
            let mut tower = mixed_text(&self.text, &text_key.1)?;
            let found = texts(&mut tower, &self.inputs.prompts, self.tick)?;
            self.known.insert(text_key.clone(), found);
        }
        let [image_reference, text_reference] = &self.reference;
        Ok(drop([&self.known[&image_key], &self.known[&text_key]], [image_reference, text_reference]))
    }
}

fn mixed_image(forms: &[ImageTower; 2], floats: &[String]) -> Result<ImageTower, Error> {
    if floats.is_empty() {
        return Ok(forms[STORED].clone());
    }
    Ok(forms[STORED].exchanged(&forms[FLOAT], &|step: &str| named(floats, step))?)
}

fn mixed_text(forms: &[TextTower; 2], floats: &[String]) -> Result<TextTower, Error> {
    if floats.is_empty() {
        return Ok(forms[STORED].clone());
    }
    Ok(forms[STORED].exchanged(&forms[FLOAT], &|step: &str| named(floats, step))?)
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
    use super::{drop, loss, named};

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
}
