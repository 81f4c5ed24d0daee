//! Tables of embeddings, and rows that are chosen.

use std::sync::Arc;

use tract_onnx::pb;

use super::attributes::{input, int};
use super::{Index, Interpreter, Known, Meaning, Rows, Table, unknown};
use crate::fused::program::Op;

impl Interpreter<'_, '_> {
    /// The last row of a table is the largest index.
    pub(super) fn bound(&mut self, index: Index, count: usize) -> Known<()> {
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
    pub(super) fn int4_rows(
        &mut self,
        values: usize,
        scales: usize,
        group: usize,
        index: Index,
        step: &str,
    ) -> Known<Meaning> {
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
    pub(super) fn gather(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
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

    pub(super) fn integer_rows(&mut self, table: usize, scales: usize, index: Index, step: &str) -> Known<Meaning> {
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
