//! The image tower.

use std::io::{Cursor, Read, Seek};

use ndarray::{Array2, ArrayView4};

use super::{Engine, OnnxSource, Output, Profile, Threads, TowerError, checked, load, profile};
use crate::bundle::{Bundle, Manifest, TowerKind};
use crate::fused::{Input, Inputs, Watch};

/// The image tower: normalised pixels in, normalised embedding out.
///
/// Clones share the weights and have their own scratch memory, so that they can run at the same time.
#[derive(Debug, Clone)]
pub struct ImageTower {
    engine: Engine,
    layers: profile::Layers,
    output: Output,
    image_size: [usize; 2],
    projection_dim: usize,
}

impl ImageTower {
    /// Loads the image tower of a bundle and checks its SHA-256.
    ///
    /// # Errors
    /// The file cannot be read or has another SHA-256, or the graph cannot be prepared or differs from the manifest.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let (manifest, file) = (bundle.manifest(), &bundle.manifest().vision.file);
        checked(bundle, file, || Self::from_source(Box::new(bundle.open_file(file)?), manifest, threads))
    }

    /// Loads an image tower from the bytes of its ONNX file.
    ///
    /// # Errors
    /// The graph cannot be prepared, or differs from the manifest.
    pub fn load(onnx: &[u8], manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        Self::from_source(Box::new(Cursor::new(onnx)), manifest, threads)
    }

    /// Loads an image tower from an ONNX file that is read in chunks.
    ///
    /// # Errors
    /// As [`Self::load`]; or the file cannot be read.
    pub fn from_reader(onnx: impl Read + Seek, manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        Self::from_source(Box::new(onnx), manifest, threads)
    }

    fn from_source(
        source: Box<dyn OnnxSource + '_>,
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        let image_size = manifest.image_size();
        let inputs = Inputs::Pixels(image_size);
        let (engine, layers) =
            load(TowerKind::Image, source, &manifest.vision, inputs, manifest.projection_dim, threads)?;
        let output = Output::of(&manifest.vision);
        Ok(Self { engine, layers, output, image_size, projection_dim: manifest.projection_dim })
    }

    /// Returns a copy that has the weights of `other`, the same tower with weights stored in another way, in every layer
    /// that is `chosen` by its name ([`super::Layer::layers`]). Layers that are computed as one are taken together when
    /// one of them is chosen. All three towers share the weights.
    ///
    /// # Errors
    /// [`TowerError::Exchange`]: a tower does not run fused, the two differ in more than their weights, or no layer has
    /// a chosen name.
    pub fn with_layers_from(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Result<Self, TowerError> {
        let (engine, layers) = self.engine.with_layers_from(&other.engine, TowerKind::Image, chosen)?;
        let Self { output, image_size, projection_dim, .. } = *self;
        Ok(Self { engine, layers, output, image_size, projection_dim })
    }

    /// Why the tower runs in tract and not fused; `None` where it runs fused.
    pub fn unfused(&self) -> Option<&str> {
        self.layers.unfused()
    }

    /// The steps of the tower in the order in which they run, without times. [`super::Layer::layers`] tells which
    /// layers the engine computes as one.
    pub fn layers(&self) -> &[super::Layer] {
        self.layers.steps()
    }

    /// Embeds one image: `3 * height * width` values, plane by plane, to `projection_dim` values of L2 norm 1.
    ///
    /// Allocates the result; [`Self::embed_into`] does not.
    ///
    /// # Errors
    /// The number of values is wrong, or the embedding is not finite.
    pub fn embed(&self, pixels: &[f32]) -> Result<Vec<f32>, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.embed_into(pixels, &mut embedding)?;
        Ok(embedding)
    }

    /// As [`Self::embed`], into `embedding`, which has `projection_dim` values. A tower that runs fused allocates nothing,
    /// so this is the call for a loop over frames.
    ///
    /// # Errors
    /// As [`Self::embed`]; or `embedding` has another length.
    pub fn embed_into(&self, pixels: &[f32], embedding: &mut [f32]) -> Result<(), TowerError> {
        self.run(pixels, embedding, Output::Embedding)
    }

    /// Embeddings [n, projection_dim] of `n` images [n, 3, height, width]: `image_embeds` of
    /// `VisionTextDualEncoderModel`. For callers that work with batches as transformers does.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn embed_batch(&self, pixel_values: ArrayView4<'_, f32>) -> Result<Array2<f32>, TowerError> {
        self.batch(pixel_values, Output::Embedding)
    }

    /// As [`Self::embed_batch`], before the division by the L2 norm: `get_image_features` of transformers.
    ///
    /// # Errors
    /// As [`Self::embed`]; or the bundle has no features.
    pub fn features_batch(&self, pixel_values: ArrayView4<'_, f32>) -> Result<Array2<f32>, TowerError> {
        self.batch(pixel_values, Output::Features)
    }

    fn batch(&self, pixel_values: ArrayView4<'_, f32>, wanted: Output) -> Result<Array2<f32>, TowerError> {
        let mut out = Array2::zeros((pixel_values.dim().0, self.projection_dim));
        for (pixels, mut row) in pixel_values.outer_iter().zip(out.outer_iter_mut()) {
            let pixels = pixels.as_standard_layout();
            if let (Some(pixels), Some(row)) = (pixels.as_slice(), row.as_slice_mut()) {
                self.run(pixels, row, wanted)?;
            }
        }
        Ok(out)
    }

    fn run(&self, pixels: &[f32], out: &mut [f32], wanted: Output) -> Result<(), TowerError> {
        self.check(pixels, out)?;
        match &self.engine {
            Engine::Fused(runner) => runner.run(Input::Pixels(pixels, self.image_size), out, Watch::Nothing),
            Engine::Convolutional(runner) => runner.run(pixels, out, Watch::Nothing),
            Engine::Tract(towers) => towers.image(pixels, self.image_size, out)?,
        }
        self.output.finish(TowerKind::Image, wanted, out)
    }

    /// Embeds one image on the calling thread, and passes every row that a linear layer reads to `take`, with its step
    /// ([`Self::layers`]); of a CNN tower, the channels of every pixel that a convolution reads, some of them
    /// more than once. A tower that does not run fused passes nothing.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn embed_showing(
        &self,
        pixels: &[f32],
        take: &mut (dyn FnMut(&super::Layer, &[f32]) + Send),
    ) -> Result<Vec<f32>, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.check(pixels, &embedding)?;
        match &self.engine {
            Engine::Fused(runner) => self.layers.show_inputs(take, &mut |watch| {
                runner.run(Input::Pixels(pixels, self.image_size), &mut embedding, watch);
            }),
            Engine::Convolutional(runner) => {
                self.layers.show_inputs(take, &mut |watch| runner.run(pixels, &mut embedding, watch));
            }
            Engine::Tract(_) => return self.embed(pixels),
        }
        self.output.finish(TowerKind::Image, Output::Embedding, &mut embedding)?;
        Ok(embedding)
    }

    /// True if it is a CNN tower that runs fused.
    pub fn is_convolutional(&self) -> bool {
        matches!(self.engine, Engine::Convolutional(_))
    }

    fn check(&self, pixels: &[f32], embedding: &[f32]) -> Result<(), TowerError> {
        let tower = TowerKind::Image;
        let expected = 3 * self.image_size[0] * self.image_size[1];
        if pixels.len() != expected {
            return Err(TowerError::Input { tower, expected, found: pixels.len() });
        }
        if embedding.len() != self.projection_dim {
            return Err(TowerError::Input { tower, expected: self.projection_dim, found: embedding.len() });
        }
        Ok(())
    }

    /// The steps of the tower and, if it runs fused, their times in one run on the calling thread. `clock` returns
    /// nanoseconds.
    ///
    /// # Errors
    /// The number of values is wrong.
    pub fn profile(&self, pixels: &[f32], clock: &(dyn Fn() -> u64 + Sync)) -> Result<Profile, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.check(pixels, &embedding)?;
        Ok(match &self.engine {
            Engine::Fused(runner) => {
                let input = Input::Pixels(pixels, self.image_size);
                self.layers.measure(clock, &mut |watch| runner.run(input, &mut embedding, watch))
            }
            Engine::Convolutional(runner) => self.layers.measure(clock, &mut |watch| {
                runner.run(pixels, &mut embedding, watch);
            }),
            Engine::Tract(_) => self.layers.unmeasured(),
        })
    }
}
