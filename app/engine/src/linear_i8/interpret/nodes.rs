//! What each ONNX operator makes of the meanings of its inputs.

use std::sync::Arc;

use tract_onnx::pb;

use super::function::{gelu, gelu_tanh};
use super::{
    Function, Index, Inputs, Interpreter, Known, Meaning, Order, Patches, Rows, ScoreBias, Table, Terms, View, Weights,
    unknown,
};
use crate::linear_i8::file::INT4;
use crate::linear_i8::program::{Attention, Op};

impl Interpreter<'_, '_> {
    /// Gives the node's output its meaning.
    pub(super) fn node(&mut self, node: &pb::NodeProto) -> Known<()> {
        let [output] = &node.output[..] else { return unknown("expected one output") };
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return unknown(format!("operators of the domain {} are not known", node.domain));
        }
        let meaning = match node.op_type.as_str() {
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
            "ArgMax" => self.place(node)?,
            "Equal" => self.equal(node)?,
            "Identity" => self.meaning(input(node, 0)?)?,
            "Cast" => self.cast(node)?,
            "Shape" => self.length(node)?,
            "Squeeze" | "Unsqueeze" => self.axes(node)?,
            "Gelu" => {
                let tanh = text(node, "approximate") == Some("tanh");
                let (x, function) = self.function(input(node, 0)?, output)?;
                Meaning::Function(x, function.then(if tanh { gelu_tanh } else { gelu }))
            }
            op if Function::binary(op).is_some() => self.binary(node)?,
            op if Function::identity().unary(op).is_some() => {
                let (x, function) = self.function(input(node, 0)?, output)?;
                let Some(function) = function.unary(op) else { return unknown("not a function of one value") };
                Meaning::Function(x, function)
            }
            _ => return unknown("the operator is not known here"),
        };
        self.meanings.insert(output.clone(), meaning);
        Ok(())
    }

    /// `name` as a function of rows.
    fn function(&mut self, name: &str, step: &str) -> Known<(View, Function)> {
        match self.meaning(name)? {
            Meaning::Function(x, function) => Ok((x, function)),
            _ => Ok((self.rows(name, step)?, Function::identity())),
        }
    }

    fn patch_embedding(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let Inputs::Pixels([height, width]) = self.inputs else { return unknown("a convolution of text") };
        if !matches!(self.meaning(input(node, 0)?)?, Meaning::Pixels) {
            return unknown("a convolution of something else than pixels");
        }
        let weights = self.meaning(input(node, 1)?)?;
        let number = match &weights {
            Meaning::Constant(number) => *number,
            Meaning::Dequantized { values, axis: 0, group: None, .. } => *values,
            _ => return unknown("the weights are not constant"),
        };
        let [hidden, channels, patch_height, patch_width] = self.shape(number)[..] else {
            return unknown("the weights do not have four axes");
        };
        let step = [patch_height as i64, patch_width as i64];
        let all = |name: &str, value: i64| ints(node, name).is_none_or(|values| values.iter().all(|v| *v == value));
        let strides = ints(node, "strides").is_some_and(|strides| strides == step);
        let plain = all("pads", 0) && all("dilations", 1) && int(node, "group").is_none_or(|group| group == 1);
        let padded = text(node, "auto_pad").is_some_and(|pad| pad != "NOTSET" && pad != "VALID");
        let grid = [height / patch_height.max(1), width / patch_width.max(1)];
        if !strides || !plain || padded || patch_height == 0 || patch_width == 0 {
            return unknown("a convolution whose step is not its size");
        }
        if channels != 3 || grid.contains(&0) || hidden == 0 {
            return unknown("a patch embedding of something else than RGB pictures");
        }
        let patches = Patches { channels, patch: [patch_height, patch_width], grid, lead: 0 };
        let inputs = channels * patch_height * patch_width;
        let scales = match weights {
            Meaning::Dequantized { scales, .. } => Some(scales),
            _ => None,
        };
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => match self.meaning(name)? {
                Meaning::Constant(bias) if self.shape(bias) == [hidden] => Some(bias),
                _ => return unknown("the bias is not a constant of one value for each channel"),
            },
            None => None,
        };
        let volume: usize = self.shape(number).iter().product();
        debug_assert_eq!(volume, inputs * hidden);
        let part = super::Part { weights: number, scales, group: None, bias, outputs: hidden, transposed: true };
        if self.program.tokens != 0 {
            return unknown("a second patch embedding");
        }
        self.program.tokens = grid[0] * grid[1];
        let out = self.value(Rows::Tokens, hidden);
        let op = Op::PatchEmbedding { patches, weights: Weights::Parts(vec![part]), out: out.value };
        self.push(&node.output[0], op);
        Ok(Meaning::PatchGrid(out))
    }

    fn dequantize(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let (Meaning::Constant(values), Meaning::Constant(scales)) =
            (self.meaning(input(node, 0)?)?, self.meaning(input(node, 1)?)?)
        else {
            return unknown("integers or scales are not constant");
        };
        let group = int(node, "block_size").and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let data_type = self.file.graph.initializer[values].data_type;
        let right = if group.is_some() { INT4 } else { pb::tensor_proto::DataType::Int8 as i32 };
        if data_type != right {
            return unknown("the integers are neither signed bytes nor groups of signed integers of 4 bits");
        }
        if let Some(name) = node.input.get(2).filter(|name| !name.is_empty()) {
            let Meaning::Constant(zero) = self.meaning(name)? else { return unknown("the zero point is not constant") };
            let (tensor, mut zeros) = (self.file.graph.initializer[zero].clone(), Vec::new());
            if group.is_some() {
                self.file.int4s(&tensor, &mut zeros)?;
            } else {
                self.file.int8s(&tensor, &mut zeros)?;
            }
            if zeros.iter().any(|zero| *zero != 0) {
                return unknown("the weights have a zero point");
            }
        }
        Ok(Meaning::Dequantized { values, scales, axis: int(node, "axis").unwrap_or(1), group })
    }

    /// A linear layer, the scores of attention, or its result.
    fn product(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let gemm = node.op_type == "Gemm";
        let (a, b) = (self.meaning(input(node, 0)?)?, self.meaning(input(node, 1)?)?);
        let transposed = gemm && int(node, "transB").is_some_and(|t| t != 0);
        let plain = !gemm || (int(node, "transA").unwrap_or(0) == 0 && float(node, "alpha", 1.0) == 1.0);
        if !plain || (gemm && float(node, "beta", 1.0) != 1.0) {
            return unknown("a Gemm that scales or transposes its rows");
        }
        match (a, b) {
            (
                Meaning::Rows(_) | Meaning::Function(..),
                weights @ (Meaning::Constant(_) | Meaning::Dequantized { .. }),
            ) => {
                let x = self.rows(input(node, 0)?, input(node, 0)?)?;
                let mut part = self.part(&weights, x.width, transposed)?;
                if let Some(name) = node.input.get(2).filter(|name| gemm && !name.is_empty()) {
                    match self.meaning(name)? {
                        Meaning::Constant(bias) if self.shape(bias) == [part.outputs] => part.bias = Some(bias),
                        _ => return unknown("the bias is not a constant of one value for each channel"),
                    }
                }
                let out = self.value(self.rows_of(x), part.outputs);
                let weights = Weights::Parts(vec![part]);
                let op = Op::Linear { x, weights, activation: None, add: false, out: out.value };
                self.push(&node.output[0], op);
                Ok(Meaning::Rows(out))
            }
            (
                Meaning::Heads { view: query, heads, order: Order::HeadsTokens, scale },
                Meaning::Heads { view: key, heads: same, order: Order::HeadsDim, scale: more },
            ) if heads == same && query.width == key.width && self.rows_of(key) == Rows::Tokens => {
                Ok(Meaning::Scores { query, key, heads, scale: scale * more, terms: Terms::default(), softmax: false })
            }
            (
                Meaning::Scores { query, key, heads, scale, terms, softmax: true },
                Meaning::Heads { view: value, heads: same, order: Order::HeadsTokens, scale: one },
            ) if heads == same && one == 1.0 && value.width == query.width && self.rows_of(value) == Rows::Tokens => {
                let out = self.value(self.rows_of(query), value.width);
                let op =
                    Op::Attention(Attention { query, key, value, heads, scale, terms, int8: false, out: out.value });
                self.push(&node.output[0], op);
                Ok(Meaning::Heads { view: out, heads, order: Order::HeadsTokens, scale: 1.0 })
            }
            (Meaning::OneHot(pooling), Meaning::Rows(x)) if self.rows_of(x) == Rows::Tokens => {
                self.pool(x, pooling, &node.output[0])
            }
            _ => unknown("a product of something else than rows and weights, or the parts of attention"),
        }
    }

    fn layer_norm(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let x = self.rows(input(node, 0)?, input(node, 0)?)?;
        if !matches!(int(node, "axis").unwrap_or(-1), -1 | 2) {
            return unknown("layer norm over another axis than the last");
        }
        let mut vector = |name: Option<&String>, absent: f32| match name.filter(|name| !name.is_empty()) {
            None => Ok(vec![absent; x.width]),
            Some(name) => match self.meaning(name)? {
                Meaning::Constant(number) if self.shape(number) == [x.width] => self.floats(number),
                _ => unknown("scale or bias is not a constant of one value for each column"),
            },
        };
        let (gamma, beta) = (vector(node.input.get(1), 1.0)?, vector(node.input.get(2), 0.0)?);
        let out = self.value(self.rows_of(x), x.width);
        let epsilon = float(node, "epsilon", 1e-5);
        self.push(&node.output[0], Op::LayerNorm { x, gamma, beta, epsilon, out: out.value });
        Ok(Meaning::Rows(out))
    }

    fn softmax(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        match self.meaning(input(node, 0)?)? {
            Meaning::Scores { query, key, heads, scale, terms, softmax: false }
                if matches!(int(node, "axis").unwrap_or(-1), -1 | 3) =>
            {
                Ok(Meaning::Scores { query, key, heads, scale, terms, softmax: true })
            }
            _ => unknown("softmax of something else than the scores of attention"),
        }
    }

    /// The last row of a table is the largest index.
    fn bound(&mut self, index: Index, count: usize) -> Known<()> {
        let most = match index {
            Index::Ids => &mut self.program.ids_max,
            Index::Types => &mut self.program.types_max,
            Index::Positions => &mut self.program.positions_max,
            Index::Places => return unknown("positions are looked up twice"),
        };
        *most = (*most).min(count.saturating_sub(1));
        Ok(())
    }

    /// Rows of a table of 4 bits, in groups along its rows.
    fn int4_rows(&mut self, values: usize, scales: usize, group: usize, index: Index, step: &str) -> Known<Meaning> {
        let [count, width] = self.shape(values)[..] else { return unknown("the table is not a matrix") };
        if self.shape(scales) != [count, width.div_ceil(group)] {
            return unknown("the table does not have one scale for each group of a row");
        }
        self.bound(index, count)?;
        let (tensor, mut bytes) = (self.file.graph.initializer[values].clone(), Vec::new());
        self.file.int4s(&tensor, &mut bytes)?;
        let table = Arc::new(Table::I4 { values: bytes, scales: self.floats(scales)?, group });
        let out = self.value(Rows::Tokens, width);
        self.push(step, Op::Lookup { table, index, out: out.value });
        Ok(Meaning::Rows(out))
    }

    /// Rows of an embedding, or token 0.
    fn gather(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let axis = int(node, "axis").unwrap_or(0);
        match (self.meaning(input(node, 0)?)?, self.meaning(input(node, 1)?)?) {
            (Meaning::Constant(table), Meaning::Index(index)) if axis == 0 => {
                let [count, width] = self.shape(table)[..] else { return unknown("the table is not a matrix") };
                self.bound(index, count)?;
                if self.file.graph.initializer[table].data_type == pb::tensor_proto::DataType::Int8 as i32 {
                    return Ok(Meaning::IntegerRows { table, index });
                }
                if width == 1 {
                    return Ok(Meaning::ScaleRows { table, index });
                }
                let table = Arc::new(Table::F32(self.floats(table)?));
                let out = self.value(Rows::Tokens, width);
                self.push(&node.output[0], Op::Lookup { table, index, out: out.value });
                Ok(Meaning::Rows(out))
            }
            (Meaning::Dequantized { values, scales, axis: 1 | -1, group: Some(group) }, Meaning::Index(index))
                if axis == 0 =>
            {
                self.int4_rows(values, scales, group, index, &node.output[0])
            }
            (Meaning::Rows(_) | Meaning::Function(..), Meaning::Constant(_)) if axis == 1 => {
                if self.ints(input(node, 1)?)? != [0] {
                    return unknown("tokens other than the first are chosen");
                }
                self.first(input(node, 0)?, &node.output[0])
            }
            _ => unknown("rows of something else than a constant table"),
        }
    }

    pub(super) fn first(&mut self, name: &str, step: &str) -> Known<Meaning> {
        let x = self.rows(name, step)?;
        if self.rows_of(x) == Rows::One {
            return Ok(Meaning::Rows(x));
        }
        let out = self.value(Rows::One, x.width);
        self.push(step, Op::First { x, out: out.value });
        Ok(Meaning::Rows(out))
    }

    fn reshape(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let shape = self.ints(input(node, 1)?)?;
        match self.meaning(input(node, 0)?)? {
            Meaning::PatchGrid(view)
                if shape.len() == 3
                    && (shape[2] == -1 || keeps(shape[2], self.program.tokens))
                    && keeps(shape[1], view.width) =>
            {
                Ok(Meaning::PatchColumns(view))
            }
            Meaning::Constant(number) if shape.len() == 4 => {
                // A query that is the same for every picture.
                let [1, 1, width] = self.shape(number)[..] else { return unknown("a constant is reshaped") };
                let (row, out) = (self.floats(number)?, self.value(Rows::One, width));
                self.push(&node.output[0], Op::Constant { row, out: out.value });
                heads(out, &shape)
            }
            Meaning::Rows(view) if shape.len() == 4 => heads(view, &shape),
            Meaning::Heads { view, order: Order::TokensHeads, scale: 1.0, .. }
                if shape.len() == 3 && (shape[2] == -1 || keeps(shape[2], view.width)) =>
            {
                Ok(Meaning::Rows(view))
            }
            // One axis for batch and heads, and back.
            Meaning::Heads { view, heads, order: order @ (Order::HeadsTokens | Order::HeadsDim), scale } => {
                let tokens = if self.rows_of(view) == Rows::One { 1 } else { self.program.tokens };
                let fits = |extent: i64, old: usize| extent == -1 || usize::try_from(extent) == Ok(old);
                let dim = view.width / heads;
                let inner = if order == Order::HeadsTokens { [tokens, dim] } else { [dim, tokens] };
                let same = match shape[..] {
                    [all, a, b] => fits(all, heads) && fits(a, inner[0]) && fits(b, inner[1]),
                    [batch, n, a, b] => fits(batch, 1) && fits(n, heads) && fits(a, inner[0]) && fits(b, inner[1]),
                    _ => false,
                };
                if !same || matches!(self.inputs, Inputs::Tokens { .. }) {
                    return unknown(format!("heads reshaped to {shape:?}"));
                }
                Ok(Meaning::Heads { view, heads, order, scale })
            }
            _ => unknown(format!("a reshape to {shape:?}")),
        }
    }

    fn transpose(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let perm = ints(node, "perm").unwrap_or_default();
        match (self.meaning(input(node, 0)?)?, perm) {
            (Meaning::PatchColumns(view), [0, 2, 1]) => Ok(Meaning::Rows(view)),
            (Meaning::Heads { view, heads, order, scale }, perm) => {
                let order = match (order, perm) {
                    (Order::TokensHeads, [0, 2, 1, 3]) | (Order::HeadsDim, [0, 1, 3, 2] | [0, 2, 1]) => {
                        Order::HeadsTokens
                    }
                    (Order::TokensHeads, [0, 2, 3, 1]) | (Order::HeadsTokens, [0, 1, 3, 2] | [0, 2, 1]) => {
                        Order::HeadsDim
                    }
                    (Order::HeadsTokens, [0, 2, 1, 3]) => Order::TokensHeads,
                    _ => return unknown(format!("heads transposed by {perm:?}")),
                };
                Ok(Meaning::Heads { view, heads, order, scale })
            }
            (_, perm) => unknown(format!("a transposition by {perm:?}")),
        }
    }

    fn norms(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let x = self.rows(input(node, 0)?, input(node, 0)?)?;
        let axes = match node.input.get(1) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        let last = matches!(axes[..], [-1 | 1]);
        if !last || int(node, "keepdims").unwrap_or(1) != 1 || self.rows_of(x) != Rows::One {
            return unknown("norms of something else than an embedding");
        }
        Ok(Meaning::Norms(x))
    }

    fn cast(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let float = int(node, "to") == Some(pb::tensor_proto::DataType::Float as i64);
        match self.meaning(input(node, 0)?)? {
            meaning @ (Meaning::Mask | Meaning::IntegerRows { .. } | Meaning::Rows(_) | Meaning::OneHot(_))
                if float =>
            {
                Ok(meaning)
            }
            // As a number of any type.
            Meaning::IsId(id) => Ok(Meaning::IsId(id)),
            _ => unknown("a conversion of something else than the mask or rows"),
        }
    }

    fn length(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let tokens_axis = int(node, "start") == Some(1) && int(node, "end") == Some(2);
        match self.meaning(input(node, 0)?)? {
            Meaning::Index(_) | Meaning::Mask if tokens_axis => Ok(Meaning::Length),
            _ => unknown("the shape of something else than the ids' tokens"),
        }
    }

    /// Axes of extent 1 come and go.
    fn axes(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let axes = match node.input.get(1) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        match self.meaning(input(node, 0)?)? {
            Meaning::Rows(view) if self.rows_of(view) == Rows::One && axes == [1] => Ok(Meaning::Rows(view)),
            meaning @ (Meaning::Mask | Meaning::AdditiveMask | Meaning::Padding)
                if node.op_type == "Unsqueeze" && matches!(axes[..], [1, 2] | [1] | [2]) =>
            {
                Ok(meaning)
            }
            meaning @ Meaning::OneHot(_) if node.op_type == "Unsqueeze" && axes == [1] => Ok(meaning),
            _ => unknown("an axis is added to, or taken from, something else than one row or the mask"),
        }
    }

    /// Sums, differences, products and quotients.
    fn binary(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let (left, right) = (input(node, 0)?, input(node, 1)?);
        let (a, b) = (self.meaning(left)?, self.meaning(right)?);
        let op = node.op_type.as_str();
        let Some(f) = Function::binary(op) else { return unknown("not an operator of two values") };
        let (x, y) = (self.scalar(&a)?, self.scalar(&b)?);
        match (op, &a, &b, x, y) {
            ("Mul" | "Div", meaning, _, _, Some(factor)) if scalable(meaning) => {
                Ok(scaled(a, f(1.0, f64::from(factor)) as f32))
            }
            ("Mul", _, meaning, Some(factor), _) if scalable(meaning) => Ok(scaled(b, factor)),
            ("Add", Meaning::Scores { softmax: false, .. }, ..) => self.add_to_scores(a, &b),
            ("Add", _, Meaning::Scores { softmax: false, .. }, ..) => self.add_to_scores(b, &a),
            ("Sub", _, Meaning::Mask, Some(1.0), _) => Ok(Meaning::Padding),
            ("Mul", Meaning::Padding, _, _, Some(factor)) if factor < -1e4 => Ok(Meaning::AdditiveMask),
            ("Mul", _, Meaning::Padding, Some(factor), _) if factor < -1e4 => Ok(Meaning::AdditiveMask),
            ("Mul", Meaning::IntegerRows { table, index }, Meaning::ScaleRows { table: scales, index: same }, ..)
            | ("Mul", Meaning::ScaleRows { table: scales, index: same }, Meaning::IntegerRows { table, index }, ..)
                if index == same =>
            {
                self.integer_rows(*table, *scales, *index, &node.output[0])
            }
            ("Div", Meaning::Rows(x), Meaning::Norms(of), ..) if x == of => {
                let (x, out) = (*x, self.value(Rows::One, x.width));
                self.push(&node.output[0], Op::Normalize { x, out: out.value });
                Ok(Meaning::Rows(out))
            }
            (_, Meaning::Rows(_) | Meaning::Function(..), _, _, Some(y)) => {
                let (view, function) = self.function(left, left)?;
                Ok(Meaning::Function(view, function.then(|x| f(x, f64::from(y)))))
            }
            (_, _, Meaning::Rows(_) | Meaning::Function(..), Some(x), _) => {
                let (view, function) = self.function(right, right)?;
                Ok(Meaning::Function(view, function.then(|y| f(f64::from(x), y))))
            }
            ("Add", Meaning::Rows(_) | Meaning::Function(..), Meaning::Constant(table), ..) => {
                self.add_constant(left, *table, &node.output[0])
            }
            ("Add", Meaning::Constant(table), Meaning::Rows(_) | Meaning::Function(..), ..) => {
                self.add_constant(right, *table, &node.output[0])
            }
            (_, Meaning::Rows(_) | Meaning::Function(..), Meaning::Rows(_) | Meaning::Function(..), ..) => {
                self.two_rows(node, f)
            }
            _ => unknown("operands that have no common meaning"),
        }
    }

    /// A mask or a table is added to the scores of attention.
    fn add_to_scores(&mut self, scores: Meaning, term: &Meaning) -> Known<Meaning> {
        let Meaning::Scores { query, key, heads, scale, mut terms, softmax } = scores else {
            return unknown("no scores");
        };
        match *term {
            Meaning::AdditiveMask if !terms.masked => terms.masked = true,
            Meaning::Causal { half: false } if !terms.causal && self.rows_of(query) == Rows::Tokens => {
                terms.causal = true;
            }
            Meaning::Constant(number) if terms.bias.is_none() => {
                let (shape, tokens) = (self.shape(number), self.program.tokens);
                let queries = if self.rows_of(query) == Rows::One { 1 } else { tokens };
                let (table_heads, fixed) = match (&shape[..], self.inputs) {
                    ([1, n, rows, columns] | [n, rows, columns], Inputs::Pixels(_)) => {
                        (*n, (*rows, *columns) == (queries, tokens))
                    }
                    _ => (0, false),
                };
                if !fixed || (table_heads != heads && table_heads != 1) {
                    return unknown(format!("a constant of shape {shape:?} is added to the scores"));
                }
                let values = self.floats(number)?;
                self.program.biases.push(ScoreBias { values, heads: table_heads });
                terms.bias = Some(self.program.biases.len() - 1);
            }
            _ => return unknown("something else than masks and one table is added to the scores"),
        }
        Ok(Meaning::Scores { query, key, heads, scale, terms, softmax })
    }

    /// Two functions of the same rows are one; other rows can be added.
    fn two_rows(&mut self, node: &pb::NodeProto, f: fn(f64, f64) -> f64) -> Known<Meaning> {
        let of = |meaning: Meaning| match meaning {
            Meaning::Rows(view) => Some((view, Function::identity())),
            Meaning::Function(view, function) => Some((view, function)),
            _ => None,
        };
        let (left, right) = (self.meaning(input(node, 0)?)?, self.meaning(input(node, 1)?)?);
        if let (Some((x, a)), Some((y, b))) = (of(left), of(right))
            && x == y
        {
            return Ok(Meaning::Function(x, a.with(b, f)));
        }
        let (a, b) = (self.rows(input(node, 0)?, input(node, 0)?)?, self.rows(input(node, 1)?, input(node, 1)?)?);
        if node.op_type != "Add" || a.width != b.width || self.rows_of(a) != self.rows_of(b) {
            return unknown("rows that are not of one form are combined");
        }
        let out = self.value(self.rows_of(a), a.width);
        self.push(&node.output[0], Op::Add { a, b, out: out.value });
        Ok(Meaning::Rows(out))
    }

    /// The bias of a linear layer, or a table of positions.
    fn add_constant(&mut self, name: &str, table: usize, step: &str) -> Known<Meaning> {
        let x = self.rows(name, name)?;
        let shape = self.shape(table);
        let count: usize = shape.iter().product();
        if shape.last() != Some(&x.width) {
            return unknown("a constant of another width is added");
        }
        let single = self.uses.get(name) == Some(&1);
        if let Some(Op::Linear { weights: Weights::Parts(parts), out, .. }) =
            self.program.steps.iter_mut().rev().map(|step| &mut step.op).find(|op| op.out() == x.value)
            && count == x.width
            && single
            && *out == x.value
            && let [part] = &mut parts[..]
            && part.bias.is_none()
        {
            part.bias = Some(table);
            return Ok(Meaning::Rows(x));
        }
        if count != x.width && count != self.program.tokens * x.width {
            return unknown(format!("a constant of shape {shape:?} is added"));
        }
        let table = self.floats(table)?;
        let out = self.value(self.rows_of(x), x.width);
        self.push(step, Op::AddTable { x, table, out: out.value });
        Ok(Meaning::Rows(out))
    }

    fn integer_rows(&mut self, table: usize, scales: usize, index: Index, step: &str) -> Known<Meaning> {
        let [count, width] = self.shape(table)[..] else { return unknown("the table is not a matrix") };
        let (tensor, mut values) = (self.file.graph.initializer[table].clone(), Vec::new());
        self.file.int8s(&tensor, &mut values)?;
        let scales = self.floats(scales)?;
        if scales.len() != count {
            return unknown("the table does not have one scale for each row");
        }
        let out = self.value(Rows::Tokens, width);
        self.push(step, Op::Lookup { table: Arc::new(Table::I8 { values, scales }), index, out: out.value });
        Ok(Meaning::Rows(out))
    }
}

/// Rows reshaped to [batch, tokens, heads, dim].
fn heads(view: View, shape: &[i64]) -> Known<Meaning> {
    let (heads, dim) = (usize::try_from(shape[2]).ok(), usize::try_from(shape[3]).ok());
    let heads = match (heads, dim) {
        (Some(heads), _) if heads > 0 => heads,
        (_, Some(dim)) if dim > 0 => view.width / dim,
        _ => return unknown("neither heads nor their size is given"),
    };
    if heads == 0 || !view.width.is_multiple_of(heads) || dim.is_some_and(|dim| dim * heads != view.width) {
        return unknown("the heads do not fill the rows");
    }
    Ok(Meaning::Heads { view, heads, order: Order::TokensHeads, scale: 1.0 })
}

fn scaled(meaning: Meaning, factor: f32) -> Meaning {
    match meaning {
        Meaning::Heads { view, heads, order, scale } => Meaning::Heads { view, heads, order, scale: scale * factor },
        Meaning::Scores { query, key, heads, scale, terms, softmax } => {
            Meaning::Scores { query, key, heads, scale: scale * factor, terms, softmax }
        }
        other => other,
    }
}

/// Whether a factor can be kept for later: nothing has been added yet.
fn scalable(meaning: &Meaning) -> bool {
    match meaning {
        Meaning::Heads { .. } => true,
        Meaning::Scores { terms, softmax, .. } => !softmax && *terms == Terms::default(),
        _ => false,
    }
}

/// Whether an extent of a new shape is the old one; 0 stands for it.
fn keeps(extent: i64, old: usize) -> bool {
    extent == 0 || usize::try_from(extent) == Ok(old)
}

pub(super) fn input(node: &pb::NodeProto, index: usize) -> Known<&String> {
    node.input.get(index).map_or_else(|| unknown(format!("input {index} is missing")), Ok)
}

fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &pb::NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

pub(super) fn ints<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|attribute| &attribute.ints[..])
}

fn float(node: &pb::NodeProto, name: &str, absent: f32) -> f32 {
    attribute(node, name).map_or(absent, |attribute| attribute.f)
}

pub(super) fn text<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a str> {
    attribute(node, name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
}
