//! Small constants that a graph computes from others and from the shapes of maps: exporters write the padding of a
//! convolution so.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

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
    /// True if they are integers, whose quotients are integers.
    integers: bool,
}

impl Small {
    fn new(dims: Vec<usize>, values: Vec<f64>, integers: bool) -> Option<Self> {
        let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim))?;
        (count == values.len() && count <= VALUES_MAX).then_some(Self { dims, values, integers })
    }

    fn vector(values: Vec<f64>, integers: bool) -> Option<Self> {
        Self::new(vec![values.len()], values, integers)
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { values: self.values.into_iter().map(f).collect(), ..self }
    }

    /// The values as integers.
    pub(super) fn ints(&self) -> Vec<i64> {
        self.values.iter().map(|value| *value as i64).collect()
    }

    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Option<Self> {
        let (dims, count) = match (self.values.len(), other.values.len()) {
            (a, _) if self.dims == other.dims => (&self.dims, a),
            (a, 1) => (&self.dims, a),
            (1, b) => (&other.dims, b),
            _ => return None,
        };
        let at = |small: &Self, index: usize| small.values[index % small.values.len()];
        let values = (0..count).map(|index| f(at(self, index), at(other, index))).collect();
        Self::new(dims.clone(), values, self.integers && other.integers)
    }
}

impl Lowering<'_, '_> {
    /// The output of a node whose inputs are all small constants, or of one that asks for a shape; `None` for others.
    pub(super) fn constant(&mut self, node: &pb::NodeProto) -> Option<Small> {
        if node.op_type == "Shape" {
            let (map, flat, _) = self.function(node.input.first()?).ok()?;
            let shape = self.shape(map);
            let dims = if flat { vec![1, shape.channels] } else { vec![1, shape.channels, shape.height, shape.width] };
            return Small::vector(dims.into_iter().map(|dim| dim as f64).collect(), true);
        }
        let inputs = node.input.iter().map(|name| if name.is_empty() { None } else { self.small(name) });
        let inputs: Vec<Option<Small>> = inputs.collect();
        if inputs.iter().zip(&node.input).any(|(small, name)| small.is_none() && !name.is_empty()) {
            return None;
        }
        let input = |index: usize| inputs.get(index).cloned().flatten();
        let first = input(0)?;
        match node.op_type.as_str() {
            // 6 and 7 are integers of 32 and 64 bits. What has more axes is weights.
            "Cast" if first.dims.len() <= 1 => {
                let integers = matches!(int(node, "to"), Some(6 | 7));
                Some(Small { integers, ..first.map(|value| if integers { value.trunc() } else { value }) })
            }
            "Ceil" => Some(first.map(f64::ceil)),
            "Floor" => Some(first.map(f64::floor)),
            "Clip" => {
                let bound = |index: usize, absent: f64| {
                    input(index).and_then(|small| small.values.first().copied()).unwrap_or(absent)
                };
                let (low, high) = (bound(1, f64::NEG_INFINITY), bound(2, f64::INFINITY));
                Some(first.map(|value| value.max(low).min(high)))
            }
            "Div" => {
                let second = input(1)?;
                let integers = first.integers && second.integers;
                first.with(&second, |a, b| if integers { (a / b).trunc() } else { a / b })
            }
            "Max" => first.with(&input(1)?, f64::max),
            "Min" => first.with(&input(1)?, f64::min),
            op if Function::binary(op).is_some() => first.with(&input(1)?, Function::binary(op)?),
            "Unsqueeze" => {
                if first.values.len() == 1 {
                    Small::vector(first.values, first.integers)
                } else {
                    None
                }
            }
            "Squeeze" => {
                let dims = if first.values.len() == 1 { vec![] } else { vec![first.values.len()] };
                Small::new(dims, first.values, first.integers)
            }
            "Concat" => {
                let all: Option<Vec<Small>> = inputs.iter().cloned().collect();
                let all = all?;
                if all.iter().any(|small| small.dims.len() != 1) {
                    return None;
                }
                let integers = all.iter().all(|small| small.integers);
                Small::vector(all.into_iter().flat_map(|small| small.values).collect(), integers)
            }
            "ConstantOfShape" => {
                let zeros = |t: &pb::TensorProto| {
                    t.float_data.is_empty()
                        && t.raw_data.iter().all(|b| *b == 0)
                        && t.int64_data.iter().all(|v| *v == 0)
                };
                // Zeros, as of any exporter's padding; another value is not a small constant.
                let value = node.attribute.iter().find_map(|attribute| attribute.t.as_ref());
                let count = first.values.iter().product::<f64>();
                if !value.is_none_or(zeros) || !(0.0..=VALUES_MAX as f64).contains(&count) {
                    return None;
                }
                let integers = value.is_some_and(|t| t.data_type == DataType::Int64 as i32);
                Small::new(first.values.iter().map(|dim| *dim as usize).collect(), vec![0.0; count as usize], integers)
            }
            "Gather" if first.dims.len() == 1 && int(node, "axis").unwrap_or(0) == 0 => {
                let indices = input(1)?;
                let len = first.values.len() as i64;
                let values = indices.ints().into_iter().map(|index| {
                    let index = if index < 0 { index + len } else { index };
                    first.values.get(usize::try_from(index).ok()?).copied()
                });
                Small::new(indices.dims.clone(), values.collect::<Option<_>>()?, first.integers)
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
                Small::new(dims.collect::<Option<_>>()?, first.values, first.integers)
            }
            "Transpose" => {
                let [rows, columns] = first.dims[..] else { return None };
                if ints(node, "perm").is_some_and(|perm| perm != [1, 0]) {
                    return None;
                }
                let values = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
                let values = values.map(|index| first.values[index]).collect();
                Small::new(vec![columns, rows], values, first.integers)
            }
            "Slice" => slice(&first, &input(1)?, &input(2)?, input(3).as_ref(), input(4).as_ref()),
            _ => None,
        }
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
                match self.file.ints(&tensor) {
                    Ok(ints) => Small::new(dims, ints.into_iter().map(|value| value as f64).collect(), true),
                    Err(_) => {
                        Small::new(dims, self.file.floats(&tensor).ok()?.into_iter().map(f64::from).collect(), false)
                    }
                }
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
    Small::new(dims, taken, x.integers)
}
