//! Slices, pooling, and the operators that find the pooled token.

use std::io;
use std::sync::Arc;

use tract_onnx::pb;

use super::{Lowered, Lowering, Op, Pooling, Rows, SequenceIndex, SymbolicValue, Table, View, unsupported};
use crate::fused::attributes::{input, int, ints};

impl Lowering<'_, '_> {
    /// A slice of rows, or of a table to the sequence length.
    pub(super) fn slice(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let axes = match node.input.get(3) {
            Some(name) => self.ints(name)?,
            None => vec![0],
        };
        if let Some(name) = node.input.get(4)
            && self.ints(name)? != [1]
        {
            return unsupported("a slice with steps");
        }
        let ([axis], [start]) = (&axes[..], &self.ints(input(node, 1)?)?[..]) else {
            return unsupported("a slice of several axes at once");
        };
        match (self.symbol(input(node, 0)?)?, self.symbol(input(node, 2)?)?) {
            (SymbolicValue::Rows(_) | SymbolicValue::Function(..), SymbolicValue::Constant(_)) if *axis == 1 => {
                let end = self.ints(input(node, 2)?)?;
                let x = self.rows(input(node, 0)?, input(node, 0)?)?;
                // Exporters write an open end as the largest integer.
                let open = end[..] == [i64::MAX] || end[..] == [i64::from(i32::MAX)];
                match (start, open) {
                    (0, false) if end == [1] => self.first(input(node, 0)?, &node.output[0]),
                    (-1, true) => self.pool(x, Pooling::Last, &node.output[0]),
                    (1.., true) => Ok(SymbolicValue::RowsFrom(x, usize::try_from(*start).unwrap_or(usize::MAX))),
                    _ => unsupported(format!("a slice of the rows {start} to {end:?}")),
                }
            }
            (SymbolicValue::Constant(table), SymbolicValue::Length) if *start == 0 => {
                self.cut_table(table, *axis, node)
            }
            (SymbolicValue::Causal { half: true }, SymbolicValue::Length)
                if *start == 0 && matches!(axis, 2 | 3 | -1 | -2) =>
            {
                Ok(SymbolicValue::Causal { half: false })
            }
            _ => unsupported("a slice of neither rows nor a table"),
        }
    }

    /// A constant that is sliced to the number of tokens.
    fn cut_table(&mut self, table: usize, axis: i64, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let shape = self.shape(table);
        let enough = |count: usize, tokens: usize| {
            // An error and not unsupported: tract could not run it either.
            let short = || format!("a table has {count} rows for the {tokens} tokens of the longest prompt");
            if count >= tokens { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, short())) }
        };
        match shape[..] {
            [count, width] if axis == 0 => {
                enough(count, self.program.tokens)?;
                let table = Arc::new(Table::F32(self.floats(table)?));
                let out = self.value(Rows::Tokens, width);
                self.push(&node.output[0], Op::Lookup { table, index: SequenceIndex::TokenIndex, out: out.value });
                Ok(SymbolicValue::Rows(out))
            }
            [count] | [1, count] if axis == shape.len() as i64 - 1 || axis == -1 => {
                enough(count, self.program.tokens)?;
                let counted = self.ints(input(node, 0)?)?.iter().zip(0..).all(|(value, index)| *value == index);
                if counted {
                    Ok(SymbolicValue::TokenIndices)
                } else {
                    unsupported("a slice of a list that does not count from 0")
                }
            }
            [1, 1, rows, columns] if rows == columns && matches!(axis, 2 | 3 | -1 | -2) => {
                enough(rows, self.program.tokens)?;
                let table = self.floats(table)?;
                let causal = table.chunks_exact(columns).enumerate().all(|(query, row)| {
                    row[..=query].iter().all(|v| *v == 0.0) && row[query + 1..].iter().all(|v| *v < -1e4)
                });
                if causal {
                    Ok(SymbolicValue::Causal { half: true })
                } else {
                    unsupported("a slice of a square table that is no causal mask")
                }
            }
            _ => unsupported(format!("a slice of a table of shape {shape:?}")),
        }
    }

    pub(super) fn pool(&mut self, x: View, pooling: Pooling, step: &str) -> Lowered<SymbolicValue> {
        if self.rows_of(x) != Rows::Tokens {
            return unsupported("pooling of a single row");
        }
        let out = self.value(Rows::One, x.width);
        self.push(step, Op::Pool { x, pooling, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    /// The mean of tokens.
    pub(super) fn mean(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let axes = match node.input.get(1) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        if axes != [1] {
            return unsupported(format!("a mean over the axes {axes:?}"));
        }
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::RowsFrom(x, first) if first < self.program.tokens => {
                self.pool(x, Pooling::MeanFrom(first), &node.output[0])
            }
            _ => {
                let x = self.rows(input(node, 0)?, input(node, 0)?)?;
                self.pool(x, Pooling::MeanFrom(0), &node.output[0])
            }
        }
    }

    /// The index of the largest id, or of the first token with a given id.
    pub(super) fn arg_max(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        if !matches!(int(node, "axis").unwrap_or(0), 1 | -1) || int(node, "select_last_index").is_some_and(|v| v != 0) {
            return unsupported("an index along another axis than the tokens, or the last of equal ones");
        }
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::Index(SequenceIndex::Ids) => Ok(SymbolicValue::PooledIndex(Pooling::LargestId)),
            SymbolicValue::IsId(id) => Ok(SymbolicValue::PooledIndex(Pooling::FirstId(id))),
            _ => unsupported("the index of something else than an id"),
        }
    }

    pub(super) fn equal(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let [left, right] = [input(node, 0)?, input(node, 1)?];
        match (self.symbol(left)?, self.symbol(right)?) {
            (SymbolicValue::Index(SequenceIndex::Ids), SymbolicValue::Constant(_)) => match self.ints(right)?[..] {
                [id] => Ok(SymbolicValue::IsId(id)),
                _ => unsupported("a comparison of ids with more than one id"),
            },
            (SymbolicValue::TokenIndices, SymbolicValue::PooledIndex(pooling))
            | (SymbolicValue::PooledIndex(pooling), SymbolicValue::TokenIndices) => Ok(SymbolicValue::OneHot(pooling)),
            _ => unsupported("a comparison of neither ids nor token indices"),
        }
    }
}
