//! Towers that [`crate::fused`] does not support, run by tract.
//!
//! A text tower is prepared for a few sequence lengths, each when a prompt first needs it, so that a short prompt does not
//! cost as much as the longest.

use std::sync::Arc;

use tract_core::prelude::*;
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::pb;
use tract_onnx::prelude::{InferenceModel, InferenceModelExt as _};

use super::{Inputs, Threads, TowerError, guarded};
use crate::bundle::{self, TowerKind};
use crate::tokenize::Encoding;

/// Sequence lengths that the text tower is prepared for, besides the tokenizer's maximum. A short prompt in a template has 8
/// to 12 tokens, a caption up to 32; each length needs a prepared copy of the tower.
const SEQUENCE_LENGTHS: [usize; 3] = [16, 32, 64];

/// Prepared lengths that are kept if each prompt needs its exact length; the oldest is dropped first.
const EXACT_LENGTHS_MAX: usize = 4;

/// A tower's graph, and the plans that tract prepared from it.
#[derive(Debug, Clone)]
pub(super) struct TractTower {
    graph: Graph,
    projection_dim: usize,
    /// Names of the inputs, in the graph's order.
    inputs: Vec<String>,
    /// Index of the graph's output that is used.
    output: usize,
    /// Prepared plans with their sequence lengths (0 for images), shortest first.
    plans: Vec<(usize, Option<Arc<TypedRunnableModel>>)>,
    /// True if prompts run with their exact length.
    exact: bool,
    executor: Executor,
}

impl TractTower {
    pub(super) fn load(
        tower: TowerKind,
        onnx: &pb::ModelProto,
        spec: &bundle::Tower,
        inputs: Inputs<'_>,
        projection_dim: usize,
        threads: &Threads,
    ) -> Result<Self, TowerError> {
        let model = tract_onnx::onnx()
            .with_ignore_value_info(true)
            .with_ignore_output_shapes(true)
            .model_for_proto_model(onnx)
            .map_err(|e| load_error(tower, &e))?;
        let output = usize::from(spec.features.is_some());
        let graph = Graph { tower, model, output };
        let plans = match inputs {
            Inputs::Pixels([height, width]) => {
                let fact = TypedFact::dt_shape(DatumType::F32, [1, 3, height, width]);
                vec![(0, Some(graph.prepare(&[fact], projection_dim)?))]
            }
            Inputs::Tokens { tokens_max, .. } => {
                let lengths = SEQUENCE_LENGTHS.into_iter().filter(|length| *length < tokens_max).chain([tokens_max]);
                lengths.map(|length| (length, None)).collect()
            }
        };
        let count = threads.count();
        Ok(Self {
            graph,
            projection_dim,
            inputs: spec.inputs.iter().map(|input| input.name.clone()).collect(),
            output,
            plans,
            exact: false,
            executor: if count > 1 { Executor::multithread_with_name(count, "tract") } else { Executor::SingleThread },
        })
    }

    /// Runs prompts with their exact length, for a tower whose result appended masked tokens would change.
    pub(super) fn prepare_exact_lengths(&mut self) {
        self.exact = true;
        self.plans.clear();
    }

    pub(super) fn image(&self, pixels: &[f32], [height, width]: [usize; 2], out: &mut [f32]) -> Result<(), TowerError> {
        let tower = self.graph.tower;
        let input = Tensor::from_shape(&[1, 3, height, width], pixels).map_err(|e| run_error(tower, &e))?;
        match &self.plans[..] {
            [(_, Some(plan)), ..] => self.run(plan, tvec!(input.into_tvalue()), out),
            _ => unreachable!("the plan for images is prepared on loading"),
        }
    }

    /// The sequence length that a prompt of `tokens` tokens runs with; at most the longest one.
    pub(super) fn length_for(&self, tokens: usize) -> usize {
        if self.exact {
            return tokens;
        }
        let lengths = || self.plans.iter().map(|(length, _)| *length);
        lengths().find(|length| *length >= tokens).or(lengths().next_back()).unwrap_or(tokens)
    }

    pub(super) fn text(&mut self, padded: &Encoding, out: &mut [f32]) -> Result<(), TowerError> {
        let (tower, length) = (self.graph.tower, padded.ids.len());
        if self.exact && self.plans.iter().all(|(prepared, _)| *prepared != length) {
            if self.plans.len() == EXACT_LENGTHS_MAX {
                self.plans.remove(0);
            }
            self.plans.push((length, None));
        }
        let Some(slot) = self.plans.iter_mut().find(|(prepared, _)| *prepared == length) else {
            return Err(TowerError::Input { tower, expected: self.length_for(length), found: length });
        };
        let plan = match &slot.1 {
            Some(plan) => plan.clone(),
            None => {
                let facts = vec![TypedFact::dt_shape(DatumType::I64, [1, length]); self.inputs.len()];
                let prepared = guarded(|| self.graph.prepare(&facts, self.projection_dim));
                slot.1.insert(prepared.unwrap_or_else(|| Err(inconsistent(tower)))?).clone()
            }
        };
        let mut inputs = tvec!();
        for name in &self.inputs {
            let values = match name.as_str() {
                "attention_mask" => &padded.mask,
                "token_type_ids" => &padded.type_ids,
                "position_ids" => &padded.position_ids,
                _ => &padded.ids,
            };
            let tensor = Tensor::from_shape(&[1, length], values).map_err(|e| run_error(tower, &e))?;
            inputs.push(tensor.into_tvalue());
        }
        self.run(&plan, inputs, out)
    }

    fn run(&self, plan: &Arc<TypedRunnableModel>, inputs: TVec<TValue>, out: &mut [f32]) -> Result<(), TowerError> {
        let error = |e: TractError| run_error(self.graph.tower, &e);
        // Panics are caught inside the scope, which would not end otherwise.
        let outputs = multithread_tract_scope(self.executor.clone(), || guarded(|| plan.run(inputs)));
        let outputs = outputs.ok_or_else(|| inconsistent(self.graph.tower))?.map_err(error)?;
        let embedding = outputs[self.output].to_plain_array_view::<f32>().map_err(error)?;
        out.iter_mut().zip(&embedding).for_each(|(out, value)| *out = *value);
        Ok(())
    }
}

/// A parsed ONNX graph whose inputs still have variable axes.
#[derive(Debug, Clone)]
struct Graph {
    tower: TowerKind,
    model: InferenceModel,
    output: usize,
}

impl Graph {
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
        let fact = model.output_fact(self.output).map_err(|e| load_error(self.tower, &e))?;
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

fn inconsistent(tower: TowerKind) -> TowerError {
    TowerError::Run { tower, message: "its graph is inconsistent for this input; export the checkpoint again".into() }
}

fn load_error(tower: TowerKind, error: &TractError) -> TowerError {
    TowerError::Load { tower, message: format!("{error:#}") }
}

fn run_error(tower: TowerKind, error: &TractError) -> TowerError {
    TowerError::Run { tower, message: format!("{error:#}") }
}
