//! Runs towers on the built-in probes and compares two sets of embeddings.

use spotter_engine::bundle::Manifest;
use spotter_engine::picture::Picture;
use spotter_engine::tower::{ImageTower, TextTower};

use crate::error::Error;
use crate::probes;
use crate::progress::Tick;

/// How closely two sets of embeddings agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Smallest cosine of the two embeddings of one input.
    pub cosine_min: f32,
    /// The fifth percentile of those cosines.
    pub cosine_p5: f32,
    /// Mean of those cosines.
    pub cosine_mean: f32,
    /// Largest absolute difference of two components.
    pub worst_difference: f32,
}

/// Embeds the probe images, preprocessed as the bundle says.
pub(crate) fn image_probes(tower: &ImageTower, manifest: &Manifest, tick: Tick<'_>) -> Result<Vec<Vec<f32>>, Error> {
    embed_images(tower, manifest, &probes::images(manifest.image_size()), tick)
}

/// Embeds the images of a verification.
pub(crate) fn verification_images(
    tower: &ImageTower,
    manifest: &Manifest,
    tick: Tick<'_>,
) -> Result<Vec<Vec<f32>>, Error> {
    embed_images(tower, manifest, &probes::verification_images(manifest.image_size()), tick)
}

fn embed_images(
    tower: &ImageTower,
    manifest: &Manifest,
    images: &[Picture],
    tick: Tick<'_>,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut preprocessor = manifest.preprocessor()?;
    let mut pixels = Vec::new();
    let embed = |image: &Picture| {
        preprocessor.run(image, &mut pixels)?;
        tick();
        Ok(tower.embed(&pixels)?)
    };
    images.iter().map(embed).collect()
}

/// Embeds the texts of a verification.
pub(crate) fn verification_texts(
    tower: &mut TextTower,
    manifest: &Manifest,
    tick: Tick<'_>,
) -> Result<Vec<Vec<f32>>, Error> {
    embed_texts(tower, &probes::verification_texts(manifest.tokenizer.max_length), tick)
}

/// Embeds the probe prompts.
pub(crate) fn text_probes(tower: &mut TextTower, tick: Tick<'_>) -> Result<Vec<Vec<f32>>, Error> {
    embed_texts(tower, &probes::prompts(), tick)
}

fn embed_texts(tower: &mut TextTower, texts: &[impl AsRef<str>], tick: Tick<'_>) -> Result<Vec<Vec<f32>>, Error> {
    let embed = |text: &_| {
        tick();
        Ok(tower.embed(AsRef::as_ref(text))?)
    };
    texts.iter().map(embed).collect()
}

impl Agreement {
    /// Compares embeddings of the same inputs, in the same order. Both sets must have at least one.
    pub fn of(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> Self {
        let mut cosines: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| cosine(a, b) as f32).collect();
        let differences = ours.iter().flatten().zip(theirs.iter().flatten()).map(|(a, b)| (a - b).abs());
        let cosine_mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
        cosines.sort_by(f32::total_cmp);
        Self {
            cosine_p5: cosines.get(cosines.len() / 20).copied().unwrap_or(1.0),
            cosine_min: cosines.iter().copied().fold(1.0, f32::min),
            cosine_mean,
            worst_difference: differences.fold(0.0, f32::max),
        }
    }
}

/// Cosine of two vectors, computed in 64 bits so that equal vectors give 1 to all printed digits.
pub(crate) fn cosine<'a, V: IntoIterator<Item = &'a f32> + Copy>(a: V, b: V) -> f64 {
    let dot = |a: V, b: V| a.into_iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Index of the text with the largest cosine for each image; the first one on a tie. All embeddings are normalised.
pub(crate) fn top1(images: &[Vec<f32>], texts: &[Vec<f32>]) -> Vec<usize> {
    let best = |image: &Vec<f32>| {
        let score = |text: &Vec<f32>| image.iter().zip(text).map(|(a, b)| a * b).sum::<f32>();
        let mut best = (0, f32::NEG_INFINITY);
        for (index, score) in texts.iter().map(score).enumerate() {
            if score > best.1 {
                best = (index, score);
            }
        }
        best.0
    };
    images.iter().map(best).collect()
}

/// One thread per core.
pub(crate) fn threads() -> Result<spotter_engine::tower::Threads, spotter_engine::tower::TowerError> {
    spotter_engine::tower::Threads::new(std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::Agreement;

    #[test]
    fn agreement_of_embeddings() {
        let ours = [vec![1.0, 0.0], vec![0.6, 0.8]];
        let theirs = [vec![1.0, 0.0], vec![0.8, 0.6]];
        let found = Agreement::of(&ours, &theirs);
        assert!((found.cosine_min - 0.96).abs() < 1e-6 && (found.cosine_mean - 0.98).abs() < 1e-6, "{found:?}");
        assert!((found.worst_difference - 0.2).abs() < 1e-6, "{found:?}");
    }
}
