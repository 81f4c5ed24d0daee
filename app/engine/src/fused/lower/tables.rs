//! Embedding tables, and the first row.

use std::sync::Arc;

use tract_onnx::pb;

use super::{Lowered, Lowering, Rows, SequenceIndex, SymbolicValue, Table, unsupported};
use crate::fused::attributes::{input, int};
use crate::fused::program::Op;

impl Lowering<'_, '_> {
    /// Limits an index to the rows of a table.
    pub(super) fn bound(&mut self, index: SequenceIndex, count: usize) -> Lowered<()> {
        let most = match index {
            SequenceIndex::Ids => &mut self.program.ids_max,
            SequenceIndex::Types => &mut self.program.types_max,
            SequenceIndex::PositionIds => &mut self.program.positions_max,
            SequenceIndex::TokenIndex => return unsupported("a lookup by token index in a second table"),
        };
        *most = (*most).min(count.saturating_sub(1));
        Ok(())
    }

    /// Rows of an int4 table with groups along its rows.
    pub(super) fn int4_rows(
        &mut self,
        values: usize,
        scales: usize,
        group: usize,
        index: SequenceIndex,
        step: &str,
    ) -> Lowered<SymbolicValue> {
        let [count, width] = self.shape(values)[..] else { return unsupported("the table is not a matrix") };
        if self.shape(scales) != [count, width.div_ceil(group)] {
            return unsupported("the table does not have one scale for each group of a row");
        }
        self.bound(index, count)?;
        let (tensor, mut bytes) = (self.file.graph.initializer[values].clone(), Vec::new());
        self.file.int4s(&tensor, &mut bytes)?;
        let table = Arc::new(Table::I4 { values: bytes, scales: self.floats(scales)?, group });
        let out = self.value(Rows::Tokens, width);
        self.push(step, Op::Lookup { table, index, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    /// Rows of an embedding table, or token 0.
    pub(super) fn gather(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let axis = int(node, "axis").unwrap_or(0);
        match (self.symbol(input(node, 0)?)?, self.symbol(input(node, 1)?)?) {
            (SymbolicValue::Constant(table), SymbolicValue::Index(index)) if axis == 0 => {
                let [count, width] = self.shape(table)[..] else { return unsupported("the table is not a matrix") };
                self.bound(index, count)?;
                if self.file.graph.initializer[table].data_type == pb::tensor_proto::DataType::Int8 as i32 {
                    return Ok(SymbolicValue::IntegerRows { table, index });
                }
                if width == 1 {
                    return Ok(SymbolicValue::ScaleRows { table, index });
                }
                let table = Arc::new(Table::F32(self.floats(table)?));
                let out = self.value(Rows::Tokens, width);
                self.push(&node.output[0], Op::Lookup { table, index, out: out.value });
                Ok(SymbolicValue::Rows(out))
            }
            (
                SymbolicValue::Dequantized { values, scales, axis: 1 | -1, group: Some(group) },
                SymbolicValue::Index(index),
            ) if axis == 0 => self.int4_rows(values, scales, group, index, &node.output[0]),
            (SymbolicValue::Rows(_) | SymbolicValue::Function(..), SymbolicValue::Constant(_)) if axis == 1 => {
                if self.ints(input(node, 1)?)? != [0] {
                    return unsupported("a gather of other tokens than the first");
                }
                self.first(input(node, 0)?, &node.output[0])
            }
            _ => unsupported("a gather from something else than a constant table"),
        }
    }

    pub(super) fn first(&mut self, name: &str, step: &str) -> Lowered<SymbolicValue> {
        let x = self.rows(name, step)?;
        if self.rows_of(x) == Rows::One {
            return Ok(SymbolicValue::Rows(x));
        }
        let out = self.value(Rows::One, x.width);
        self.push(step, Op::First { x, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    pub(super) fn integer_rows(
        &mut self,
        table: usize,
        scales: usize,
        index: SequenceIndex,
        step: &str,
    ) -> Lowered<SymbolicValue> {
        let [count, width] = self.shape(table)[..] else { return unsupported("the table is not a matrix") };
        let (tensor, mut values) = (self.file.graph.initializer[table].clone(), Vec::new());
        self.file.int8s(&tensor, &mut values)?;
        let scales = self.floats(scales)?;
        if scales.len() != count {
            return unsupported("the table does not have one scale for each row");
        }
        let out = self.value(Rows::Tokens, width);
        self.push(step, Op::Lookup { table: Arc::new(Table::I8 { values, scales }), index, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }
}
