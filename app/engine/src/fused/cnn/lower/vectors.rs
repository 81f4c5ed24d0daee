//! Means over all pixels, and what is computed from the vectors that remain.

use tract_onnx::pb;

use super::{Lowering, Symbol};
use crate::fused::attributes::{float, input, int, ints};
use crate::fused::cnn::program::{Op, Shape, Weights, Window};
use crate::fused::unsupported::{Lowered, unsupported};

impl Lowering<'_, '_> {
    /// The mean of all pixels.
    pub(super) fn mean(&mut self, node: &pb::NodeProto, flat: bool) -> Lowered<Symbol> {
        let map = self.map(input(node, 0)?, input(node, 0)?)?;
        let out = self.push(&node.output[0], Op::Mean, map, None, Shape::vector(self.shape(map).channels))?;
        Ok(Symbol::Map { map: out, flat })
    }

    pub(super) fn reduce_mean(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let axes = match node.input.get(1).filter(|name| !name.is_empty()) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        let (_, flat, _) = self.function(input(node, 0)?)?;
        let mut axes: Vec<i64> = axes.iter().map(|axis| if *axis < 0 { axis + 4 } else { *axis }).collect();
        axes.sort_unstable();
        if flat || axes != [2, 3] {
            return unsupported("a mean of other than all pixels");
        }
        self.mean(node, int(node, "keepdims").unwrap_or(1) == 0)
    }

    /// A vector, whose values have the same order in any shape.
    fn vector(&mut self, name: &str, flat: bool) -> Lowered<Symbol> {
        let map = self.map(name, name)?;
        if !self.shape(map).is_vector() {
            return unsupported("a change of shape of a map of pixels");
        }
        Ok(Symbol::Map { map, flat })
    }

    /// A vector with its axes of one pixel taken away or added.
    pub(super) fn reordered(&mut self, node: &pb::NodeProto, flat: bool) -> Lowered<Symbol> {
        if node.op_type == "Flatten" && !matches!(int(node, "axis").unwrap_or(1), 1 | -3) {
            return unsupported("a change of shape of a map of pixels");
        }
        self.vector(input(node, 0)?, flat)
    }

    pub(super) fn reshape(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let dims = self.ints(input(node, 1)?)?;
        let symbol = self.vector(input(node, 0)?, dims.len() == 2)?;
        let Symbol::Map { map, .. } = symbol else { return Ok(symbol) };
        let channels = self.shape(map).channels as i64;
        let right = match dims[..] {
            [-1..=1, width] => width == channels || (width == -1 && dims[0] != -1),
            [-1..=1, width, 1, 1] => width == channels || (width == -1 && dims[0] != -1),
            _ => false,
        };
        if right { Ok(symbol) } else { unsupported(format!("a vector of {channels} values in the shape {dims:?}")) }
    }

    /// A matrix product of a flat vector.
    pub(super) fn product(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let gemm = node.op_type == "Gemm";
        let (_, flat, _) = self.function(input(node, 0)?)?;
        let map = self.map(input(node, 0)?, input(node, 0)?)?;
        let shape = self.shape(map);
        if !flat || !shape.is_vector() {
            return unsupported("a matrix product of a map of pixels");
        }
        if gemm && (float(node, "alpha", 1.0) != 1.0 || float(node, "beta", 1.0) != 1.0)
            || int(node, "transA").unwrap_or(0) != 0
        {
            return unsupported("a matrix product with factors, or of a transposed vector");
        }
        let transposed = gemm && int(node, "transB").unwrap_or(0) != 0;
        let axis = usize::from(!transposed);
        let (mut source, dims) = self.weights(input(node, 1)?, axis)?;
        let [_, _] = dims[..] else { return unsupported("the weights are not a matrix") };
        let (inputs, outputs) = (dims[1 - axis], dims[axis]);
        if inputs != shape.channels {
            return unsupported(format!("the weights take {inputs} values, the vector has {}", shape.channels));
        }
        source.bias = if gemm { self.bias(node, outputs)? } else { None };
        let op = Op::Convolution { window: Window::POINT, depthwise: false, weights: Weights::Unloaded(source) };
        let out = self.push(&node.output[0], op, map, None, Shape::vector(outputs))?;
        Ok(Symbol::Map { map: out, flat: true })
    }
}
