//! Convolutions, pooling, batch norms and elementwise operators.

use tract_onnx::pb;

use super::{Lowering, Symbol};
use crate::fused::attributes::{float, input, int, ints, text};
use crate::fused::cnn::program::{Op, Shape, Source, Weights, Window};
use crate::fused::function::Function;
use crate::fused::unsupported::{Lowered, unsupported};

impl Lowering<'_, '_> {
    /// Determines the meaning of the node's output.
    pub(super) fn node(&mut self, node: &pb::NodeProto) -> Lowered<()> {
        let Some(output) = node.output.first() else { return unsupported("expected one output") };
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return unsupported(format!("operators of the domain {} are not supported", node.domain));
        }
        if let Some(small) = self.constant(node) {
            self.symbols.insert(output.clone(), Symbol::Small(small));
            return Ok(());
        }
        let symbol = match node.op_type.as_str() {
            "Conv" => self.convolution(node)?,
            "DequantizeLinear" => self.dequantize(node)?,
            "BatchNormalization" => self.batch_norm(node)?,
            "MaxPool" | "AveragePool" => self.pool(node)?,
            "GlobalAveragePool" => self.mean(node, false)?,
            "ReduceMean" => self.reduce_mean(node)?,
            "MatMul" | "Gemm" => self.product(node)?,
            "Flatten" => self.reordered(node, true)?,
            "Reshape" => self.reshape(node)?,
            "Squeeze" => self.reordered(node, true)?,
            "Unsqueeze" => self.reordered(node, false)?,
            "Pad" => self.pad(node)?,
            // Weights that are stored as 16-bit floats.
            "Cast" if int(node, "to") == Some(1) && matches!(self.symbol(input(node, 0)?)?, Symbol::Constant(_)) => {
                self.symbol(input(node, 0)?)?
            }
            "Identity" | "Dropout" => self.symbol(input(node, 0)?)?,
            "Clip" => self.clip(node)?,
            op if Function::binary(op).is_some() => self.binary(node)?,
            _ if Function::identity().of_node(node).is_some() => {
                self.applied(node, |function| function.of_node(node))?
            }
            _ => return unsupported("the operator is not supported"),
        };
        self.symbols.insert(output.clone(), symbol);
        Ok(())
    }

    fn applied(&self, node: &pb::NodeProto, f: impl Fn(Function) -> Option<Function>) -> Lowered<Symbol> {
        let (map, flat, function) = self.function(input(node, 0)?)?;
        match f(function) {
            Some(function) => Ok(Symbol::Function { map, flat, function }),
            None => unsupported("not a function of one value"),
        }
    }

    /// A function between two constant bounds, either of which may be missing.
    fn clip(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let mut bounds =
            [f64::from(float(node, "min", f32::NEG_INFINITY)), f64::from(float(node, "max", f32::INFINITY))];
        for (bound, index) in bounds.iter_mut().zip(1..) {
            if let Some(name) = node.input.get(index).filter(|name| !name.is_empty()) {
                let Some(value) = self.scalar(name)? else { return unsupported("the bounds are not constant") };
                *bound = f64::from(value);
            }
        }
        let [low, high] = bounds;
        // Not `clamp`, which panics if the bounds are exchanged; ONNX then returns the upper one.
        self.applied(node, |function| Some(function.then(|x| x.max(low).min(high))))
    }

    fn dequantize(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let constants = [input(node, 0)?, input(node, 1)?].map(|name| self.symbol(name));
        let [Ok(Symbol::Constant(values)), Ok(Symbol::Constant(scales))] = constants else {
            return unsupported("the integers or scales are not constant");
        };
        if node.input.len() > 2 || int(node, "block_size").is_some_and(|size| size != 0) {
            return unsupported("zero points and blocks are not supported");
        }
        Ok(Symbol::Dequantized { values, scales, axis: int(node, "axis").unwrap_or(1) })
    }

    /// The weights called `name`, with their shape and the axis of the output channels.
    pub(super) fn weights(&self, name: &str, outputs_axis: usize) -> Lowered<(Source, Vec<usize>)> {
        let (weights, scales, axis) = match self.symbol(name)? {
            Symbol::Constant(number) => (number, None, 0),
            Symbol::Dequantized { values, scales, axis } => (values, Some(scales), axis),
            _ => return unsupported("the weights are not constant"),
        };
        let dims = self.dims(weights);
        let outputs = dims.get(outputs_axis).copied().unwrap_or(0);
        if let Some(scales) = scales {
            let count: usize = self.dims(scales).iter().product();
            let along = if axis < 0 { axis + dims.len() as i64 } else { axis };
            if count != 1 && (count != outputs || usize::try_from(along) != Ok(outputs_axis)) {
                return unsupported("the scales are not per output channel");
            }
        }
        let source = Source { weights, scales, bias: None, outputs_last: outputs_axis == 1, affine: None };
        Ok((source, dims))
    }

    /// The index of a constant with one value for each of `channels` channels.
    pub(super) fn bias(&self, node: &pb::NodeProto, channels: usize) -> Lowered<Option<usize>> {
        let Some(name) = node.input.get(2).filter(|name| !name.is_empty()) else { return Ok(None) };
        match self.symbol(name)? {
            Symbol::Constant(number) if self.dims(number).iter().product::<usize>() == channels => Ok(Some(number)),
            _ => unsupported("the bias is not constant, or not one value for each channel"),
        }
    }

    fn convolution(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let (map, around) = self.padded(input(node, 0)?)?;
        let (mut source, dims) = self.weights(input(node, 1)?, 0)?;
        let [outputs, per_group, height, width] = dims[..] else {
            return unsupported("the weights do not have four axes");
        };
        let shape = self.shape(map);
        let groups = int(node, "group").unwrap_or(1);
        let depthwise = groups != 1;
        if depthwise && (usize::try_from(groups) != Ok(shape.channels) || per_group != 1 || outputs != shape.channels) {
            return unsupported("a convolution of groups of channels");
        }
        if !depthwise && per_group != shape.channels {
            return unsupported(format!("the weights take {per_group} channels, the map has {}", shape.channels));
        }
        source.bias = self.bias(node, outputs)?;
        let (window, [height, width]) = window(node, [height, width], shape, around)?;
        let op = Op::Convolution { window, depthwise, weights: Weights::Unloaded(source) };
        let out = self.push(&node.output[0], op, map, None, Shape { height, width, channels: outputs })?;
        Ok(Symbol::Map { map: out, flat: false })
    }

    fn pool(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let map = self.map(input(node, 0)?, input(node, 0)?)?;
        let Some([height, width]) = ints(node, "kernel_shape").and_then(|kernel| <[i64; 2]>::try_from(kernel).ok())
        else {
            return unsupported("the size of the window is missing");
        };
        let kernel = [height, width].map(|extent| usize::try_from(extent).unwrap_or(0));
        if int(node, "ceil_mode").unwrap_or(0) != 0 || kernel.contains(&0) {
            return unsupported("windows that are not whole");
        }
        let shape = self.shape(map);
        let (window, [height, width]) = window(node, kernel, shape, [0; 4])?;
        let largest = node.op_type == "MaxPool";
        let op = Op::Pool { window, largest, padded: int(node, "count_include_pad").unwrap_or(0) != 0 };
        let out = self.push(&node.output[0], op, map, None, Shape { height, width, ..shape })?;
        Ok(Symbol::Map { map: out, flat: false })
    }

    fn batch_norm(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        if int(node, "training_mode").unwrap_or(0) != 0 {
            return unsupported("a batch norm that is being trained");
        }
        let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|index| {
            let name = input(node, index)?;
            self.floats(name)
        });
        let epsilon = float(node, "epsilon", 1e-5);
        let factors: Vec<f32> = gamma?.iter().zip(variance?).map(|(gamma, v)| gamma / (v + epsilon).sqrt()).collect();
        let means = mean?;
        let terms = beta?.iter().zip(means).zip(&factors).map(|((beta, mean), factor)| beta - mean * factor).collect();
        self.affine(input(node, 0)?, factors, terms, &node.output[0])
    }

    /// Each channel of the map `name` times a factor, plus a term.
    fn affine(&mut self, name: &str, factors: Vec<f32>, terms: Vec<f32>, step: &str) -> Lowered<Symbol> {
        let (map, (_, flat, _)) = (self.map(name, name)?, self.function(name)?);
        let shape = self.shape(map);
        if factors.len() != shape.channels || terms.len() != shape.channels {
            return unsupported(format!("{} factors for {} channels", factors.len(), shape.channels));
        }
        let out = self.push(step, Op::Affine { factors, terms }, map, None, shape)?;
        Ok(Symbol::Map { map: out, flat })
    }

    /// Sums, differences, products and quotients.
    fn binary(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let (left, right) = (input(node, 0)?, input(node, 1)?);
        let op = node.op_type.as_str();
        let Some(f) = Function::binary(op) else { return unsupported("not an operator of two values") };
        if let Some(y) = self.scalar(right)? {
            return self.applied(node, |function| Some(function.then(|x| f(x, f64::from(y)))));
        }
        if let Some(x) = self.scalar(left)? {
            let (map, flat, function) = self.function(right)?;
            return Ok(Symbol::Function { map, flat, function: function.then(|y| f(f64::from(x), y)) });
        }
        match [self.symbol(left)?, self.symbol(right)?] {
            [_, Symbol::Constant(_)] => self.with_constant(node, left, right),
            [Symbol::Constant(_), _] if matches!(op, "Add" | "Mul") => self.with_constant(node, right, left),
            _ => self.with_map(node, f),
        }
    }

    fn with_constant(&mut self, node: &pb::NodeProto, name: &str, constant: &str) -> Lowered<Symbol> {
        let Symbol::Constant(number) = self.symbol(constant)? else { return unsupported("not a constant") };
        let (map, flat, _) = self.function(name)?;
        let channels = self.shape(map).channels;
        let dims = self.dims(number);
        let leading = dims.iter().take_while(|dim| **dim == 1).count();
        let expected: &[usize] = if flat { &[channels] } else { &[channels, 1, 1] };
        if dims[leading..] != *expected {
            return unsupported(format!("a constant of shape {dims:?} for a map of {channels} channels"));
        }
        let values = self.floats(constant)?;
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let (factors, terms) = match node.op_type.as_str() {
            "Add" => (ones, values),
            "Sub" => (ones, values.iter().map(|v| -v).collect()),
            "Mul" => (values, zeros),
            "Div" => (values.iter().map(|v| 1.0 / v).collect(), zeros),
            _ => return unsupported("an operator of a map and constants of its channels"),
        };
        self.affine(name, factors, terms, &node.output[0])
    }

    fn with_map(&mut self, node: &pb::NodeProto, f: fn(f64, f64) -> f64) -> Lowered<Symbol> {
        let (left, right) = (input(node, 0)?, input(node, 1)?);
        let ((a, flat, first), (b, other_flat, second)) = (self.function(left)?, self.function(right)?);
        if a == b && flat == other_flat {
            return Ok(Symbol::Function { map: a, flat, function: first.with(second, f) });
        }
        let (a, b) = (self.map(left, left)?, self.map(right, right)?);
        let (x, y) = (self.shape(a), self.shape(b));
        let step = &node.output[0];
        match node.op_type.as_str() {
            "Add" if x == y && flat == other_flat => {
                let map = self.push(step, Op::Copy, a, Some(b), x)?;
                Ok(Symbol::Map { map, flat })
            }
            "Mul" if x.channels == y.channels && flat == other_flat && (x.is_vector() || y.is_vector()) => {
                let (map, by) = if y.is_vector() { (a, b) } else { (b, a) };
                let out = self.push(step, Op::Scale { by }, map, None, self.shape(map))?;
                Ok(Symbol::Map { map: out, flat })
            }
            _ => unsupported(format!("two maps of {x:?} and {y:?}")),
        }
    }

    fn pad(&mut self, node: &pb::NodeProto) -> Lowered<Symbol> {
        let map = self.map(input(node, 0)?, input(node, 0)?)?;
        let zeros = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => self.scalar(name)? == Some(0.0),
            None => true,
        };
        if !zeros || text(node, "mode").is_some_and(|mode| mode != "constant") || node.input.len() > 3 {
            return unsupported("other than zeros around a map");
        }
        let pads = self.ints(input(node, 1)?)?;
        let pads: Vec<usize> = pads.iter().filter_map(|pad| usize::try_from(*pad).ok()).collect();
        let [0, 0, top, left, 0, 0, bottom, right] = pads[..] else {
            return unsupported("padding of other than rows and columns");
        };
        Ok(Symbol::Padded { map, pads: [top, left, bottom, right] })
    }

    fn padded(&mut self, name: &str) -> Lowered<(usize, [usize; 4])> {
        match self.symbol(name)? {
            Symbol::Padded { map, pads } => Ok((map, pads)),
            _ => Ok((self.map(name, name)?, [0; 4])),
        }
    }
}

/// The window of a convolution or pooling over a map with zeros around it (above, left, below, right), and the number of
/// rows and columns of results.
fn window(node: &pb::NodeProto, kernel: [usize; 2], map: Shape, around: [usize; 4]) -> Lowered<(Window, [usize; 2])> {
    let values = |name: &str, absent: usize| -> Lowered<Vec<usize>> {
        let given = ints(node, name).unwrap_or_default();
        let found: Vec<usize> = given.iter().filter_map(|value| usize::try_from(*value).ok()).collect();
        match given.len() {
            0 => Ok(vec![absent; 4]),
            count if found.len() == count && found.iter().all(|value| *value < 1 << 16) => Ok(found),
            _ => unsupported(format!("{name} {given:?}")),
        }
    };
    let ([strides, dilations], pads) = ([values("strides", 1)?, values("dilations", 1)?], values("pads", 0)?);
    let (Some(&[rows, columns]), true) = (strides.first_chunk(), dilations.iter().all(|dilation| *dilation == 1))
    else {
        return unsupported("a convolution with gaps");
    };
    let mut pads: [usize; 4] = match pads.try_into() {
        Ok(pads) => pads,
        Err(_) => return unsupported("padding of other than rows and columns"),
    };
    let extent = [map.height, map.width];
    let stride = [rows, columns];
    if stride.contains(&0) || kernel.contains(&0) {
        return unsupported("an empty window, or a stride of 0");
    }
    match text(node, "auto_pad") {
        None | Some("" | "NOTSET") => {}
        Some("VALID") => pads = [0; 4],
        Some(same @ ("SAME_UPPER" | "SAME_LOWER")) => {
            for axis in 0..2 {
                let results = extent[axis].div_ceil(stride[axis]);
                let missing = ((results - 1) * stride[axis] + kernel[axis]).saturating_sub(extent[axis]);
                let (less, more) = (missing / 2, missing.div_ceil(2));
                (pads[axis], pads[axis + 2]) = if same == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        Some(other) => return unsupported(format!("padding {other}")),
    }
    for (pad, more) in pads.iter_mut().zip(around) {
        *pad += more;
    }
    let mut results = [0; 2];
    for axis in 0..2 {
        let Some(room) = (extent[axis] + pads[axis] + pads[axis + 2]).checked_sub(kernel[axis]) else {
            return unsupported("a window that is larger than the map");
        };
        results[axis] = room / stride[axis] + 1;
    }
    // A window beyond the map would have no value to pool.
    if pads.iter().zip(kernel.iter().cycle()).any(|(pad, extent)| pad >= extent) {
        return unsupported("windows that lie outside of the map");
    }
    Ok((Window { kernel, stride, before: [pads[0], pads[1]] }, results))
}
