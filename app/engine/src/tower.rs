//! Loading and running the two towers with tract.
//!
//! The image tower has one fixed shape. The text tower is prepared for a few sequence lengths, each when the first
//! prompt needs it, so that a short prompt does not pay for the longest.

use std::io::Cursor;
use std::sync::Arc;

use tract_core::prelude::*;
use tract_onnx::prelude::{InferenceModel, InferenceModelExt as _};
use tract_onnx::tract_hir::infer::Factoid as _;

use crate::bundle::{self, Bundle, BundleError, Dim, Manifest};
use crate::tokenize::{Encoding, TokenizeError, Tokenizer};

/// Sequence lengths that the text tower is prepared for, besides the tokenizer's maximum: a short prompt in a
/// template has 8 to 12 tokens, a caption up to 32, and each further length costs a prepared copy of the tower.
const SEQUENCE_LENGTHS: [usize; 3] = [16, 32, 64];

/// Why a tower could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The bundle refused the file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The tokenizer is unusable, or refused a prompt.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// tract cannot prepare the graph.
    #[error("{tower} tower: the ONNX graph cannot be prepared: {message}")]
    Load {
        /// `image` or `text`.
        tower: &'static str,
        /// tract's messages, outermost first.
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
    /// The embedding is not finite: the weights or the input hold NaN or infinity.
    #[error("{tower} tower: the embedding is not finite; check the bundle with `model-prep verify`")]
    NotFinite {
        /// `image` or `text`.
        tower: &'static str,
    },
}

/// Threads that matrix products may use.
#[derive(Debug, Clone, Default)]
pub struct Threads(tract_linalg::multithread::Executor);

impl Threads {
    /// A pool of `count` threads that lives as long as its clones; 0 and 1 mean the calling thread alone.
    pub fn new(count: usize) -> Self {
        use tract_linalg::multithread::Executor;
        Self(if count > 1 { Executor::multithread_with_name(count, "tower") } else { Executor::SingleThread })
    }
}

/// The image tower: normalised pixels in, normalised embedding out.
#[derive(Debug)]
pub struct ImageTower {
    plan: Arc<TypedRunnableModel>,
    shape: [usize; 4],
    threads: Threads,
}

impl ImageTower {
    /// Reads and prepares the image tower of a bundle.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let manifest = bundle.manifest();
        Self::load(&bundle.read(&manifest.vision.file)?, manifest, threads)
    }

    /// Prepares an image tower from the bytes of its ONNX file.
    pub fn load(onnx: &[u8], manifest: &Manifest, threads: &Threads) -> Result<Self, TowerError> {
        let [height, width] = manifest.image_size();
        let shape = [1, 3, height, width];
        let graph = Graph::parse("image", onnx, &manifest.vision)?;
        let plan = graph.prepare(&[TypedFact::dt_shape(DatumType::F32, shape)], manifest.projection_dim)?;
        Ok(Self { plan, shape, threads: threads.clone() })
    }

    /// The embedding of one picture, L2 norm 1, from `3 * height * width` values in planes.
    pub fn embed(&self, pixels: &[f32]) -> Result<Vec<f32>, TowerError> {
        let tower = "image";
        let expected = self.shape.iter().product();
        if pixels.len() != expected {
            return Err(TowerError::Input { tower, expected, found: pixels.len() });
        }
        let input = Tensor::from_shape(&self.shape, pixels).map_err(|e| run_error(tower, &e))?;
        run(tower, &self.plan, tvec!(input.into_tvalue()), &self.threads)
    }
}

/// The text tower with its tokenizer: prompt in, normalised embedding out.
#[derive(Debug)]
pub struct TextTower {
    graph: Graph,
    tokenizer: Tokenizer,
    /// Names of the inputs, in the graph's order.
    inputs: Vec<String>,
    projection_dim: usize,
    /// Prepared plans with their sequence lengths, shortest first.
    plans: Vec<(usize, Option<Arc<TypedRunnableModel>>)>,
    threads: Threads,
}

impl TextTower {
    /// Reads the text tower and the tokenizer of a bundle; lengths are prepared when first used.
    pub fn open(bundle: &Bundle, threads: &Threads) -> Result<Self, TowerError> {
        let manifest = bundle.manifest();
        let tokenizer = bundle.read(&manifest.tokenizer.file)?;
        Self::load(&bundle.read(&manifest.text.file)?, &tokenizer, manifest, threads)
    }

    /// Prepares a text tower from the bytes of its ONNX file and of its `tokenizer.json`.
    pub fn load(
        onnx: &[u8],
        tokenizer_json: &[u8],
        manifest: &Manifest,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        let spec = &manifest.tokenizer;
        let longest = spec.max_length;
        let lengths = SEQUENCE_LENGTHS.into_iter().filter(|length| *length < longest).chain([longest]);
        Ok(Self {
            graph: Graph::parse("text", onnx, &manifest.text)?,
            tokenizer: Tokenizer::from_bytes(tokenizer_json, spec)?,
            inputs: manifest.text.inputs.iter().map(|input| input.name.clone()).collect(),
            projection_dim: manifest.projection_dim,
            plans: lengths.map(|length| (length, None)).collect(),
            threads: threads.clone(),
        })
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
        let tower = "text";
        let found = encoding.ids.len();
        let slot = self.plans.iter().position(|(length, _)| *length >= found);
        let Some(slot) = slot else {
            let expected = self.plans.last().map_or(0, |(length, _)| *length);
            return Err(TowerError::Input { tower, expected, found });
        };
        let length = self.plans[slot].0;
        let plan = match &self.plans[slot].1 {
            Some(plan) => plan.clone(),
            None => {
                let facts = vec![TypedFact::dt_shape(DatumType::I64, [1, length]); self.inputs.len()];
                let plan = self.graph.prepare(&facts, self.projection_dim)?;
                self.plans[slot].1 = Some(plan.clone());
                plan
            }
        };
        let padded = self.tokenizer.pad(encoding, length);
        let mut inputs = tvec!();
        for name in &self.inputs {
            let values = match name.as_str() {
                "attention_mask" => &padded.mask,
                "token_type_ids" => &padded.type_ids,
                _ => &padded.ids,
            };
            let tensor = Tensor::from_shape(&[1, length], values).map_err(|e| run_error(tower, &e))?;
            inputs.push(tensor.into_tvalue());
        }
        run(tower, &plan, inputs, &self.threads)
    }
}

/// A parsed ONNX graph whose inputs still have open axes.
#[derive(Debug)]
struct Graph {
    tower: &'static str,
    model: InferenceModel,
}

impl Graph {
    fn parse(tower: &'static str, onnx: &[u8], spec: &bundle::Tower) -> Result<Self, TowerError> {
        let model = tract_onnx::onnx()
            .with_ignore_value_info(true)
            .with_ignore_output_shapes(true)
            .model_for_read(&mut Cursor::new(onnx))
            .map_err(|e| load_error(tower, &e))?;
        let graph = Self { tower, model };
        let names = |outlets: &[OutletId]| {
            outlets.iter().map(|o| graph.model.node(o.node).name.clone()).collect::<Vec<_>>().join(", ")
        };
        let wanted: Vec<_> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
        let wanted = wanted.join(", ");
        let found = names(&graph.model.inputs);
        if wanted != found {
            return Err(TowerError::Mismatch { tower, what: "inputs".into(), expected: wanted, found });
        }
        for (input, outlet) in spec.inputs.iter().zip(&graph.model.inputs) {
            graph.check_input(input, *outlet)?;
        }
        if graph.model.outputs.len() != 1 {
            let (expected, found) = (spec.output.name.clone(), names(&graph.model.outputs));
            return Err(TowerError::Mismatch { tower, what: "outputs".into(), expected, found });
        }
        Ok(graph)
    }

    /// A fixed axis of the manifest must have the same extent in the graph where the graph says it.
    fn check_input(&self, spec: &bundle::TensorSpec, outlet: OutletId) -> Result<(), TowerError> {
        let fact = self.model.outlet_fact(outlet).map_err(|e| load_error(self.tower, &e))?;
        for (axis, dim) in spec.shape.iter().enumerate() {
            let in_graph = fact.shape.dim(axis).and_then(|d| d.concretize()).and_then(|d| d.as_i64());
            if let (Dim::Fixed(expected), Some(found)) = (dim, in_graph)
                && i64::try_from(*expected) != Ok(found)
            {
                return Err(TowerError::Mismatch {
                    tower: self.tower,
                    what: format!("{}, axis {axis}", spec.name),
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Fixes the inputs' shapes, optimises the graph and checks that its output is one embedding.
    fn prepare(&self, inputs: &[TypedFact], projection_dim: usize) -> Result<Arc<TypedRunnableModel>, TowerError> {
        let build = || {
            let mut model = self.model.clone();
            for (index, fact) in inputs.iter().enumerate() {
                model.set_input_fact(index, fact.into())?;
            }
            model.into_optimized()
        };
        let model = build().map_err(|e| load_error(self.tower, &e))?;
        let fact = model.output_fact(0).map_err(|e| load_error(self.tower, &e))?;
        let wanted = TypedFact::dt_shape(DatumType::F32, [1, projection_dim]);
        if fact.datum_type != wanted.datum_type || fact.shape != wanted.shape {
            return Err(TowerError::Mismatch {
                tower: self.tower,
                what: "output".into(),
                expected: format!("f32 [1, {projection_dim}]"),
                found: format!("{fact:?}"),
            });
        }
        model.into_runnable().map_err(|e| load_error(self.tower, &e))
    }
}

fn run(
    tower: &'static str,
    plan: &Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
    threads: &Threads,
) -> Result<Vec<f32>, TowerError> {
    let outputs = tract_linalg::multithread::multithread_tract_scope(threads.0.clone(), || plan.run(inputs))
        .map_err(|e| run_error(tower, &e))?;
    let embedding = outputs[0].to_plain_array_view::<f32>().map_err(|e| run_error(tower, &e))?;
    let embedding: Vec<f32> = embedding.iter().copied().collect();
    if embedding.iter().any(|v| !v.is_finite()) {
        return Err(TowerError::NotFinite { tower });
    }
    Ok(embedding)
}

fn load_error(tower: &'static str, error: &TractError) -> TowerError {
    TowerError::Load { tower, message: format!("{error:#}") }
}

fn run_error(tower: &'static str, error: &TractError) -> TowerError {
    TowerError::Run { tower, message: format!("{error:#}") }
}
