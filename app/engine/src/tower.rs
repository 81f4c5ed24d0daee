//! Loading and running the two towers.
//!
//! A tower whose graph `linear_i8` understands runs there, fused; any other runs in tract as it is. The image
//! tower has one fixed shape. The text tower takes as many tokens as a prompt has.

mod profile;
mod tract;

use std::io::{Cursor, Read, Seek};
use std::sync::Arc;

use ndarray::{Array2, ArrayView4};
use tract_onnx::pb;

use crate::bundle::{self, Bundle, BundleError, Dim, Manifest, Padding};
use crate::linear_i8::{self, Input, Inputs, Kernels, OnnxFile, Outcome, Pool, Runner};
use crate::score::normalize;
use crate::tokenize::{Encoding, TokenizeError, Tokenizer};

pub use profile::{Layer, Profile, Work};

/// Why a tower could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The bundle refused the file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The tokenizer is unusable, or refused a prompt.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The graph cannot be read or prepared.
    #[error("{tower} tower: the ONNX graph cannot be prepared: {message}")]
    Load {
        /// `image` or `text`.
        tower: &'static str,
        /// What was found, outermost first.
        message: String,
    },
    /// The graph's inputs or output are not those of the manifest.
    #[error("{tower} tower: {what}: expected {expected} as the manifest says, found {found} in the ONNX graph")]
    Mismatch {
        /// `image` or `text`.
        tower: &'static str,
        /// What was compared.
        what: String,
        /// The manifest's value.
        expected: String,
        /// The graph's value.
        found: String,
    },
    /// The input has the wrong number of values.
    #[error("{tower} tower: expected {expected} input values, found {found}")]
    Input {
        /// `image` or `text`.
        tower: &'static str,
        /// Values wanted.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// tract failed while running the graph.
    #[error("{tower} tower: the run failed: {message}")]
    Run {
        /// `image` or `text`.
        tower: &'static str,
        /// tract's messages, outermost first.
        message: String,
    },
    /// A token id or type is not in the table that it chooses from.
    #[error("{tower} tower: {what} {found} is not in the table, which ends at {last}")]
    Token {
        /// `text`.
        tower: &'static str,
        /// Token id, token type or position id.
        what: &'static str,
        /// The value given.
        found: i64,
        /// The largest that is there.
        last: usize,
    },
    /// There is no such set of kernels, or this CPU cannot run it.
    #[error("kernels {wanted:?} cannot be used here: this CPU runs {available}")]
    Kernels {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The threads could not be started.
    #[error("cannot start {count} threads")]
    Threads {
        /// How many were asked for.
        count: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The embedding is not finite, or all zeros: the weights or the input hold NaN or infinity.
    #[error("{tower} tower: the embedding is not finite or is zero; check the bundle with `model-prep verify`")]
    NotFinite {
        /// `image` or `text`.
        tower: &'static str,
    },
    /// Layers of two towers cannot be exchanged.
    #[error("{tower} tower: layers cannot be exchanged: {why}")]
    Exchange {
        /// `image` or `text`.
        tower: &'static str,
        /// What stands against it.
        why: String,
    },
    /// The graph gives the embedding after its division by the L2 norm only.
    #[error("{tower} tower: this bundle has no features before normalisation; export the checkpoint again")]
    NoFeatures {
        /// `image` or `text`.
        tower: &'static str,
    },
}

/// Stands among the names of kernels for a tower that is left to tract.
const TRACT: &str = "tract";

/// What computes the towers: a number of threads, and the kernels for this CPU. Clones share the threads.
#[derive(Debug, Clone)]
pub struct Threads {
    pool: Arc<Pool>,
    kernels: &'static Kernels,
    fused: bool,
}

impl Default for Threads {
    /// The calling thread alone.
    fn default() -> Self {
        Self { pool: Arc::new(Pool::single()), kernels: Kernels::best(), fused: true }
    }
}

impl Threads {
    /// A pool of `count` threads, the caller among them, that lives as long as its clones; 0 and 1 mean the caller alone.
    pub fn new(count: usize) -> Result<Self, TowerError> {
        let pool = Pool::new(count).map_err(|source| TowerError::Threads { count, source })?;
        Ok(Self { pool: Arc::new(pool), ..Self::default() })
    }

    /// Names of the kernels that this CPU runs, slowest first.
    pub fn available_kernels() -> Vec<&'static str> {
        Kernels::available().iter().map(|kernels| kernels.name).collect()
    }

    /// Uses the kernels called `name` instead of the fastest ones, or leaves towers to tract where it is `tract`: to
    /// compare, or to find out what is wrong.
    pub fn with_kernels(self, name: &str) -> Result<Self, TowerError> {
        if name == TRACT {
            return Ok(Self { fused: false, ..self });
        }
        let available = Kernels::available();
        match available.iter().find(|kernels| kernels.name == name) {
            Some(kernels) => Ok(Self { kernels, ..self }),
            None => Err(TowerError::Kernels {
                wanted: name.to_owned(),
                available: [Self::available_kernels(), vec![TRACT]].concat().join(", "),
            }),
        }
    }

    /// Threads of the pool.
    pub fn count(&self) -> usize {
        self.pool.threads()
    }

    /// Runs int8 multiplications for a moment on the calling thread, in registers alone, and returns how many operations
    /// that were (a multiplication and an addition are two): divided by the time, the most that this CPU can do.
    pub fn peak_int8(&self) -> u64 {
        self.kernels.peak_i8()
    }

    /// As [`Self::peak_int8`] for 32-bit floats.
    pub fn peak_float(&self) -> u64 {
        self.kernels.peak_f32()
    }

    /// Name of the kernels: `scalar`, `avx2`, `avx512vnni`, `neon`, `dotprod` or `i8mm`; `tract` where nothing is fused.
    pub fn kernels(&self) -> &'static str {
        if self.fused { self.kernels.name } else { TRACT }
    }
}

/// A loaded tower.
#[derive(Debug, Clone)]
enum Engine {
    Fused(Box<Runner>),
    Tract(Box<tract::Towers>),
}

impl Engine {
    /// This with those layers of `other` whose names are chosen; both share the weights.
    fn exchanged(
        &self,
        other: &Self,
        tower: &'static str,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Result<(Self, profile::Layers), TowerError> {
        let error = |why: &str| TowerError::Exchange { tower, why: why.to_owned() };
        let (Self::Fused(ours), Self::Fused(theirs)) = (self, other) else {
            return Err(error("a tower that is left to tract cannot be taken apart"));
        };
        let exchanged = ours.program().exchanged(theirs.program(), chosen);
        let (program, count) = exchanged.ok_or_else(|| error("the two are not the same graph"))?;
        if count == 0 {
            return Err(error("no layer with weights has the name"));
        }
        let runner = ours.with_program(program);
        let layers = profile::Layers::fused(&runner);
        Ok((Self::Fused(Box::new(runner)), layers))
    }
}

/// What the engine gives, and what callers want of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Before the division by the L2 norm.
    Features,
    /// After it.
    Embedding,
}

impl Output {
    fn of(spec: &bundle::Tower) -> Self {
        if spec.features.is_some() { Self::Features } else { Self::Embedding }
    }

    /// Turns what the engine gave into what is `wanted`.
    fn finish(self, tower: &'static str, wanted: Self, values: &mut [f32]) -> Result<(), TowerError> {
        match (self, wanted) {
            (Self::Embedding, Self::Features) => return Err(TowerError::NoFeatures { tower }),
            (Self::Features, Self::Embedding) if !normalize(values) => return Err(TowerError::NotFinite { tower }),
            _ => {}
        }
        if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(TowerError::NotFinite { tower }) }
    }
}

/// The image tower: normalised pixels in, normalised embedding out.
///
/// A clone shares the weights and has memory of its own to work in, so that clones can run at the same time.
#[derive(Debug, Clone)]
pub struct ImageTower {
    engine: Engine,
    layers: profile::Layers,
    output: Output,
    image_size: [usize; 2],
    projection_dim: usize,
}

impl ImageTower {
    /// Reads and prepares the image tower of a bundle.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let (manifest, file) = (bundle.manifest(), &bundle.manifest().vision.file);
        checked(bundle, file, || Self::from_source(Box::new(bundle.open_file(file)?), manifest, threads))
    }

    /// Prepares an image tower from the bytes of its ONNX file.
    pub fn load(onnx: &[u8], manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        Self::from_source(Box::new(Cursor::new(onnx)), manifest, threads)
    }

    /// Prepares an image tower from an ONNX file that is read piece by piece.
    pub fn from_reader(onnx: impl Read + Seek, manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        Self::from_source(Box::new(onnx), manifest, threads)
    }

    fn from_source(source: Box<dyn Source + '_>, manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        let image_size = manifest.image_size();
        let inputs = Inputs::Pixels(image_size);
        let (engine, layers) = load("image", source, &manifest.vision, inputs, manifest.projection_dim, threads)?;
        let output = Output::of(&manifest.vision);
        Ok(Self { engine, layers, output, image_size, projection_dim: manifest.projection_dim })
    }

    /// This tower with the weights that `other`, the same tower with weights stored in another way, has in the layers
    /// whose names ([`Layer::name`]) are `chosen`. All three share the weights.
    pub fn exchanged(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Result<Self, TowerError> {
        let (engine, layers) = self.engine.exchanged(&other.engine, "image", chosen)?;
        let Self { output, image_size, projection_dim, .. } = *self;
        Ok(Self { engine, layers, output, image_size, projection_dim })
    }

    /// The embedding of one picture, L2 norm 1, from `3 * height * width` values in planes.
    pub fn embed(&self, pixels: &[f32]) -> Result<Vec<f32>, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.embed_into(pixels, &mut embedding)?;
        Ok(embedding)
    }

    /// As [`Self::embed`], into `embedding`, which has `projection_dim` values. A fused tower allocates nothing here.
    pub fn embed_into(&self, pixels: &[f32], embedding: &mut [f32]) -> Result<(), TowerError> {
        self.run(pixels, embedding, Output::Embedding)
    }

    /// Embeddings [n, projection_dim] of `n` pictures [n, 3, height, width], the reference's `image_embeds`.
    pub fn embed_batch(&self, pixel_values: ArrayView4<'_, f32>) -> Result<Array2<f32>, TowerError> {
        self.batch(pixel_values, Output::Embedding)
    }

    /// The same before the division by the L2 norm: the reference's `get_image_features`.
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
            Engine::Fused(runner) => runner.run(Input::Pixels(pixels, self.image_size), out, None),
            Engine::Tract(towers) => towers.image(pixels, self.image_size, out)?,
        }
        self.output.finish("image", wanted, out)
    }

    fn check(&self, pixels: &[f32], embedding: &[f32]) -> Result<(), TowerError> {
        let tower = "image";
        let expected = 3 * self.image_size[0] * self.image_size[1];
        if pixels.len() != expected {
            return Err(TowerError::Input { tower, expected, found: pixels.len() });
        }
        if embedding.len() != self.projection_dim {
            return Err(TowerError::Input { tower, expected: self.projection_dim, found: embedding.len() });
        }
        Ok(())
    }

    /// What the tower consists of and, where it is fused, how long each part of one run takes; see [`Profile`].
    pub fn profile(&self, pixels: &[f32], clock: &(dyn Fn() -> u64 + Sync)) -> Result<Profile, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.check(pixels, &embedding)?;
        Ok(match &self.engine {
            Engine::Fused(runner) => {
                self.layers.measure(runner, Input::Pixels(pixels, self.image_size), &mut embedding, clock)
            }
            Engine::Tract(_) => self.layers.unmeasured(),
        })
    }
}

/// The text tower with its tokenizer: prompt in, normalised embedding out.
///
/// A clone shares the weights and has memory of its own to work in, so that clones can run at the same time.
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
    /// Reads and prepares the text tower and the tokenizer of a bundle.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let (manifest, file) = (bundle.manifest(), &bundle.manifest().text.file);
        let tokenizer = bundle.read(&manifest.tokenizer.file)?;
        checked(bundle, file, || Self::from_source(Box::new(bundle.open_file(file)?), &tokenizer, manifest, threads))
    }

    /// Prepares a text tower from the bytes of its ONNX file and of its `tokenizer.json`.
    pub fn load(
        onnx: &[u8],
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        Self::from_source(Box::new(Cursor::new(onnx)), tokenizer_json, manifest, threads)
    }

    /// Prepares a text tower from an ONNX file that is read piece by piece, and the bytes of its `tokenizer.json`.
    pub fn from_reader(
        onnx: impl Read + Seek,
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        Self::from_source(Box::new(onnx), tokenizer_json, manifest, threads)
    }

    fn from_source(
        source: Box<dyn Source + '_>,
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        let (spec, projection_dim) = (&manifest.tokenizer, manifest.projection_dim);
        let names: Vec<String> = manifest.text.inputs.iter().map(|input| input.name.clone()).collect();
        let inputs = Inputs::Tokens { names: &names, tokens_max: spec.max_length };
        // What was trained on one length may look at the last token, which a tail would move.
        let tail = spec.padding == Padding::Longest && names.iter().any(|name| name == "attention_mask");
        let (mut engine, layers) = load("text", source, &manifest.text, inputs, projection_dim, threads)?;
        if let (Engine::Tract(towers), false) = (&mut engine, tail) {
            towers.prepare_exact_lengths();
        }
        let tokenizer = Tokenizer::from_bytes(tokenizer_json, spec)?;
        let output = Output::of(&manifest.text);
        Ok(Self { engine, layers, output, tokenizer, max_length: spec.max_length, projection_dim })
    }

    /// As [`ImageTower::exchanged`].
    pub fn exchanged(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Result<Self, TowerError> {
        let (engine, layers) = self.engine.exchanged(&other.engine, "text", chosen)?;
        let Self { output, max_length, projection_dim, .. } = *self;
        Ok(Self { engine, layers, output, tokenizer: self.tokenizer.clone(), max_length, projection_dim })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The embedding of one prompt, L2 norm 1.
    pub fn embed(&mut self, prompt: &str) -> Result<Vec<f32>, TowerError> {
        let encoding = self.tokenizer.encode(prompt)?;
        self.embed_encoding(&encoding)
    }

    /// The embedding of one tokenized prompt, L2 norm 1.
    pub fn embed_encoding(&mut self, encoding: &Encoding) -> Result<Vec<f32>, TowerError> {
        let mut embedding = vec![0.0; self.projection_dim];
        self.embed_encoding_into(encoding, &mut embedding)?;
        Ok(embedding)
    }

    /// As [`Self::embed_encoding`], into `embedding`, which has `projection_dim` values. A fused tower allocates nothing
    /// here.
    pub fn embed_encoding_into(&mut self, encoding: &Encoding, embedding: &mut [f32]) -> Result<(), TowerError> {
        self.run(encoding, embedding, Output::Embedding)
    }

    /// Embeddings [n, projection_dim] of `n` tokenized prompts, the reference's `text_embeds`.
    pub fn embed_batch(&mut self, encodings: &[Encoding]) -> Result<Array2<f32>, TowerError> {
        self.batch(encodings, Output::Embedding)
    }

    /// The same before the division by the L2 norm: the reference's `get_text_features`.
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
        let tower = "text";
        if out.len() != self.projection_dim {
            return Err(TowerError::Input { tower, expected: self.projection_dim, found: out.len() });
        }
        self.check(encoding)?;
        match &mut self.engine {
            Engine::Fused(runner) => runner.run(tokens(encoding), out, None),
            Engine::Tract(towers) => {
                let length = towers.length_for(encoding.ids.len());
                towers.text(&encoding.with_masked_tail(length), out)?;
            }
        }
        self.output.finish(tower, wanted, out)
    }

    fn check(&self, encoding: &Encoding) -> Result<(), TowerError> {
        let (tower, found) = ("text", encoding.ids.len());
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
                return Err(TowerError::Token { tower, what, found: *found, last });
            }
        }
        Ok(())
    }

    /// What the tower consists of and, where it is fused, how long each part of one run takes; see [`Profile`].
    pub fn profile(&self, encoding: &Encoding, clock: &(dyn Fn() -> u64 + Sync)) -> Result<Profile, TowerError> {
        self.check(encoding)?;
        let mut embedding = vec![0.0; self.projection_dim];
        Ok(match &self.engine {
            Engine::Fused(runner) => self.layers.measure(runner, tokens(encoding), &mut embedding, clock),
            Engine::Tract(_) => self.layers.unmeasured(),
        })
    }
}

fn tokens(encoding: &Encoding) -> Input<'_> {
    let Encoding { ids, mask, type_ids, position_ids } = encoding;
    Input::Tokens { ids, types: type_ids, positions: position_ids, mask }
}

/// Bytes of an ONNX file.
trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// Runs `load` while another thread computes the file's SHA-256, whose mismatch is the error that counts.
fn checked<T>(
    bundle: &Bundle,
    file: &bundle::FileEntry,
    load: impl FnOnce() -> Result<T, TowerError>,
) -> Result<T, TowerError> {
    std::thread::scope(|scope| {
        let hash = std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, || bundle.check_hash(file));
        let Ok(hash) = hash else {
            bundle.check_hash(file)?;
            return load();
        };
        let loaded = load();
        match hash.join() {
            Ok(result) => result?,
            Err(payload) => std::panic::resume_unwind(payload),
        }
        loaded
    })
}

fn load(
    tower: &'static str,
    mut source: Box<dyn Source + '_>,
    spec: &bundle::Tower,
    inputs: Inputs<'_>,
    projection_dim: usize,
    threads: &Threads,
) -> Result<(Engine, profile::Layers), TowerError> {
    let error = |source: std::io::Error| TowerError::Load { tower, message: source.to_string() };
    let mut file = OnnxFile::read(Box::new(&mut source)).map_err(error)?;
    check_graph(tower, &file.graph, spec)?;
    let outcome = if threads.fused {
        linear_i8::interpret(&mut file, inputs, &spec.features.as_ref().unwrap_or(&spec.output).name).map_err(error)?
    } else {
        Outcome::Unrecognized(linear_i8::Unrecognized::on_request())
    };
    match outcome {
        Outcome::Program(mut program) => {
            let found = program.output.width;
            if found != projection_dim {
                let (expected, found) = (format!("f32 [1, {projection_dim}]"), format!("f32 [1, {found}]"));
                return Err(TowerError::Mismatch { tower, what: "output".into(), expected, found });
            }
            linear_i8::load(&mut program, &mut file, threads.kernels).map_err(error)?;
            let runner = Runner::new(Arc::new(program), threads.kernels, Arc::clone(&threads.pool));
            let layers = profile::Layers::fused(&runner);
            Ok((Engine::Fused(Box::new(runner)), layers))
        }
        Outcome::Unrecognized(why) => {
            if file.graph.initializer.iter().any(|tensor| tensor.data_type == linear_i8::INT4) {
                let node = if why.node.is_empty() { why.op } else { format!("{} {}", why.op, why.node) };
                let message = format!("weights of 4 bits run fused only, and this graph was not: {node}: {}", why.why);
                return Err(TowerError::Load { tower, message });
            }
            let layers = profile::Layers::tract(&file.graph, &why);
            drop(file);
            let mut bytes = Vec::new();
            source.rewind().and_then(|()| source.read_to_end(&mut bytes)).map_err(error)?;
            // tract panics on graphs that make no sense, such as a node without its inputs.
            let load = || tract::Towers::load(tower, &bytes, spec, inputs, projection_dim, threads);
            let towers = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load)).unwrap_or_else(|_| {
                let message = format!("tract gave up on it; it was not fused because of {}", layers.why());
                Err(TowerError::Load { tower, message })
            })?;
            Ok((Engine::Tract(Box::new(towers)), layers))
        }
    }
}

/// Names and fixed axes of the graph's inputs, and the number of outputs, must be those of the manifest.
fn check_graph(tower: &'static str, graph: &pb::GraphProto, spec: &bundle::Tower) -> Result<(), TowerError> {
    let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let found: Vec<_> = graph.input.iter().filter(|input| !is_constant(&input.name)).collect();
    let join = |names: Vec<&str>| names.join(", ");
    let wanted = join(spec.inputs.iter().map(|input| &*input.name).collect());
    let names = join(found.iter().map(|input| &*input.name).collect());
    if wanted != names {
        return Err(TowerError::Mismatch { tower, what: "inputs".into(), expected: wanted, found: names });
    }
    for (spec, input) in spec.inputs.iter().zip(found) {
        check_input(tower, spec, input)?;
    }
    let found = join(graph.output.iter().map(|output| &*output.name).collect());
    let expected = join([Some(&spec.output), spec.features.as_ref()].into_iter().flatten().map(|o| &*o.name).collect());
    if expected != found {
        return Err(TowerError::Mismatch { tower, what: "outputs".into(), expected, found });
    }
    Ok(())
}

/// A fixed axis of the manifest must have the same extent in the graph where the graph says it.
fn check_input(tower: &'static str, spec: &bundle::TensorSpec, input: &pb::ValueInfoProto) -> Result<(), TowerError> {
    use pb::tensor_shape_proto::dimension::Value as DimValue;
    let Some(pb::type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(());
    };
    let Some(shape) = &tensor.shape else { return Ok(()) };
    for (axis, (dim, in_graph)) in spec.shape.iter().zip(&shape.dim).enumerate() {
        if let (Dim::Fixed(expected), Some(DimValue::DimValue(found))) = (dim, &in_graph.value)
            && i64::try_from(*expected) != Ok(*found)
        {
            return Err(TowerError::Mismatch {
                tower,
                what: format!("{}, axis {axis}", spec.name),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }
    Ok(())
}
