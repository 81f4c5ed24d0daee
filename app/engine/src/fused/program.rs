//! A tower as a list of steps over rows of floats, and the passes that fuse them.
//!
//! A value is a matrix with one row per token, or a single row. Every step but attention and pooling works on each row
//! separately, so that a thread can take a block of rows through many steps while it is in the cache. [`super::lower`]
//! makes the list, [`super::run`] runs it.

mod fuse;

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

/// The index that selects a token's row of a table.
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
    /// True if its products are int8; set by [`Program::choose_attentions`].
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
    /// `out = x * factors`, column by column.
    Scale { x: View, factors: Vec<f32>, out: ValueId },
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
            | Self::Scale { out, .. }
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
            | Self::Scale { out, .. }
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
            | Self::Scale { x, .. }
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

    /// True if it reads `value`; incrementing a value counts as reading it.
    pub(crate) fn reads(&self, value: ValueId) -> bool {
        let is = |view: &View| view.value == value;
        match self {
            Self::PatchEmbedding { .. } | Self::Lookup { .. } | Self::Constant { .. } => false,
            Self::Linear { x, add, out, .. } => is(x) || (*add && *out == value),
            Self::AddTable { x, .. }
            | Self::Scale { x, .. }
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
            Self::Scale { .. } => "scale",
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
