//! Small constants that a graph computes from others and from the shapes of maps: exporters write the padding of a
//! convolution so.

use tract_onnx::pb;

use super::{Lowering, Symbol};
use crate::fused::attributes::{int, ints};
use crate::fused::function::Function;

/// The most values: padding has eight.
const VALUES_MAX: usize = 64;

/// A constant of at most [`VALUES_MAX`] numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Small {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f64>,
}

impl Small {
    fn new(dims: Vec<usize>, values: Vec<f64>) -> Option<Self> {
        let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim))?;
        (count == values.len() && count <= VALUES_MAX).then_some(Self { dims, values })
    }

    fn vector(values: Vec<f64>) -> Option<Self> {
        Self::new(vec![values.len()], values)
    }

    /// The values as integers.
    pub(super) fn ints(&self) -> Vec<i64> {
        self.values.iter().map(|value| *value as i64).collect()
    }

    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Option<Self> {
        let (dims, count) = match (self.values.len(), other.values.len()) {
            (a, b) if a == b => (&self.dims, a),
            (a, 1) => (&self.dims, a),
            (1, b) => (&other.dims, b),
            _ => return None,
        };
        let at = |small: &Self, index: usize| small.values[index % small.values.len()];
        Self::new(dims.clone(), (0..count).map(|index| f(at(self, index), at(other, index))).collect())
    }
}

impl Lowering<'_, '_> {
    /// The output of a node whose inputs are all small constants, or of one that asks for a shape; `None` for others.
    pub(super) fn constant(&mut self, node: &pb::NodeProto) -> Option<Small> {
        if node.op_type == "Shape" {
            let (map, flat, _) = self.function(node.input.first()?).ok()?;
            let shape = self.shape(map);
            let dims = if flat { vec![1, shape.channels] } else { vec![1, shape.channels, shape.height, shape.width] };
            return Small::vector(dims.into_iter().map(|dim| dim as f64).collect());
        }
        let inputs = node.input.iter().map(|name| if name.is_empty() { None } else { self.small(name) });
        let inputs: Vec<Option<Small>> = inputs.collect();
        if inputs.iter().zip(&node.input).any(|(small, name)| small.is_none() && !name.is_empty()) {
            return None;
        }
        let input = |index: usize| inputs.get(index).cloned().flatten();
        let first = input(0)?;
        match node.op_type.as_str() {
            "Cast" if first.dims.len() <= 1 => Some(first),
            "Ceil" => Small::new(first.dims, first.values.iter().map(|value| value.ceil()).collect()),
            "Floor" => Small::new(first.dims, first.values.iter().map(|value| value.floor()).collect()),
            "Clip" => {
                let bound = |index: usize, absent: f64| input(index).map_or(absent, |small| small.values[0]);
                let (low, high) = (bound(1, f64::NEG_INFINITY), bound(2, f64::INFINITY));
                Small::new(first.dims, first.values.iter().map(|value| value.max(low).min(high)).collect())
            }
            "Div" => {
                let second = input(1)?;
                let whole = [&first, &second].iter().all(|small| small.values.iter().all(|value| value.fract() == 0.0));
                let integers = whole && self.are_integers(node);
                first.with(&second, |a, b| if integers { (a / b).trunc() } else { a / b })
            }
            "Max" => first.with(&input(1)?, f64::max),
            "Min" => first.with(&input(1)?, f64::min),
            op if Function::binary(op).is_some() => first.with(&input(1)?, Function::binary(op)?),
            "Unsqueeze" => {
                let values = first.values;
                if values.len() == 1 || first.dims.is_empty() { Small::vector(values) } else { None }
            }
            "Squeeze" => {
                Small::new(if first.values.len() == 1 { vec![] } else { vec![first.values.len()] }, first.values)
            }
            "Concat" => {
                let all: Option<Vec<Small>> = inputs.iter().cloned().collect();
                let all = all?;
                if all.iter().any(|small| small.dims.len() != 1) {
                    return None;
                }
                Small::vector(all.into_iter().flat_map(|small| small.values).collect())
            }
            "ConstantOfShape" => {
                let count = first.values.iter().product::<f64>();
                // Zeros, as of any exporter's padding; another value is not a small constant.
                if node.attribute.iter().any(|attribute| {
                    attribute.t.as_ref().is_some_and(|t| {
                        t.raw_data.iter().any(|b| *b != 0)
                            || t.int64_data.iter().any(|v| *v != 0)
                            || !t.float_data.is_empty()
                    })
                }) || !(0.0..=VALUES_MAX as f64).contains(&count)
                {
                    return None;
                }
                Small::new(first.values.iter().map(|dim| *dim as usize).collect(), vec![0.0; count as usize])
            }
            "Gather" if first.dims.len() == 1 && int(node, "axis").unwrap_or(0) == 0 => {
                let indices = input(1)?;
                let len = first.values.len() as i64;
                let values = indices.ints().into_iter().map(|index| {
                    let index = if index < 0 { index + len } else { index };
                    first.values.get(usize::try_from(index).ok()?).copied()
                });
                Small::new(indices.dims.clone(), values.collect::<Option<_>>()?)
            }
            "Reshape" => {
                let count = first.values.len() as i64;
                let shape = input(1)?.ints();
                let known: i64 = shape.iter().filter(|dim| **dim > 0).product();
                let dims = shape.iter().map(|dim| match dim {
                    -1 => usize::try_from(count.checked_div(known)?).ok(),
                    0 => None,
                    dim => usize::try_from(*dim).ok(),
                });
                Small::new(dims.collect::<Option<_>>()?, first.values)
            }
            "Transpose" => {
                let [rows, columns] = first.dims[..] else { return None };
                if ints(node, "perm").is_some_and(|perm| perm != [1, 0]) {
                    return None;
                }
                let values = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
                let values = values.map(|index| first.values[index]).collect();
                Small::new(vec![columns, rows], values)
            }
            "Slice" => slice(&first, &input(1)?, &input(2)?, input(3).as_ref(), input(4).as_ref()),
            _ => None,
        }
    }

    /// True if a node's first input is of integers, as far as that is known.
    fn are_integers(&self, node: &pb::NodeProto) -> bool {
        let floats = node.input.iter().any(|name| match self.symbols.get(name) {
            Some(Symbol::Constant(number)) => self.file.graph.initializer[*number].data_type == 1,
            _ => self.floating.contains(name),
        });
        !floats
    }

    /// The value called `name` as a small constant.
    pub(super) fn small(&mut self, name: &str) -> Option<Small> {
        match self.symbols.get(name)? {
            Symbol::Small(small) => Some(small.clone()),
            Symbol::Constant(number) => {
                let (number, dims) = (*number, self.dims(*number));
                if dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim))? > VALUES_MAX {
                    return None;
                }
                let tensor = self.file.graph.initializer[number].clone();
                let values = match self.file.ints(&tensor) {
                    Ok(ints) => ints.into_iter().map(|value| value as f64).collect(),
                    Err(_) => self.file.floats(&tensor).ok()?.into_iter().map(f64::from).collect(),
                };
                Small::new(dims, values)
            }
            _ => None,
        }
    }
}

/// Rows of a matrix, or values of a vector.
fn slice(x: &Small, starts: &Small, ends: &Small, axes: Option<&Small>, steps: Option<&Small>) -> Option<Small> {
    let one = |small: &Small| if let [value] = small.ints()[..] { Some(value) } else { None };
    let (start, end) = (one(starts)?, one(ends)?);
    let step = steps.map_or(Some(1), one)?;
    if axes.map_or(Some(0), one)? != 0 || step == 0 {
        return None;
    }
    let rows = i64::try_from(*x.dims.first()?).ok()?;
    let width = x.values.len().checked_div(x.dims[0])?;
    let place = |at: i64| if at < 0 { at.saturating_add(rows) } else { at };
    let (start, end) = if step > 0 {
        (place(start).clamp(0, rows), place(end).clamp(0, rows))
    } else {
        (place(start).clamp(0, rows - 1), place(end).clamp(-1, rows - 1))
    };
    let mut taken = Vec::new();
    let mut at = start;
    while if step > 0 { at < end } else { at > end } {
        let first = usize::try_from(at).ok()? * width;
        taken.extend_from_slice(&x.values[first..first + width]);
        at += step;
    }
    let mut dims = x.dims.clone();
    dims[0] = taken.len().checked_div(width.max(1))?;
    Small::new(dims, taken)
}
