//! Dispatch of ONNX operators, and those with weights.

use tract_onnx::pb;

use super::{
    Function, HeadAxes, Inputs, Lowered, Lowering, PATCHES_MAX, Patches, Rows, SymbolicValue, Terms, View, Weights,
    unsupported,
};
use crate::fused::attributes::{float, input, int, ints, text};
use crate::fused::program::{Attention, Op};
use crate::onnx::INT4;

impl Lowering<'_, '_> {
    /// Determines the symbolic value of the node's output.
    pub(super) fn node(&mut self, node: &pb::NodeProto) -> Lowered<()> {
        let [output] = &node.output[..] else { return unsupported("expected one output") };
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return unsupported(format!("operators of the domain {} are not supported", node.domain));
        }
        let symbol = match node.op_type.as_str() {
            "Conv" => self.patch_embedding(node)?,
            "DequantizeLinear" => self.dequantize(node)?,
            "MatMul" | "Gemm" => self.product(node)?,
            "LayerNormalization" => self.layer_norm(node)?,
            "Softmax" => self.softmax(node)?,
            "Gather" => self.gather(node)?,
            "Slice" => self.slice(node)?,
            "Reshape" => self.reshape(node)?,
            "Transpose" => self.transpose(node)?,
            "Pad" => self.pad(node)?,
            "Concat" => self.concatenation(node)?,
            "ReduceL2" => self.norms(node)?,
            "ReduceMean" => self.mean(node)?,
            "ArgMax" => self.arg_max(node)?,
            "Equal" => self.equal(node)?,
            "Identity" => self.symbol(input(node, 0)?)?,
            "Cast" => self.cast(node)?,
            "Shape" => self.length(node)?,
            "Squeeze" | "Unsqueeze" => self.axes(node)?,
            "Clip" => self.clip(node)?,
            op if Function::binary(op).is_some() => self.binary(node)?,
            _ if Function::identity().of_node(node).is_some() => {
                let (x, function) = self.function(input(node, 0)?, output)?;
                let Some(function) = function.of_node(node) else { return unsupported("not a function of one value") };
                SymbolicValue::Function(x, function)
            }
            _ => return unsupported("the operator is not supported"),
        };
        self.symbols.insert(output.clone(), symbol);
        Ok(())
    }

    /// The value called `name` as a function of rows.
    pub(super) fn function(&mut self, name: &str, step: &str) -> Lowered<(View, Function)> {
        match self.symbol(name)? {
            SymbolicValue::Function(x, function) => Ok((x, function)),
            _ => Ok((self.rows(name, step)?, Function::identity())),
        }
    }

    /// A function of rows between two constant bounds, either of which may be missing.
    fn clip(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let mut bounds = [f64::NEG_INFINITY, f64::INFINITY];
        for (bound, index) in bounds.iter_mut().zip(1..) {
            if let Some(name) = node.input.get(index).filter(|name| !name.is_empty()) {
                let symbol = self.symbol(name)?;
                let Some(value) = self.scalar(&symbol)? else { return unsupported("the bounds are not constant") };
                *bound = f64::from(value);
            }
        }
        let [low, high] = bounds;
        let (x, function) = self.function(input(node, 0)?, &node.output[0])?;
        // Not `clamp`, which panics if the bounds are exchanged; ONNX then returns the upper one.
        Ok(SymbolicValue::Function(x, function.then(|x| x.max(low).min(high))))
    }

    fn patch_embedding(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let Inputs::Pixels([height, width]) = self.inputs else { return unsupported("a convolution of text") };
        if !matches!(self.symbol(input(node, 0)?)?, SymbolicValue::Pixels) {
            return unsupported("a convolution of something else than pixels");
        }
        let weights = self.symbol(input(node, 1)?)?;
        let number = match &weights {
            SymbolicValue::Constant(number) => *number,
            SymbolicValue::Dequantized { values, axis: 0, group: None, .. } => *values,
            _ => return unsupported("the weights are not constant"),
        };
        let [hidden, channels, patch_height, patch_width] = self.shape(number)[..] else {
            return unsupported("the weights do not have four axes");
        };
        let step = [patch_height as i64, patch_width as i64];
        let all = |name: &str, value: i64| ints(node, name).is_none_or(|values| values.iter().all(|v| *v == value));
        let strides = ints(node, "strides").is_some_and(|strides| strides == step);
        let plain = all("pads", 0) && all("dilations", 1) && int(node, "group").is_none_or(|group| group == 1);
        let padded = text(node, "auto_pad").is_some_and(|pad| pad != "NOTSET" && pad != "VALID");
        let grid = [height / patch_height.max(1), width / patch_width.max(1)];
        if !strides || !plain || padded || patch_height == 0 || patch_width == 0 {
            return unsupported("a convolution whose stride differs from its kernel size");
        }
        if channels != 3 || grid.contains(&0) || hidden == 0 {
            return unsupported("a patch embedding of other than RGB images");
        }
        let patches = Patches { channels, patch: [patch_height, patch_width], grid, prefix_tokens: 0 };
        let inputs = channels * patch_height * patch_width;
        let scales = match weights {
            SymbolicValue::Dequantized { scales, .. } => Some(scales),
            _ => None,
        };
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => match self.symbol(name)? {
                SymbolicValue::Constant(bias) if self.shape(bias) == [hidden] => Some(bias),
                _ => return unsupported("the bias is not a constant of one value for each channel"),
            },
            None => None,
        };
        let volume: usize = self.shape(number).iter().product();
        debug_assert_eq!(volume, inputs * hidden);
        let part =
            super::WeightSource { weights: number, scales, group: None, bias, outputs: hidden, transposed: true };
        if self.program.tokens != 0 {
            return unsupported("a second patch embedding");
        }
        let tokens = grid[0].saturating_mul(grid[1]);
        if tokens > PATCHES_MAX {
            return unsupported(format!("{tokens} patches, of at most {PATCHES_MAX}"));
        }
        self.program.tokens = tokens;
        let out = self.value(Rows::Tokens, hidden);
        let op = Op::PatchEmbedding { patches, weights: Weights::Unloaded(vec![part]), out: out.value };
        self.push(&node.output[0], op);
        Ok(SymbolicValue::PatchGrid(out))
    }

    fn dequantize(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let scales = input(node, 1)?;
        let scales = match (self.symbol(input(node, 0)?)?, self.symbol(scales)?) {
            (SymbolicValue::Constant(values), SymbolicValue::Constant(scales)) => (values, scales),
            (
                SymbolicValue::Constant(values),
                SymbolicValue::Dequantized { values: multiples, scales: units, axis, group: None },
            ) => (values, self.scales_of(scales, [multiples, units], axis)?),
            _ => return unsupported("integers or scales are not constant"),
        };
        let (values, scales) = scales;
        let group = int(node, "block_size").and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let data_type = self.file.graph.initializer[values].data_type;
        let right = if group.is_some() { INT4 } else { pb::tensor_proto::DataType::Int8 as i32 };
        if data_type != right {
            return unsupported("the integers are neither int8 nor groups of int4");
        }
        if let Some(name) = node.input.get(2).filter(|name| !name.is_empty()) {
            let SymbolicValue::Constant(zero) = self.symbol(name)? else {
                return unsupported("the zero point is not constant");
            };
            let (tensor, mut zeros) = (self.file.graph.initializer[zero].clone(), Vec::new());
            if group.is_some() {
                self.file.int4s(&tensor, &mut zeros)?;
            } else {
                self.file.int8s(&tensor, &mut zeros)?;
            }
            if zeros.iter().any(|zero| *zero != 0) {
                return unsupported("the weights have a zero point");
            }
        }
        Ok(SymbolicValue::Dequantized { values, scales, axis: int(node, "axis").unwrap_or(1), group })
    }

    /// Adds the scales called `name`, which are `multiples` of one unit for each index of `axis`, to the constants.
    fn scales_of(&mut self, name: &str, [multiples, units]: [usize; 2], axis: i64) -> Lowered<usize> {
        let [rows, columns] = self.shape(multiples)[..] else { return unsupported("the scales are not a matrix") };
        let (tensor, mut values) = (self.file.graph.initializer[multiples].clone(), Vec::new());
        self.file.int8s(&tensor, &mut values)?;
        let units = self.floats(units)?;
        let by_row = axis == 0;
        if units.len() != if by_row { rows } else { columns } || values.len() != rows.saturating_mul(columns) {
            return unsupported("there is not one unit for each row or column of the scales");
        }
        let unit = |index: usize| if by_row { units[index / columns] } else { units[index % columns] };
        let scale = |(index, multiple): (usize, &u8)| f32::from(multiple.cast_signed()) * unit(index);
        let raw_data = values.iter().enumerate().map(scale).flat_map(f32::to_le_bytes).collect();
        let data_type = pb::tensor_proto::DataType::Float.into();
        // No constant of the file has the name of a node's result.
        let (name, dims) = (name.to_owned(), tensor.dims);
        self.file.graph.initializer.push(pb::TensorProto { name, dims, data_type, raw_data, ..Default::default() });
        Ok(self.file.graph.initializer.len() - 1)
    }

    /// A linear layer, the scores of attention, or their product with the values.
    fn product(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let gemm = node.op_type == "Gemm";
        let (a, b) = (self.symbol(input(node, 0)?)?, self.symbol(input(node, 1)?)?);
        let transposed = gemm && int(node, "transB").is_some_and(|t| t != 0);
        let plain = !gemm || (int(node, "transA").unwrap_or(0) == 0 && float(node, "alpha", 1.0) == 1.0);
        if !plain || (gemm && float(node, "beta", 1.0) != 1.0) {
            return unsupported("a Gemm that scales or transposes its input");
        }
        match (a, b) {
            (
                SymbolicValue::Rows(_) | SymbolicValue::Function(..),
                weights @ (SymbolicValue::Constant(_) | SymbolicValue::Dequantized { .. }),
            ) => {
                let x = self.rows(input(node, 0)?, input(node, 0)?)?;
                let mut part = self.weight_source(&weights, x.width, transposed)?;
                if let Some(name) = node.input.get(2).filter(|name| gemm && !name.is_empty()) {
                    match self.symbol(name)? {
                        SymbolicValue::Constant(bias) if self.shape(bias) == [part.outputs] => part.bias = Some(bias),
                        _ => return unsupported("the bias is not a constant of one value for each channel"),
                    }
                }
                let out = self.value(self.rows_of(x), part.outputs);
                let weights = Weights::Unloaded(vec![part]);
                let op = Op::Linear { x, weights, activation: None, add: false, out: out.value };
                self.push(&node.output[0], op);
                Ok(SymbolicValue::Rows(out))
            }
            (
                SymbolicValue::Heads { view: query, heads, order: HeadAxes::HeadsTokens, scale },
                SymbolicValue::Heads { view: key, heads: same, order: HeadAxes::HeadsDim, scale: more },
            ) if heads == same && query.width == key.width && self.rows_of(key) == Rows::Tokens => {
                Ok(SymbolicValue::Scores {
                    query,
                    key,
                    heads,
                    scale: scale * more,
                    terms: Terms::default(),
                    softmax: false,
                })
            }
            (
                SymbolicValue::Scores { query, key, heads, scale, terms, softmax: true },
                SymbolicValue::Heads { view: value, heads: same, order: HeadAxes::HeadsTokens, scale: one },
            ) if heads == same && one == 1.0 && value.width == query.width && self.rows_of(value) == Rows::Tokens => {
                let out = self.value(self.rows_of(query), value.width);
                let op =
                    Op::Attention(Attention { query, key, value, heads, scale, terms, int8: false, out: out.value });
                self.push(&node.output[0], op);
                Ok(SymbolicValue::Heads { view: out, heads, order: HeadAxes::HeadsTokens, scale: 1.0 })
            }
            (SymbolicValue::OneHot(pooling), SymbolicValue::Rows(x)) if self.rows_of(x) == Rows::Tokens => {
                self.pool(x, pooling, &node.output[0])
            }
            _ => unsupported("a product that is neither a linear layer nor attention"),
        }
    }

    fn layer_norm(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let x = self.rows(input(node, 0)?, input(node, 0)?)?;
        if !matches!(int(node, "axis").unwrap_or(-1), -1 | 2) {
            return unsupported("layer norm over another axis than the last");
        }
        let mut vector = |name: Option<&String>, absent: f32| match name.filter(|name| !name.is_empty()) {
            None => Ok(vec![absent; x.width]),
            Some(name) => match self.symbol(name)? {
                SymbolicValue::Constant(number) if self.shape(number) == [x.width] => self.floats(number),
                _ => unsupported("scale or bias is not a constant of one value for each column"),
            },
        };
        let (gamma, beta) = (vector(node.input.get(1), 1.0)?, vector(node.input.get(2), 0.0)?);
        let out = self.value(self.rows_of(x), x.width);
        let epsilon = float(node, "epsilon", 1e-5);
        self.push(&node.output[0], Op::LayerNorm { x, gamma, beta, epsilon, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    fn softmax(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::Scores { query, key, heads, scale, terms, softmax: false }
                if matches!(int(node, "axis").unwrap_or(-1), -1 | 3) =>
            {
                Ok(SymbolicValue::Scores { query, key, heads, scale, terms, softmax: true })
            }
            _ => unsupported("softmax of something else than the scores of attention"),
        }
    }

    fn norms(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let x = self.rows(input(node, 0)?, input(node, 0)?)?;
        let axes = match node.input.get(1) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        let last = matches!(axes[..], [-1 | 1]);
        if !last || int(node, "keepdims").unwrap_or(1) != 1 || self.rows_of(x) != Rows::One {
            return unsupported("norms of something else than an embedding");
        }
        Ok(SymbolicValue::Norms(x))
    }
}
