//! Lowers an ONNX graph to a [`Program`]. One pass over the nodes tracks a symbolic meaning for every value: rows of tokens,
//! heads of attention, a function of rows and so on.
//!
//! The meaning of a node's output depends only on the meanings of its inputs, so the order and the names that an exporter
//! uses do not matter. A node that is not supported ends the pass, and the tower runs in tract.

mod nodes;
mod prefix_tokens;
mod selection;
mod shapes;
mod sums;
mod tables;

use std::collections::HashMap;
use std::io;

use tract_onnx::pb;

use super::file::OnnxFile;
use super::function::Function;
use super::program::{
    Op, Patches, Pooling, Program, Rows, ScoreBias, SequenceIndex, Step, Table, Terms, Value, View, WeightSource,
    Weights,
};
use super::unsupported::{Lowered, Stop, UnsupportedGraph, unsupported};

/// The result of lowering.
pub(crate) enum Outcome {
    Program(Program),
    Unsupported(UnsupportedGraph),
}

/// The inputs of a graph.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// One image of this height and width.
    Pixels([usize; 2]),
    /// Names of the inputs, the largest number of tokens, and the position id of the first token.
    Tokens { names: &'a [String], tokens_max: usize, first_position: usize },
}

/// Order of the axes of heads, without the batch axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadAxes {
    /// [tokens, heads, dim].
    TokensHeads,
    /// [heads, tokens, dim].
    HeadsTokens,
    /// [heads, dim, tokens].
    HeadsDim,
}

/// The symbolic meaning of a value.
#[derive(Debug, Clone)]
enum SymbolicValue {
    Pixels,
    Index(SequenceIndex),
    /// A constant, by its index among the initializers.
    Constant(usize),
    /// Integers and scales, by their indices among the initializers.
    Dequantized {
        values: usize,
        scales: usize,
        axis: i64,
        /// Number of 4-bit integers along the axis that share a scale; `None` for int8.
        group: Option<usize>,
    },
    /// [1, hidden, rows, columns] of a patch embedding.
    PatchGrid(View),
    /// [1, hidden, patches].
    PatchColumns(View),
    /// [1, tokens, width], or [1, width].
    Rows(View),
    /// An elementwise function of rows.
    Function(View, Function),
    Heads {
        view: View,
        heads: usize,
        order: HeadAxes,
        scale: f32,
    },
    Scores {
        query: View,
        key: View,
        heads: usize,
        scale: f32,
        terms: Terms,
        softmax: bool,
    },
    /// Rows of an int8 table, looked up by an index.
    IntegerRows {
        table: usize,
        index: SequenceIndex,
    },
    /// Scales of such rows.
    ScaleRows {
        table: usize,
        index: SequenceIndex,
    },
    /// The sequence length.
    Length,
    /// The attention mask; 1 for a token.
    Mask,
    /// 1 for padding.
    Padding,
    /// Added to scores: 0 for a token, a large negative number for padding.
    AdditiveMask,
    /// Norms of rows.
    Norms(View),
    /// A causal mask, sliced to the sequence length.
    Causal {
        /// True if only one of its two axes is sliced so far.
        half: bool,
    },
    /// The rows from an index on.
    RowsFrom(View, usize),
    /// 1 where a token has this id, else 0.
    IsId(i64),
    /// The index of the pooled token.
    PooledIndex(Pooling),
    /// The indices of all tokens.
    TokenIndices,
    /// 1 at the pooled token, else 0.
    OneHot(Pooling),
}

struct Lowering<'a, 'b> {
    file: &'a mut OnnxFile<'b>,
    inputs: Inputs<'a>,
    symbols: HashMap<String, SymbolicValue>,
    uses: HashMap<String, usize>,
    program: Program,
}

/// The most patches of an image, as of 1024 x 1024 pixels in patches of 8. Memory for all of them is allocated on loading.
const PATCHES_MAX: usize = 1 << 14;

/// Lowers the graph of `file` to its output called `output`, one embedding, and fuses steps. Weights are not read yet.
pub(crate) fn lower(file: &mut OnnxFile<'_>, inputs: Inputs<'_>, output: &str) -> io::Result<Outcome> {
    let nodes = std::mem::take(&mut file.graph.node);
    let result = walk(file, &nodes, inputs, output);
    file.graph.node = nodes;
    result
}

fn walk(file: &mut OnnxFile<'_>, nodes: &[pb::NodeProto], inputs: Inputs<'_>, output: &str) -> io::Result<Outcome> {
    let mut symbols: HashMap<String, SymbolicValue> = HashMap::new();
    for (number, tensor) in file.graph.initializer.iter().enumerate() {
        symbols.insert(tensor.name.clone(), SymbolicValue::Constant(number));
    }
    match inputs {
        Inputs::Pixels(_) => {
            let input = file.graph.input.iter().map(|input| &input.name).find(|name| !symbols.contains_key(*name));
            if let Some(name) = input.cloned() {
                symbols.insert(name, SymbolicValue::Pixels);
            }
        }
        Inputs::Tokens { names, .. } => {
            for name in names {
                let symbol = match name.as_str() {
                    "attention_mask" => SymbolicValue::Mask,
                    "token_type_ids" => SymbolicValue::Index(SequenceIndex::Types),
                    "position_ids" => SymbolicValue::Index(SequenceIndex::PositionIds),
                    _ => SymbolicValue::Index(SequenceIndex::Ids),
                };
                symbols.insert(name.clone(), symbol);
            }
        }
    }
    let mut uses = HashMap::new();
    let outputs = file.graph.output.iter().map(|output| &output.name);
    for name in nodes.iter().flat_map(|node| &node.input).chain(outputs) {
        *uses.entry(name.clone()).or_insert(0) += 1;
    }
    let tokens = match inputs {
        // Set by the patch embedding.
        Inputs::Pixels(_) => 0,
        Inputs::Tokens { tokens_max, .. } => tokens_max,
    };
    let program = Program {
        values: Vec::new(),
        steps: Vec::new(),
        biases: Vec::new(),
        output: View { value: 0, offset: 0, width: 0 },
        tokens,
        ids_max: usize::MAX,
        types_max: usize::MAX,
        positions_max: usize::MAX,
    };
    let mut walker = Lowering { file, inputs, symbols, uses, program };
    for node in nodes {
        match walker.node(node) {
            Ok(()) => {}
            Err(Stop::Io(error)) => return Err(error),
            Err(Stop::Unsupported(why)) => return Ok(Outcome::Unsupported(UnsupportedGraph::at(node, why))),
        }
    }
    let Some(last) = nodes.last() else {
        return Ok(Outcome::Unsupported(UnsupportedGraph::at(&pb::NodeProto::default(), "the graph is empty".into())));
    };
    match walker.finish(output) {
        Ok(program) => Ok(Outcome::Program(program)),
        Err(Stop::Io(error)) => Err(error),
        Err(Stop::Unsupported(why)) => Ok(Outcome::Unsupported(UnsupportedGraph::at(last, why))),
    }
}

impl Lowering<'_, '_> {
    fn finish(mut self, output: &str) -> Lowered<Program> {
        let output = self.rows(output, output)?;
        if self.program.values[output.value].rows != Rows::One {
            return unsupported("the output is not one embedding");
        }
        if !(1..=PATCHES_MAX).contains(&self.program.tokens) {
            return unsupported(format!("{} tokens, of 1 to {PATCHES_MAX}", self.program.tokens));
        }
        self.program.output = output;
        self.program.fuse();
        Ok(self.program)
    }

    fn symbol(&self, name: &str) -> Lowered<SymbolicValue> {
        match self.symbols.get(name) {
            Some(symbol) => Ok(symbol.clone()),
            None => unsupported(format!("{name} comes from no supported node")),
        }
    }

    fn value(&mut self, rows: Rows, width: usize) -> View {
        self.program.values.push(Value { rows, width });
        View { value: self.program.values.len() - 1, offset: 0, width }
    }

    fn rows_of(&self, view: View) -> Rows {
        self.program.values[view.value].rows
    }

    fn push(&mut self, name: &str, op: Op) {
        self.program.steps.push(Step::new(name, op));
    }

    /// The value called `name` as rows. A pending function of rows becomes a step called `step`.
    fn rows(&mut self, name: &str, step: &str) -> Lowered<View> {
        match self.symbol(name)? {
            SymbolicValue::Rows(view) => Ok(view),
            SymbolicValue::Function(x, function) => {
                let Some(activation) = function.activation() else {
                    return unsupported(format!("{name} is an elementwise function that has no kernel"));
                };
                let out = self.value(self.rows_of(x), x.width);
                self.push(step, Op::Activate { x, activation, out: out.value });
                self.symbols.insert(name.to_owned(), SymbolicValue::Rows(out));
                Ok(out)
            }
            _ => unsupported(format!("{name} is not rows of tokens")),
        }
    }

    fn shape(&self, number: usize) -> Vec<usize> {
        let dims = &self.file.graph.initializer[number].dims;
        dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect()
    }

    fn floats(&mut self, number: usize) -> Lowered<Vec<f32>> {
        let tensor = self.file.graph.initializer[number].clone();
        self.file.floats(&tensor).or_else(|_| unsupported(format!("{} is not a constant of floats", tensor.name)))
    }

    fn ints(&mut self, name: &str) -> Lowered<Vec<i64>> {
        let SymbolicValue::Constant(number) = self.symbol(name)? else {
            return unsupported(format!("{name} is not constant"));
        };
        let tensor = self.file.graph.initializer[number].clone();
        self.file.ints(&tensor).or_else(|_| unsupported(format!("{} is not a constant of integers", tensor.name)))
    }

    /// The value of a constant with one element.
    fn scalar(&mut self, symbol: &SymbolicValue) -> Lowered<Option<f32>> {
        let SymbolicValue::Constant(number) = symbol else { return Ok(None) };
        if self.shape(*number).iter().product::<usize>() != 1 {
            return Ok(None);
        }
        Ok(self.floats(*number)?.first().copied())
    }

    /// The weights of a linear layer with `inputs` inputs.
    fn weight_source(&self, weights: &SymbolicValue, inputs: usize, transposed: bool) -> Lowered<WeightSource> {
        let (number, scales, axis, group) = match weights {
            SymbolicValue::Constant(number) => (*number, None, 0, None),
            SymbolicValue::Dequantized { values, scales, axis, group } => (*values, Some(*scales), *axis, *group),
            _ => return unsupported("the weights are not constant"),
        };
        let shape = self.shape(number);
        let [rows, columns] = shape[..] else { return unsupported("the weights are not a matrix") };
        let (from, outputs) = if transposed { (columns, rows) } else { (rows, columns) };
        if from != inputs {
            return unsupported(format!("the weights take {from} values, the rows have {inputs}"));
        }
        if let Some(scales) = scales {
            let along = if axis < 0 { axis + 2 } else { axis };
            let count: usize = self.shape(scales).iter().product();
            let right = match group {
                None => count == 1 || (count == outputs && along == i64::from(!transposed)),
                Some(group) => !transposed && along == 0 && self.shape(scales) == [from.div_ceil(group), outputs],
            };
            if !right {
                return unsupported("the scales are not per output channel");
            }
        }
        Ok(WeightSource { weights: number, scales, group, bias: None, outputs, transposed })
    }
}
