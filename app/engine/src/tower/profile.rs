//! The steps of a loaded tower, and their times.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tract_onnx::pb;

use crate::fused::{Op, Program, Runner, UnsupportedGraph, Watch, Weights, cnn, lock};

/// The arithmetic of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Operations on 8-bit integers; a multiplication with its addition counts as two.
    Int8(u64),
    /// Operations on floats, counted in the same way.
    Float(u64),
    /// Copies and elementwise functions, which are not counted.
    Other,
}

/// One step of a tower.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Name of the output of the ONNX node that it is made of; for merged layers, of the first one's.
    pub name: String,
    /// Names of the layers whose weights it has, by the convention of [`crate::onnx`]: none, one, or several that read
    /// the same value and are computed as one. Empty for the nodes of a tower that does not run fused.
    pub layers: Vec<String>,
    /// Kind of step, such as `linear + activation`, or the ONNX operator of a tower that does not run fused.
    pub kind: String,
    /// Its arithmetic.
    pub work: Work,
    /// Nanoseconds in the measured run; 0 if nothing was measured.
    pub time_ns: u64,
}

/// The steps of a tower, with times.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Name of the kernels, or `tract`.
    pub kernels: String,
    /// Why the tower runs in tract, with the node that is not supported; `None` if it runs fused.
    pub unfused: Option<String>,
    /// Fused steps in the order they run, or the graph's nodes.
    pub layers: Vec<Layer>,
}

/// The steps of a tower, without times.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    kernels: String,
    unfused: Option<String>,
    layers: Vec<Layer>,
}

impl Layers {
    pub(super) fn fused(runner: &Runner) -> Self {
        let program = runner.program();
        let layers = program.steps.iter().map(|step| Layer {
            name: step.name.clone(),
            layers: step.layers.clone(),
            kind: step.op.kind().to_owned(),
            work: work(program, &step.op),
            time_ns: 0,
        });
        Self { kernels: runner.kernels().name.to_owned(), unfused: None, layers: layers.collect() }
    }

    pub(super) fn convolutional(runner: &cnn::Runner) -> Self {
        let program = runner.program();
        let layers = program.steps.iter().map(|step| {
            let work = match program.operations(step) {
                Some((count, true)) => Work::Int8(count),
                Some((count, false)) => Work::Float(count),
                None => Work::Other,
            };
            let suffix = match (step.add, step.activation) {
                (Some(_), Some(_)) => " + residual + activation",
                (Some(_), None) => " + residual",
                (None, Some(_)) => " + activation",
                (None, None) => "",
            };
            let kind = format!("{}{suffix}", step.op.kind());
            Layer { name: step.name.clone(), layers: Vec::new(), kind, work, time_ns: 0 }
        });
        Self { kernels: runner.kernels().name.to_owned(), unfused: None, layers: layers.collect() }
    }

    pub(super) fn tract(graph: &pb::GraphProto, why: &UnsupportedGraph) -> Self {
        let layers = graph.node.iter().map(|node| Layer {
            name: node.output.first().cloned().unwrap_or_default(),
            layers: Vec::new(),
            kind: node.op_type.clone(),
            work: Work::Other,
            time_ns: 0,
        });
        let UnsupportedGraph { node, op, why } = why;
        let unfused = if node.is_empty() { format!("{op}: {why}") } else { format!("{op} {node}: {why}") };
        Self { kernels: "tract".into(), unfused: Some(unfused), layers: layers.collect() }
    }

    /// Why the tower does not run fused; `None` where it does.
    pub(super) fn unfused(&self) -> Option<&str> {
        self.unfused.as_deref()
    }

    pub(super) fn steps(&self) -> &[Layer] {
        &self.layers
    }

    pub(super) fn unmeasured(&self) -> Profile {
        let (kernels, unfused) = (self.kernels.clone(), self.unfused.clone());
        Profile { kernels, unfused, layers: self.layers.clone() }
    }

    /// Passes every row that a linear layer or a convolution reads to `take`, with its step. `run` runs once, watched.
    pub(super) fn show_inputs(&self, take: &mut (dyn FnMut(&Layer, &[f32]) + Send), run: &mut dyn FnMut(Watch<'_>)) {
        let take = Mutex::new(take);
        run(Watch::LinearInputs(&|step, row| {
            if let Some(layer) = self.layers.get(step) {
                (lock(&take))(layer, row);
            }
        }));
    }

    /// Measures each step of one run on the calling thread. `run` runs once, watched; `clock` returns nanoseconds.
    pub(super) fn measure(&self, clock: &(dyn Fn() -> u64 + Sync), run: &mut dyn FnMut(Watch<'_>)) -> Profile {
        let times: Vec<_> = self.layers.iter().map(|_| AtomicU64::new(0)).collect();
        let current = Mutex::new((None, clock()));
        run(Watch::Steps(&|next| {
            let now = clock();
            let mut current = lock(&current);
            if let (Some(step), since) = *current {
                let time: &AtomicU64 = &times[step];
                time.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
            }
            *current = (next, now);
        }));
        let mut profile = self.unmeasured();
        for (layer, time) in profile.layers.iter_mut().zip(times) {
            layer.time_ns = time.into_inner();
        }
        profile
    }
}

/// Operations of a step with the largest number of tokens.
fn work(program: &Program, op: &Op) -> Work {
    let rows = |value: usize| match program.values[value].rows {
        crate::fused::Rows::Tokens => program.tokens,
        crate::fused::Rows::One => 1,
    };
    let product = |weights: &Weights, rows: usize| {
        let (size, int8) = match weights {
            Weights::I8(packed) => (packed.inputs() * packed.outputs(), true),
            Weights::F32(packed) => (packed.inputs() * packed.outputs(), false),
            Weights::Unloaded(_) => (0, false),
        };
        let count = 2 * (size * rows) as u64;
        if int8 { Work::Int8(count) } else { Work::Float(count) }
    };
    match op {
        Op::PatchEmbedding { weights, out, .. } | Op::Linear { weights, out, .. } => product(weights, rows(*out)),
        Op::Attention(attention) => {
            let queries = rows(attention.query.value);
            let count = 4 * (queries * program.tokens * attention.query.width) as u64;
            if attention.int8 { Work::Int8(count) } else { Work::Float(count) }
        }
        _ => Work::Other,
    }
}
