//! Binary elementwise operators: sums, differences, products and quotients.

use tract_onnx::pb;

use super::{Function, Inputs, Lowered, Lowering, Rows, ScoreBias, SymbolicValue, Terms, Weights, unsupported};
use crate::fused::attributes::input;
use crate::fused::program::Op;

impl Lowering<'_, '_> {
    /// Sums, differences, products and quotients.
    pub(super) fn binary(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let (left, right) = (input(node, 0)?, input(node, 1)?);
        let (a, b) = (self.symbol(left)?, self.symbol(right)?);
        let op = node.op_type.as_str();
        let Some(f) = Function::binary(op) else { return unsupported("not an operator of two values") };
        let (x, y) = (self.scalar(&a)?, self.scalar(&b)?);
        match (op, &a, &b, x, y) {
            ("Mul" | "Div", symbol, _, _, Some(factor)) if scalable(symbol) => {
                Ok(scaled(a, f(1.0, f64::from(factor)) as f32))
            }
            ("Mul", _, symbol, Some(factor), _) if scalable(symbol) => Ok(scaled(b, factor)),
            ("Add", SymbolicValue::Scores { softmax: false, .. }, ..) => self.add_to_scores(a, &b),
            ("Add", _, SymbolicValue::Scores { softmax: false, .. }, ..) => self.add_to_scores(b, &a),
            ("Sub", _, SymbolicValue::Mask, Some(1.0), _) => Ok(SymbolicValue::Padding),
            ("Mul", SymbolicValue::Padding, _, _, Some(factor)) if factor < -1e4 => Ok(SymbolicValue::AdditiveMask),
            ("Mul", _, SymbolicValue::Padding, Some(factor), _) if factor < -1e4 => Ok(SymbolicValue::AdditiveMask),
            (
                "Mul",
                SymbolicValue::IntegerRows { table, index },
                SymbolicValue::ScaleRows { table: scales, index: same },
                ..,
            )
            | (
                "Mul",
                SymbolicValue::ScaleRows { table: scales, index: same },
                SymbolicValue::IntegerRows { table, index },
                ..,
            ) if index == same => self.integer_rows(*table, *scales, *index, &node.output[0]),
            ("Div", SymbolicValue::Rows(x), SymbolicValue::Norms(of), ..) if x == of => {
                let (x, out) = (*x, self.value(Rows::One, x.width));
                self.push(&node.output[0], Op::Normalize { x, out: out.value });
                Ok(SymbolicValue::Rows(out))
            }
            (_, SymbolicValue::Rows(_) | SymbolicValue::Function(..), _, _, Some(y)) => {
                let (view, function) = self.function(left, left)?;
                Ok(SymbolicValue::Function(view, function.then(|x| f(x, f64::from(y)))))
            }
            (_, _, SymbolicValue::Rows(_) | SymbolicValue::Function(..), Some(x), _) => {
                let (view, function) = self.function(right, right)?;
                Ok(SymbolicValue::Function(view, function.then(|y| f(f64::from(x), y))))
            }
            ("Add", SymbolicValue::Rows(_) | SymbolicValue::Function(..), SymbolicValue::Constant(table), ..) => {
                self.add_constant(left, *table, &node.output[0])
            }
            ("Add", SymbolicValue::Constant(table), SymbolicValue::Rows(_) | SymbolicValue::Function(..), ..) => {
                self.add_constant(right, *table, &node.output[0])
            }
            ("Mul", SymbolicValue::Rows(_) | SymbolicValue::Function(..), SymbolicValue::Constant(factors), ..) => {
                self.scale_columns(left, *factors, &node.output[0])
            }
            ("Mul", SymbolicValue::Constant(factors), SymbolicValue::Rows(_) | SymbolicValue::Function(..), ..) => {
                self.scale_columns(right, *factors, &node.output[0])
            }
            (
                _,
                SymbolicValue::Rows(_) | SymbolicValue::Function(..),
                SymbolicValue::Rows(_) | SymbolicValue::Function(..),
                ..,
            ) => self.two_rows(node, f),
            _ => unsupported("operands that do not fit together"),
        }
    }

    /// Adds a mask or a position bias to the scores of attention.
    pub(super) fn add_to_scores(&mut self, scores: SymbolicValue, term: &SymbolicValue) -> Lowered<SymbolicValue> {
        let SymbolicValue::Scores { query, key, heads, scale, mut terms, softmax } = scores else {
            return unsupported("no scores");
        };
        match *term {
            SymbolicValue::AdditiveMask if !terms.masked => terms.masked = true,
            SymbolicValue::Causal { half: false } if !terms.causal && self.rows_of(query) == Rows::Tokens => {
                terms.causal = true;
            }
            SymbolicValue::Constant(number) if terms.bias.is_none() => {
                let (shape, tokens) = (self.shape(number), self.program.tokens);
                let queries = if self.rows_of(query) == Rows::One { 1 } else { tokens };
                let (table_heads, fixed) = match (&shape[..], self.inputs) {
                    ([1, n, rows, columns] | [n, rows, columns], Inputs::Pixels(_)) => {
                        (*n, (*rows, *columns) == (queries, tokens))
                    }
                    _ => (0, false),
                };
                if !fixed || (table_heads != heads && table_heads != 1) {
                    return unsupported(format!("a constant of shape {shape:?} added to the scores"));
                }
                let values = self.floats(number)?;
                self.program.biases.push(ScoreBias { values, heads: table_heads });
                terms.bias = Some(self.program.biases.len() - 1);
            }
            _ => return unsupported("something else than masks and one table added to the scores"),
        }
        Ok(SymbolicValue::Scores { query, key, heads, scale, terms, softmax })
    }

    /// Combines two functions of the same rows, or adds two values of rows.
    pub(super) fn two_rows(&mut self, node: &pb::NodeProto, f: fn(f64, f64) -> f64) -> Lowered<SymbolicValue> {
        let of = |symbol: SymbolicValue| match symbol {
            SymbolicValue::Rows(view) => Some((view, Function::identity())),
            SymbolicValue::Function(view, function) => Some((view, function)),
            _ => None,
        };
        let (left, right) = (self.symbol(input(node, 0)?)?, self.symbol(input(node, 1)?)?);
        if let (Some((x, a)), Some((y, b))) = (of(left), of(right))
            && x == y
        {
            return Ok(SymbolicValue::Function(x, a.with(b, f)));
        }
        let (a, b) = (self.rows(input(node, 0)?, input(node, 0)?)?, self.rows(input(node, 1)?, input(node, 1)?)?);
        if node.op_type != "Add" || a.width != b.width || self.rows_of(a) != self.rows_of(b) {
            return unsupported("an operation on rows of different shapes");
        }
        let out = self.value(self.rows_of(a), a.width);
        self.push(&node.output[0], Op::Add { a, b, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    /// Multiplies each column of rows by its own constant.
    fn scale_columns(&mut self, name: &str, factors: usize, step: &str) -> Lowered<SymbolicValue> {
        let x = self.rows(name, name)?;
        let shape = self.shape(factors);
        if shape.last() != Some(&x.width) || shape.iter().product::<usize>() != x.width {
            return unsupported(format!("rows of {} values multiplied by a constant of shape {shape:?}", x.width));
        }
        let factors = self.floats(factors)?;
        let out = self.value(self.rows_of(x), x.width);
        self.push(step, Op::Scale { x, factors, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    /// Adds the bias of a linear layer, or a position table.
    pub(super) fn add_constant(&mut self, name: &str, table: usize, step: &str) -> Lowered<SymbolicValue> {
        let x = self.rows(name, name)?;
        let shape = self.shape(table);
        let count: usize = shape.iter().product();
        if shape.last() != Some(&x.width) {
            return unsupported("a constant of another width added to rows");
        }
        let single = self.uses.get(name) == Some(&1);
        if let Some(Op::Linear { weights: Weights::Unloaded(parts), out, .. }) =
            self.program.steps.iter_mut().rev().map(|step| &mut step.op).find(|op| op.out() == x.value)
            && count == x.width
            && single
            && *out == x.value
            && let [part] = &mut parts[..]
            && part.bias.is_none()
        {
            part.bias = Some(table);
            return Ok(SymbolicValue::Rows(x));
        }
        if count != x.width && count != self.program.tokens * x.width {
            return unsupported(format!("a constant of shape {shape:?} added to rows"));
        }
        let table = self.floats(table)?;
        let out = self.value(self.rows_of(x), x.width);
        self.push(step, Op::AddTable { x, table, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }
}

fn scaled(symbol: SymbolicValue, factor: f32) -> SymbolicValue {
    match symbol {
        SymbolicValue::Heads { view, heads, order, scale } => {
            SymbolicValue::Heads { view, heads, order, scale: scale * factor }
        }
        SymbolicValue::Scores { query, key, heads, scale, terms, softmax } => {
            SymbolicValue::Scores { query, key, heads, scale: scale * factor, terms, softmax }
        }
        other => other,
    }
}

/// True if a factor can be folded into the scale, which is so before anything is added.
fn scalable(symbol: &SymbolicValue) -> bool {
    match symbol {
        SymbolicValue::Heads { .. } => true,
        SymbolicValue::Scores { terms, softmax, .. } => !softmax && *terms == Terms::default(),
        _ => false,
    }
}
