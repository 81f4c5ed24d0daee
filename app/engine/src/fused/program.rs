//! A tower as a list of steps over rows of floats, and the passes that fuse them.
//!
//! A value is a matrix with one row per token, or a single row. Every step but attention and pooling works on each row
//! separately, so that a thread can take a block of rows through many steps while it is in the cache. [`super::lower`]
//! makes the list, [`super::run`] runs it.

use std::sync::Arc;

use super::kernels::{Activation, PackedF32, PackedI8};
use crate::onnx::layer_of_node;

/// Index of a value.
pub(crate) type ValueId = usize;

/// The number of rows of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// One per token.
    Tokens,
    /// A single one.
    One,
}

/// The shape of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) rows: Rows,
    pub(crate) width: usize,
}

/// A range of columns of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) value: ValueId,
    pub(crate) offset: usize,
    pub(crate) width: usize,
}

/// What selects a token's row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceIndex {
    /// The token id.
    Ids,
    /// The token type.
    Types,
    /// The index of the token in the sequence.
    TokenIndex,
    /// The position id, which the caller passes.
    PositionIds,
}

/// An embedding table.
#[derive(Debug)]
pub(crate) enum Table {
    /// Floats.
    F32(Vec<f32>),
    /// Signed bytes with one scale per row.
    I8 { values: Vec<u8>, scales: Vec<f32> },
    /// 4-bit integers, two per byte, the first in the lower half, with one scale per `group` values of a row.
    I4 { values: Vec<u8>, scales: Vec<f32>, group: usize },
}

/// The weights of a linear layer in the file, by indices of initializers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightSource {
    pub(crate) weights: usize,
    /// One per output channel, or a single one; `None` if the weights are floats.
    pub(crate) scales: Option<usize>,
    /// For int4, the number of inputs that share a scale; there are [inputs / group, outputs] scales.
    pub(crate) group: Option<usize>,
    pub(crate) bias: Option<usize>,
    pub(crate) outputs: usize,
    /// True if the matrix is [outputs, inputs] instead of [inputs, outputs].
    pub(crate) transposed: bool,
}

/// The weights of a step. Clones share packed weights.
#[derive(Debug, Clone)]
pub(crate) enum Weights {
    /// Not loaded yet. Several sources are merged layers, whose outputs are concatenated.
    Unloaded(Vec<WeightSource>),
    I8(Arc<PackedI8>),
    F32(Arc<PackedF32>),
}

impl Weights {
    pub(crate) fn is_i8(&self) -> bool {
        match self {
            Self::Unloaded(parts) => parts.iter().all(|part| part.scales.is_some()),
            Self::I8(_) => true,
            Self::F32(_) => false,
        }
    }
}

/// How an image is cut into patches, one per row: the patch embedding's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patches {
    pub(crate) channels: usize,
    pub(crate) patch: [usize; 2],
    pub(crate) grid: [usize; 2],
    /// Rows of zeros before the patches, for class and register tokens.
    pub(crate) prefix_tokens: usize,
}

/// Multi-head attention: `softmax(scale q k^T + bias + mask) v`, heads concatenated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    pub(crate) query: View,
    pub(crate) key: View,
    pub(crate) value: View,
    pub(crate) heads: usize,
    pub(crate) scale: f32,
    pub(crate) terms: Terms,
    /// Whether its products are int8; set by [`Program::choose_attentions`].
    pub(crate) int8: bool,
    pub(crate) out: ValueId,
}

/// Terms that are added to the scores of attention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The attention mask of the input.
    pub(crate) masked: bool,
    /// A causal mask.
    pub(crate) causal: bool,
    /// A position bias, by its index in [`Program::biases`].
    pub(crate) bias: Option<usize>,
}

/// Position biases of attention: [heads][tokens][tokens], or one [tokens][tokens] for all heads.
#[derive(Debug, Clone)]
pub(crate) struct ScoreBias {
    pub(crate) values: Vec<f32>,
    pub(crate) heads: usize,
}

/// How all rows are reduced to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean of the rows from this index on.
    MeanFrom(usize),
    /// The last row.
    Last,
    /// The row of the first token with the largest id.
    LargestId,
    /// The row of the first token with this id; the first row if there is none.
    FirstId(i64),
}

impl Attention {
    /// Values of one head.
    pub(crate) fn head_dim(&self) -> usize {
        self.query.width / self.heads
    }
}

/// Operations on rows.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// `out = patches weights + bias`; the rows before the patches become zero.
    PatchEmbedding { patches: Patches, weights: Weights, out: ValueId },
    /// `out = table[index]`.
    Lookup { table: Arc<Table>, index: SequenceIndex, out: ValueId },
    /// `out = x + table`; the table has a row for each row of x, or a single one.
    AddTable { x: View, table: Vec<f32>, out: ValueId },
    /// `out = a + b`.
    Add { a: View, b: View, out: ValueId },
    /// Layer norm of each row.
    LayerNorm { x: View, gamma: Vec<f32>, beta: Vec<f32>, epsilon: f32, out: ValueId },
    /// `out = activation(x weights + bias)`; with `add`, `out` is incremented.
    Linear { x: View, weights: Weights, activation: Option<Activation>, add: bool, out: ValueId },
    /// `out = activation(x)`.
    Activate { x: View, activation: Activation, out: ValueId },
    /// `out = row`, a single row.
    Constant { row: Vec<f32>, out: ValueId },
    /// Row 0 of x.
    First { x: View, out: ValueId },
    /// The rows of all blocks reduced to one.
    Pool { x: View, pooling: Pooling, out: ValueId },
    /// Each row divided by its L2 norm.
    Normalize { x: View, out: ValueId },
    /// Attention over the rows of all blocks.
    Attention(Attention),
}

/// An operation of a program.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Name of the output of the ONNX node that it was made of; for merged layers, of the first one's.
    pub(crate) name: String,
    /// Names of the layers whose weights it has: none, one, or several that were merged.
    pub(crate) layers: Vec<String>,
    pub(crate) op: Op,
}

impl Step {
    /// A step of one node, whose output is called `name`.
    pub(crate) fn new(name: &str, op: Op) -> Self {
        let layers = if op.has_weights() { vec![layer_of_node(name).to_owned()] } else { Vec::new() };
        Self { name: name.to_owned(), layers, op }
    }
}

impl Op {
    /// The value it writes.
    pub(crate) fn out(&self) -> ValueId {
        match self {
            Self::PatchEmbedding { out, .. }
            | Self::Lookup { out, .. }
            | Self::AddTable { out, .. }
            | Self::Add { out, .. }
            | Self::LayerNorm { out, .. }
            | Self::Linear { out, .. }
            | Self::Activate { out, .. }
            | Self::Constant { out, .. }
            | Self::First { out, .. }
            | Self::Pool { out, .. }
            | Self::Normalize { out, .. } => *out,
            Self::Attention(attention) => attention.out,
        }
    }

    fn has_weights(&self) -> bool {
        matches!(self, Self::PatchEmbedding { .. } | Self::Lookup { .. } | Self::Linear { .. })
    }

    fn out_mut(&mut self) -> &mut ValueId {
        match self {
            Self::PatchEmbedding { out, .. }
            | Self::Lookup { out, .. }
            | Self::AddTable { out, .. }
            | Self::Add { out, .. }
            | Self::LayerNorm { out, .. }
            | Self::Linear { out, .. }
            | Self::Activate { out, .. }
            | Self::Constant { out, .. }
            | Self::First { out, .. }
            | Self::Pool { out, .. }
            | Self::Normalize { out, .. } => out,
            Self::Attention(attention) => &mut attention.out,
        }
    }

    /// The views it reads.
    pub(crate) fn inputs_mut(&mut self) -> Vec<&mut View> {
        match self {
            Self::PatchEmbedding { .. } | Self::Lookup { .. } | Self::Constant { .. } => vec![],
            Self::AddTable { x, .. }
            | Self::LayerNorm { x, .. }
            | Self::Linear { x, .. }
            | Self::Activate { x, .. }
            | Self::First { x, .. }
            | Self::Pool { x, .. }
            | Self::Normalize { x, .. } => vec![x],
            Self::Add { a, b, .. } => vec![a, b],
            Self::Attention(Attention { query, key, value, .. }) => vec![query, key, value],
        }
    }

    /// Whether it reads `value`; incrementing a value counts as reading it.
    pub(crate) fn reads(&self, value: ValueId) -> bool {
        let is = |view: &View| view.value == value;
        match self {
            Self::PatchEmbedding { .. } | Self::Lookup { .. } | Self::Constant { .. } => false,
            Self::Linear { x, add, out, .. } => is(x) || (*add && *out == value),
            Self::AddTable { x, .. }
            | Self::LayerNorm { x, .. }
            | Self::Activate { x, .. }
            | Self::First { x, .. }
            | Self::Pool { x, .. }
            | Self::Normalize { x, .. } => is(x),
            Self::Add { a, b, .. } => is(a) || is(b),
            Self::Attention(Attention { query, key, value: v, .. }) => is(query) || is(key) || is(v),
        }
    }

    /// Its kind in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::PatchEmbedding { .. } => "patch embedding",
            Self::Lookup { .. } => "embedding",
            Self::AddTable { .. } => "position embedding",
            Self::Add { .. } => "add",
            Self::LayerNorm { .. } => "layer norm",
            Self::Linear { activation: None, add: false, .. } => "linear",
            Self::Linear { activation: None, add: true, .. } => "linear + residual",
            Self::Linear { .. } => "linear + activation",
            Self::Activate { .. } => "activation",
            Self::Constant { .. } => "constant",
            Self::First { .. } => "token 0",
            Self::Pool { .. } => "pooling",
            Self::Normalize { .. } => "L2 norm",
            Self::Attention(_) => "attention",
        }
    }
}

/// A tower as a list of steps.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) values: Vec<Value>,
    pub(crate) steps: Vec<Step>,
    pub(crate) biases: Vec<ScoreBias>,
    /// The embedding, a single row.
    pub(crate) output: View,
    /// The largest number of tokens.
    pub(crate) tokens: usize,
    /// The largest valid id, type and position, for checking inputs.
    pub(crate) ids_max: usize,
    pub(crate) types_max: usize,
    pub(crate) positions_max: usize,
}

impl Program {
    /// Fuses steps. Before, every value is written by one step; the results do not change.
    pub(crate) fn fuse(&mut self) {
        self.drop_unused();
        self.merge_linears();
        self.fuse_activations();
        self.fuse_residuals();
        self.reuse_values();
        self.choose_attentions();
    }

    /// Attention is int8 if the layers that compute queries, keys and values are, so that layers kept in float for accuracy
    /// do not lose it in attention. If none of the three is a linear layer, it is int8 if any layer of the tower is.
    fn choose_attentions(&mut self) {
        let int8 = |step: &Step| match &step.op {
            Op::Linear { weights, .. } => Some(weights.is_i8()),
            _ => None,
        };
        let any = self.steps.iter().any(|step| int8(step) == Some(true));
        for index in 0..self.steps.len() {
            let (before, rest) = self.steps.split_at_mut(index);
            if let Op::Attention(attention) = &mut rest[0].op {
                let source = |view: View| before.iter().rev().find(|step| step.op.out() == view.value).and_then(int8);
                let sources = [attention.query, attention.key, attention.value].map(source);
                let known = sources.iter().any(Option::is_some);
                attention.int8 = if known { !sources.contains(&Some(false)) } else { any };
            }
        }
    }

    /// Returns a copy that has the weights of `other`, the same program, in every step with a layer that is `chosen`, and
    /// the number of those steps. `None` if the two programs have different steps.
    pub(crate) fn with_layers_from(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Option<(Self, usize)> {
        let same = |(a, b): (&Step, &Step)| {
            a.name == b.name && a.layers == b.layers && a.op.kind() == b.op.kind() && a.op.out() == b.op.out()
        };
        if self.steps.len() != other.steps.len() || !self.steps.iter().zip(&other.steps).all(same) {
            return None;
        }
        let (mut program, mut count) = (self.clone(), 0);
        let is_chosen = |step: &Step| step.layers.iter().any(|layer| chosen(layer));
        for (step, other) in program.steps.iter_mut().zip(&other.steps).filter(|(step, _)| is_chosen(step)) {
            match (&mut step.op, &other.op) {
                (Op::Linear { weights, .. }, Op::Linear { weights: others, .. })
                | (Op::PatchEmbedding { weights, .. }, Op::PatchEmbedding { weights: others, .. }) => {
                    weights.clone_from(others);
                }
                (Op::Lookup { table, .. }, Op::Lookup { table: others, .. }) => table.clone_from(others),
                _ => continue,
            }
            count += 1;
        }
        program.choose_attentions();
        Some((program, count))
    }

    /// Removes steps whose results are not read, such as those of an unused output.
    fn drop_unused(&mut self) {
        for index in (0..self.steps.len()).rev() {
            if self.uses(self.steps[index].op.out()) == 0 {
                self.steps.remove(index);
            }
        }
    }

    fn uses(&self, value: ValueId) -> usize {
        let steps = self.steps.iter().filter(|step| step.op.reads(value)).count();
        steps + usize::from(self.output.value == value)
    }

    fn writer(&self, value: ValueId) -> Option<usize> {
        self.steps.iter().position(|step| step.op.out() == value)
    }

    /// Whether no step after `index` reads `value`.
    fn is_last_use(&self, value: ValueId, index: usize) -> bool {
        self.output.value != value && !self.steps[index + 1..].iter().any(|step| step.op.reads(value))
    }

    /// Whether the view covers the whole value.
    fn is_whole(&self, view: View) -> bool {
        view.offset == 0 && view.width == self.values[view.value].width
    }

    fn rename(&mut self, from: ValueId, to: View) {
        let views = self.steps.iter_mut().flat_map(|step| step.op.inputs_mut());
        for view in views.chain([&mut self.output]).filter(|view| view.value == from) {
            view.value = to.value;
            view.offset += to.offset;
        }
    }

    /// Merges linear layers that read the same rows and are all int8 or all float, such as query, key and value; their
    /// results are concatenated. The contract is documented in [`crate::onnx`].
    fn merge_linears(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            let Some((_, out)) = plain_linear(&self.steps[index].op) else {
                index += 1;
                continue;
            };
            let mut width = self.values[out].width;
            while let Some(other) = (index + 1..self.steps.len()).find(|other| self.can_merge(index, *other)) {
                let Step { layers, op: Op::Linear { weights: Weights::Unloaded(more), out: old, .. }, .. } =
                    self.steps.remove(other)
                else {
                    break;
                };
                self.steps[index].layers.extend(layers);
                self.rename(old, View { value: out, offset: width, width: 0 });
                width += self.values[old].width;
                if let Op::Linear { weights: Weights::Unloaded(parts), .. } = &mut self.steps[index].op {
                    parts.extend(more);
                }
            }
            self.values[out].width = width;
            index += 1;
        }
    }

    fn can_merge(&self, first: usize, second: usize) -> bool {
        match (plain_linear(&self.steps[first].op), plain_linear(&self.steps[second].op)) {
            (Some((a, _)), Some((b, _))) => {
                let int8 = |at: usize| matches!(&self.steps[at].op, Op::Linear { weights, .. } if weights.is_i8());
                a == b && int8(first) == int8(second)
            }
            _ => false,
        }
    }

    /// Fuses an activation into the linear layer before it if nothing else reads the layer's result.
    fn fuse_activations(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            if let Op::Activate { x, activation, out } = self.steps[index].op
                && self.uses(x.value) == 1
                && self.is_whole(x)
                && let Some(writer) = self.writer(x.value)
                && let Op::Linear { activation: slot @ None, add: false, .. } = &mut self.steps[writer].op
            {
                *slot = Some(activation);
                self.steps.remove(index);
                self.rename(out, x);
            } else {
                index += 1;
            }
        }
    }

    /// Fuses a residual connection: if a linear layer's result is only added to a value that is not read afterwards, the
    /// layer increments that value in place.
    fn fuse_residuals(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            let Op::Add { a, b, out } = self.steps[index].op else {
                index += 1;
                continue;
            };
            let fused = [(a, b), (b, a)].into_iter().find_map(|(residual, x)| {
                let writer = self.writer(x.value)?;
                let linear = matches!(self.steps[writer].op, Op::Linear { activation: None, add: false, .. });
                let quiet = !self.steps[writer..index]
                    .iter()
                    .any(|step| step.op.reads(residual.value) || step.op.out() == residual.value);
                let rows = self.values[x.value].rows == self.values[residual.value].rows;
                let whole = self.is_whole(residual) && self.is_whole(x);
                let free = self.uses(x.value) == 1 && self.is_last_use(residual.value, index);
                (linear && quiet && rows && whole && free).then_some((writer, residual))
            });
            if let Some((writer, residual)) = fused
                && let Op::Linear { add, out: written, .. } = &mut self.steps[writer].op
            {
                (*add, *written) = (true, residual.value);
                self.steps.remove(index);
                self.rename(out, residual);
            } else {
                index += 1;
            }
        }
    }

    /// Lets elementwise steps overwrite their input if nothing reads it later.
    fn reuse_values(&mut self) {
        for index in 0..self.steps.len() {
            let (x, out) = match &self.steps[index].op {
                Op::AddTable { x, out, .. }
                | Op::Activate { x, out, .. }
                | Op::Normalize { x, out, .. }
                | Op::Add { a: x, out, .. } => (*x, *out),
                _ => continue,
            };
            if self.is_whole(x) && self.is_last_use(x.value, index) {
                self.rename(out, x);
                // Its own output, and that of layers that increment it.
                let writers = self.steps.iter_mut().map(|step| step.op.out_mut());
                writers.filter(|written| **written == out).for_each(|written| *written = x.value);
            }
        }
    }
}

/// Input and output of a linear layer without fused steps.
fn plain_linear(op: &Op) -> Option<(View, ValueId)> {
    match op {
        Op::Linear { x, weights: Weights::Unloaded(_), activation: None, add: false, out } => Some((*x, *out)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::product_node;

    /// A program of linear layers that all read the same row, and the sum of their results. A layer's flag tells whether
    /// its weights are int8.
    fn program(layers: &[(&str, bool)]) -> Program {
        let count = layers.len();
        let view = |value: ValueId| View { value, offset: 0, width: 4 };
        let mut steps = vec![Step::new("row", Op::Constant { row: vec![0.0; 4], out: 0 })];
        for (index, (name, is_int8)) in layers.iter().enumerate() {
            let scales = is_int8.then_some(1);
            let source = WeightSource { weights: 0, scales, group: None, bias: None, outputs: 4, transposed: false };
            let weights = Weights::Unloaded(vec![source]);
            let op = Op::Linear { x: view(0), weights, activation: None, add: false, out: 1 + index };
            steps.push(Step::new(&product_node(name), op));
        }
        for index in 1..count {
            let a = if index == 1 { 1 } else { count + index - 1 };
            steps.push(Step::new("sum", Op::Add { a: view(a), b: view(1 + index), out: count + index }));
        }
        let mut program = Program {
            values: vec![Value { rows: Rows::One, width: 4 }; 2 * count],
            steps,
            biases: Vec::new(),
            output: view(2 * count - 1),
            tokens: 1,
            ids_max: 0,
            types_max: 0,
            positions_max: 0,
        };
        program.fuse();
        program
    }

    fn layers(program: &Program) -> Vec<Vec<String>> {
        program.steps.iter().map(|step| step.layers.clone()).filter(|layers| !layers.is_empty()).collect()
    }

    #[test]
    fn layers_with_one_input_and_one_storage_run_as_one() {
        let check = |stored: &[(&str, bool)], expected: &[&[&str]]| {
            assert_eq!(layers(&program(stored)), expected, "{stored:?}");
        };
        check(&[("q", true), ("k", true), ("v", true)], &[&["q", "k", "v"]]);
        check(&[("q", false), ("k", false)], &[&["q", "k"]]);
        check(&[("q", true), ("k", true), ("v", false)], &[&["q", "k"], &["v"]]);
        check(&[("q", false), ("k", true), ("v", false)], &[&["q", "v"], &["k"]]);
    }

    #[test]
    fn layers_are_exchanged_with_those_that_run_with_them() {
        struct Case {
            other: [bool; 3],
            chosen: &'static str,
            /// Steps that were exchanged; `None` where the programs differ.
            expected: Option<usize>,
        }
        let float = program(&[("q", false), ("k", false), ("v", false)]);
        for Case { other, chosen, expected } in [
            Case { other: [true; 3], chosen: "k", expected: Some(1) },
            Case { other: [true; 3], chosen: "q", expected: Some(1) },
            Case { other: [true; 3], chosen: "q.product", expected: Some(0) },
            Case { other: [true, false, true], chosen: "k", expected: None },
        ] {
            let [q, k, v] = other;
            let other = program(&[("q", q), ("k", k), ("v", v)]);
            let found = float.with_layers_from(&other, &|layer| layer == chosen);
            assert_eq!(found.as_ref().map(|(_, count)| *count), expected, "{chosen}");
            let int8 = |step: &Step| matches!(&step.op, Op::Linear { weights, .. } if weights.is_i8());
            let has_int8 = found.is_some_and(|(program, _)| program.steps.iter().any(int8));
            assert_eq!(has_int8, expected == Some(1), "{chosen}");
        }
    }
}
