//! The text tower.

use std::io::{Cursor, Read, Seek};

use ndarray::Array2;

use super::{Engine, OnnxSource, Output, Profile, Threads, TowerError, checked, load, profile};
use crate::bundle::{Bundle, Manifest, Padding, Positions, TowerKind};
use crate::fused::{Input, Inputs, Watch};
use crate::tokenize::{Encoding, Tokenizer};

/// The text tower with its tokenizer: prompt in, normalised embedding out.
///
/// Clones share the weights and have their own scratch memory, so that they can run at the same time.
#[derive(Debug, Clone)]
pub struct TextTower {
    engine: Engine,
    layers: profile::Layers,
    output: Output,
    tokenizer: Tokenizer,
    max_length: usize,
    projection_dim: usize,
}

impl TextTower {
    /// Loads the text tower and the tokenizer of a bundle and checks the SHA-256 of both.
    ///
    /// # Errors
    /// A file cannot be read or has another SHA-256, the graph cannot be prepared or differs from the manifest, or the
    /// tokenizer cannot be used.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let (manifest, file) = (bundle.manifest(), &bundle.manifest().text.file);
        let tokenizer = bundle.read(&manifest.tokenizer.file)?;
        checked(bundle, file, || Self::from_source(Box::new(bundle.open_file(file)?), &tokenizer, manifest, threads))
    }

    /// Loads a text tower from the bytes of its ONNX file and of its `tokenizer.json`.
    ///
    /// # Errors
    /// The graph cannot be prepared or differs from the manifest, or the tokenizer cannot be used.
    pub fn load(
        onnx: &[u8],
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        Self::from_source(Box::new(Cursor::new(onnx)), tokenizer_json, manifest, threads)
    }

    /// Loads a text tower from an ONNX file that is read in chunks, and the bytes of its `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Self::load`]; or the file cannot be read.
    pub fn from_reader(
        onnx: impl Read + Seek,
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        Self::from_source(Box::new(onnx), tokenizer_json, manifest, threads)
    }

    fn from_source(
        source: Box<dyn OnnxSource + '_>,
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        let (spec, projection_dim) = (&manifest.tokenizer, manifest.projection_dim);
        let names: Vec<String> = manifest.text.inputs.iter().map(|input| input.name.clone()).collect();
        let first_position = match spec.positions {
            Positions::Sequential => 0,
            Positions::AfterPadding => spec.pad_id as usize + 1,
        };
        let inputs = Inputs::Tokens { names: &names, tokens_max: spec.max_length, first_position };
        // A tower that was trained on one length may pool the last token, which appended tokens would move.
        let tail = spec.padding == Padding::Longest && names.iter().any(|name| name == "attention_mask");
        let (mut engine, layers) = load(TowerKind::Text, source, &manifest.text, inputs, projection_dim, threads)?;
        if let (Engine::Tract(towers), false) = (&mut engine, tail) {
            towers.prepare_exact_lengths();
        }
        let tokenizer = Tokenizer::from_bytes(tokenizer_json, spec)?;
        let output = Output::of(&manifest.text);
        Ok(Self { engine, layers, output, tokenizer, max_length: spec.max_length, projection_dim })
    }

    /// As [`super::ImageTower::with_layers_from`].
    ///
    /// # Errors
    /// As [`super::ImageTower::with_layers_from`].
    pub fn with_layers_from(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Result<Self, TowerError> {
        let (engine, layers) = self.engine.with_layers_from(&other.engine, TowerKind::Text, chosen)?;
        let Self { output, max_length, projection_dim, .. } = *self;
        Ok(Self { engine, layers, output, tokenizer: self.tokenizer.clone(), max_length, projection_dim })
    }

    /// Why the tower runs in tract and not fused; `None` where it runs fused.
    pub fn unfused(&self) -> Option<&str> {
        self.layers.unfused()
    }

    /// As [`super::ImageTower::layers`].
    pub fn layers(&self) -> &[super::Layer] {
        self.layers.steps()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Embeds one prompt: `projection_dim` values of L2 norm 1.
    ///
    /// # Errors
    /// The prompt cannot be tokenized, or the embedding is not finite.
    pub fn embed(&mut self, prompt: &str) -> Result<Vec<f32>, TowerError> {
        let encoding = self.tokenizer.encode(prompt)?;
        self.embed_encoding(&encoding)
    }

    /// Embeds one tokenized prompt: `projection_dim` values of L2 norm 1.
    ///
    /// # Errors
    /// The lists of the encoding are empty, too long or of different lengths, an id is not in its table, or the embedding
    /// is not finite.
    pub fn embed_encoding(&mut self, encoding: &Encoding) -> Result<Vec<f32>, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.embed_encoding_into(encoding, &mut embedding)?;
        Ok(embedding)
    }

    /// As [`Self::embed_encoding`], into `embedding`, which has `projection_dim` values. A tower that runs fused allocates
    /// nothing.
    ///
    /// # Errors
    /// As [`Self::embed_encoding`]; or `embedding` has another length.
    pub fn embed_encoding_into(&mut self, encoding: &Encoding, embedding: &mut [f32]) -> Result<(), TowerError> {
        self.run(encoding, embedding, Output::Embedding)
    }

    /// Embeddings [n, projection_dim] of `n` tokenized prompts: `text_embeds` of `VisionTextDualEncoderModel`. For callers
    /// that work with batches as transformers does.
    ///
    /// # Errors
    /// As [`Self::embed_encoding`].
    pub fn embed_batch(&mut self, encodings: &[Encoding]) -> Result<Array2<f32>, TowerError> {
        self.batch(encodings, Output::Embedding)
    }

    /// As [`Self::embed_batch`], before the division by the L2 norm: `get_text_features` of transformers.
    ///
    /// # Errors
    /// As [`Self::embed_encoding`]; or the bundle has no features.
    pub fn features_batch(&mut self, encodings: &[Encoding]) -> Result<Array2<f32>, TowerError> {
        self.batch(encodings, Output::Features)
    }

    fn batch(&mut self, encodings: &[Encoding], wanted: Output) -> Result<Array2<f32>, TowerError> {
        let mut out = Array2::zeros((encodings.len(), self.projection_dim));
        for (encoding, mut row) in encodings.iter().zip(out.outer_iter_mut()) {
            if let Some(row) = row.as_slice_mut() {
                self.run(encoding, row, wanted)?;
            }
        }
        Ok(out)
    }

    fn run(&mut self, encoding: &Encoding, out: &mut [f32], wanted: Output) -> Result<(), TowerError> {
        let tower = TowerKind::Text;
        if out.len() != self.projection_dim {
            return Err(TowerError::Input { tower, expected: self.projection_dim, found: out.len() });
        }
        self.check(encoding)?;
        match &mut self.engine {
            Engine::Fused(runner) => runner.run(tokens(encoding), out, Watch::Nothing),
            // `load` makes one of an image tower only.
            Engine::Convolutional(_) => {}
            Engine::Tract(towers) => {
                let length = towers.length_for(encoding.ids.len());
                towers.text(&encoding.with_masked_tail(length), out)?;
            }
        }
        self.output.finish(tower, wanted, out)
    }

    /// Embeds one prompt on the calling thread, and passes every row that a linear layer reads to `take`, with its step
    /// ([`Self::layers`]). A tower that does not run fused passes nothing.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn embed_showing(
        &mut self,
        prompt: &str,
        take: &mut (dyn FnMut(&super::Layer, &[f32]) + Send),
    ) -> Result<Vec<f32>, TowerError> {
        let encoding = self.tokenizer.encode(prompt)?;
        let Engine::Fused(runner) = &self.engine else { return self.embed_encoding(&encoding) };
        self.check(&encoding)?;
        let mut embedding = vec![0.0; self.projection_dim];
        self.layers.show_inputs(take, &mut |watch| runner.run(tokens(&encoding), &mut embedding, watch));
        self.output.finish(TowerKind::Text, Output::Embedding, &mut embedding)?;
        Ok(embedding)
    }

    fn check(&self, encoding: &Encoding) -> Result<(), TowerError> {
        let (tower, found) = (TowerKind::Text, encoding.ids.len());
        if found == 0 || found > self.max_length {
            return Err(TowerError::Input { tower, expected: self.max_length, found });
        }
        for other in [&encoding.mask, &encoding.type_ids, &encoding.position_ids] {
            if other.len() != found {
                return Err(TowerError::Input { tower, expected: found, found: other.len() });
            }
        }
        let Engine::Fused(runner) = &self.engine else { return Ok(()) };
        let program = runner.program();
        for (what, values, last) in [
            ("token id", &encoding.ids, program.ids_max),
            ("token type", &encoding.type_ids, program.types_max),
            ("position id", &encoding.position_ids, program.positions_max),
        ] {
            let outside = |value: &&i64| !usize::try_from(**value).is_ok_and(|value| value <= last);
            if let Some(found) = values.iter().find(outside) {
                return Err(TowerError::Token { what, found: *found, last });
            }
        }
        Ok(())
    }

    /// The steps of the tower and, if it runs fused, their times in one run on the calling thread. `clock` returns
    /// nanoseconds.
    ///
    /// # Errors
    /// As [`Self::embed_encoding`].
    pub fn profile(&self, encoding: &Encoding, clock: &(dyn Fn() -> u64 + Sync)) -> Result<Profile, TowerError> {
        self.check(encoding)?;
        let mut embedding = vec![0.0; self.projection_dim];
        Ok(match &self.engine {
            Engine::Fused(runner) => self.layers.measure(clock, &mut |watch| {
                runner.run(tokens(encoding), &mut embedding, watch);
            }),
            Engine::Convolutional(_) | Engine::Tract(_) => self.layers.unmeasured(),
        })
    }
}

fn tokens(encoding: &Encoding) -> Input<'_> {
    let Encoding { ids, mask, type_ids, position_ids } = encoding;
    Input::Tokens { ids, types: type_ids, positions: position_ids, mask }
}
