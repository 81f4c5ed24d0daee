//! Lowers an ONNX graph of convolutions to a [`Program`].
//!
//! Only nodes that the embedding depends on count. A node that is not supported ends it, and the tower runs in tract.

mod nodes;
mod small;
mod vectors;

use std::collections::{HashMap, HashSet};
use std::io;

use tract_onnx::pb;

use self::small::Small;
use super::program::{MapId, Op, Program, Shape, Step};
use crate::fused::file::OnnxFile;
use crate::fused::function::Function;
use crate::fused::unsupported::{Lowered, Stop, UnsupportedGraph, unsupported};

/// The most values of a map: 128 MiB of floats, as 64 channels of 724 x 724 pixels.
const MAP_VALUES_MAX: usize = 1 << 25;

/// What a value of the graph means.
#[derive(Debug, Clone)]
enum Symbol {
    /// A constant, by its index among the initializers.
    Constant(usize),
    /// Integers and scales, by their indices among the initializers.
    Dequantized { values: usize, scales: usize, axis: i64 },
    /// [1, channels, height, width], or [1, channels] of a flat vector.
    Map { map: MapId, flat: bool },
    /// An elementwise function of a map.
    Function { map: MapId, flat: bool, function: Function },
    /// A map with zeros around it: above, left, below, right.
    Padded { map: MapId, pads: [usize; 4] },
    /// A constant that the graph computes.
    Small(Small),
}

struct Lowering<'a, 'b> {
    file: &'a mut OnnxFile<'b>,
    symbols: HashMap<String, Symbol>,
    program: Program,
}

/// Lowers the graph of `file`, for one image of `height` x `width` pixels, to its output called `output`, and fuses steps.
/// Weights are not read yet.
pub(crate) fn lower(
    file: &mut OnnxFile<'_>,
    [height, width]: [usize; 2],
    output: &str,
) -> io::Result<Result<Program, UnsupportedGraph>> {
    let nodes = std::mem::take(&mut file.graph.node);
    let mut symbols: HashMap<String, Symbol> = HashMap::new();
    for (number, tensor) in file.graph.initializer.iter().enumerate() {
        symbols.insert(tensor.name.clone(), Symbol::Constant(number));
    }
    for input in &file.graph.input {
        symbols.entry(input.name.clone()).or_insert(Symbol::Map { map: 0, flat: false });
    }
    let pixels = Shape { height, width, channels: 3 };
    let program = Program { maps: vec![pixels], steps: Vec::new(), output: 0 };
    let mut lowering = Lowering { file, symbols, program };
    let result = lowering.walk(&nodes, output);
    let Lowering { file, program, .. } = lowering;
    file.graph.node = nodes;
    match result {
        Ok(()) => Ok(Ok(program)),
        Err((_, Stop::Io(error))) => Err(error),
        Err((index, Stop::Unsupported(why))) => {
            let node = file.graph.node.get(index).cloned().unwrap_or_default();
            Ok(Err(UnsupportedGraph::at(&node, why)))
        }
    }
}

/// Indices of the nodes that `output` depends on.
fn needed(nodes: &[pb::NodeProto], output: &str) -> Vec<usize> {
    let mut wanted: HashSet<&str> = HashSet::from([output]);
    let mut found = Vec::new();
    for (index, node) in nodes.iter().enumerate().rev() {
        if node.output.iter().any(|name| wanted.contains(name.as_str())) {
            wanted.extend(node.input.iter().map(String::as_str));
            found.push(index);
        }
    }
    found.reverse();
    found
}

impl Lowering<'_, '_> {
    fn walk(&mut self, nodes: &[pb::NodeProto], output: &str) -> Result<(), (usize, Stop)> {
        let indices = needed(nodes, output);
        for index in &indices {
            self.node(&nodes[*index]).map_err(|stop| (*index, stop))?;
        }
        let last = indices.last().copied().unwrap_or_default();
        let map = self.map(output, output).map_err(|stop| (last, stop))?;
        if !self.shape(map).is_vector() || map == 0 {
            return Err((last, Stop::Unsupported("the output is not one embedding".into())));
        }
        self.program.output = map;
        self.program.fuse();
        Ok(())
    }

    fn symbol(&self, name: &str) -> Lowered<Symbol> {
        match self.symbols.get(name) {
            Some(symbol) => Ok(symbol.clone()),
            None => unsupported(format!("{name} comes from no supported node")),
        }
    }

    fn shape(&self, map: MapId) -> Shape {
        self.program.maps[map]
    }

    /// Adds a step that writes a new map of this shape.
    fn push(&mut self, name: &str, op: Op, x: MapId, add: Option<MapId>, shape: Shape) -> Lowered<MapId> {
        let volume = shape.height.checked_mul(shape.width).and_then(|pixels| pixels.checked_mul(shape.channels));
        if !volume.is_some_and(|volume| (1..=MAP_VALUES_MAX).contains(&volume)) {
            return unsupported(format!("a map of {} x {} x {} values", shape.channels, shape.height, shape.width));
        }
        let out = self.program.maps.len();
        self.program.maps.push(shape);
        self.program.steps.push(Step { name: name.to_owned(), op, x, add, activation: None, out });
        Ok(out)
    }

    /// The value called `name` as a map. A pending function becomes a step called `step`.
    fn map(&mut self, name: &str, step: &str) -> Lowered<MapId> {
        match self.symbol(name)? {
            Symbol::Map { map, .. } => Ok(map),
            Symbol::Function { map, flat, function } => {
                let Some(activation) = function.activation() else {
                    return unsupported(format!("{name} is an elementwise function that has no kernel"));
                };
                let out = self.push(step, Op::Copy, map, None, self.shape(map))?;
                if let Some(step) = self.program.steps.last_mut() {
                    step.activation = Some(activation);
                }
                self.symbols.insert(name.to_owned(), Symbol::Map { map: out, flat });
                Ok(out)
            }
            _ => unsupported(format!("{name} is not a map of pixels")),
        }
    }

    /// The value called `name` as a function of a map.
    fn function(&self, name: &str) -> Lowered<(MapId, bool, Function)> {
        match self.symbol(name)? {
            Symbol::Map { map, flat } => Ok((map, flat, Function::identity())),
            Symbol::Function { map, flat, function } => Ok((map, flat, function)),
            _ => unsupported(format!("{name} is not a map of pixels")),
        }
    }

    fn dims(&self, number: usize) -> Vec<usize> {
        let dims = &self.file.graph.initializer[number].dims;
        dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect()
    }

    fn floats(&mut self, name: &str) -> Lowered<Vec<f32>> {
        let Symbol::Constant(number) = self.symbol(name)? else {
            return unsupported(format!("{name} is not constant"));
        };
        let tensor = self.file.graph.initializer[number].clone();
        self.file.floats(&tensor).or_else(|_| unsupported(format!("{name} is not a constant of floats")))
    }

    fn ints(&mut self, name: &str) -> Lowered<Vec<i64>> {
        match self.symbol(name)? {
            Symbol::Small(small) => Ok(small.ints()),
            Symbol::Constant(number) => {
                let tensor = self.file.graph.initializer[number].clone();
                self.file.ints(&tensor).or_else(|_| unsupported(format!("{name} is not a constant of integers")))
            }
            _ => unsupported(format!("{name} is not constant")),
        }
    }

    /// The value of a constant of one float; `None` for anything else.
    fn scalar(&mut self, name: &str) -> Lowered<Option<f32>> {
        match self.symbol(name)? {
            Symbol::Constant(number) if self.dims(number).iter().product::<usize>() == 1 => {
                Ok(self.floats(name)?.first().copied())
            }
            Symbol::Small(small) if small.values.len() == 1 => Ok(Some(small.values[0] as f32)),
            _ => Ok(None),
        }
    }
}
