//! Nodes that change shapes, the order of axes or types, but no values.

use tract_onnx::pb;

use super::{HeadAxes, Inputs, Lowered, Lowering, Rows, SymbolicValue, View, unsupported};
use crate::fused::attributes::{input, int, ints};
use crate::fused::program::Op;

impl Lowering<'_, '_> {
    pub(super) fn reshape(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let shape = self.ints(input(node, 1)?)?;
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::PatchGrid(view)
                if shape.len() == 3
                    && (shape[2] == -1 || keeps(shape[2], self.program.tokens))
                    && keeps(shape[1], view.width) =>
            {
                Ok(SymbolicValue::PatchColumns(view))
            }
            SymbolicValue::Constant(number) if shape.len() == 4 => {
                // A query that is the same for every image.
                let [1, 1, width] = self.shape(number)[..] else { return unsupported("a constant is reshaped") };
                let (row, out) = (self.floats(number)?, self.value(Rows::One, width));
                self.push(&node.output[0], Op::Constant { row, out: out.value });
                heads(out, &shape)
            }
            SymbolicValue::Rows(view) if shape.len() == 4 => heads(view, &shape),
            SymbolicValue::Heads { view, order: HeadAxes::TokensHeads, scale: 1.0, .. }
                if shape.len() == 3 && (shape[2] == -1 || keeps(shape[2], view.width)) =>
            {
                Ok(SymbolicValue::Rows(view))
            }
            // Merges the axes of batch and heads, or splits them again.
            SymbolicValue::Heads {
                view,
                heads,
                order: order @ (HeadAxes::HeadsTokens | HeadAxes::HeadsDim),
                scale,
            } => {
                let tokens = if self.rows_of(view) == Rows::One { 1 } else { self.program.tokens };
                let fits = |extent: i64, old: usize| extent == -1 || usize::try_from(extent) == Ok(old);
                let dim = view.width / heads;
                let inner = if order == HeadAxes::HeadsTokens { [tokens, dim] } else { [dim, tokens] };
                let same = match shape[..] {
                    [all, a, b] => fits(all, heads) && fits(a, inner[0]) && fits(b, inner[1]),
                    [batch, n, a, b] => fits(batch, 1) && fits(n, heads) && fits(a, inner[0]) && fits(b, inner[1]),
                    _ => false,
                };
                if !same || matches!(self.inputs, Inputs::Tokens { .. }) {
                    return unsupported(format!("heads reshaped to {shape:?}"));
                }
                Ok(SymbolicValue::Heads { view, heads, order, scale })
            }
            _ => unsupported(format!("a reshape to {shape:?}")),
        }
    }

    pub(super) fn transpose(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let perm = ints(node, "perm").unwrap_or_default();
        match (self.symbol(input(node, 0)?)?, perm) {
            (SymbolicValue::PatchColumns(view), [0, 2, 1]) => Ok(SymbolicValue::Rows(view)),
            (SymbolicValue::Heads { view, heads, order, scale }, perm) => {
                let order = match (order, perm) {
                    (HeadAxes::TokensHeads, [0, 2, 1, 3]) | (HeadAxes::HeadsDim, [0, 1, 3, 2] | [0, 2, 1]) => {
                        HeadAxes::HeadsTokens
                    }
                    (HeadAxes::TokensHeads, [0, 2, 3, 1]) | (HeadAxes::HeadsTokens, [0, 1, 3, 2] | [0, 2, 1]) => {
                        HeadAxes::HeadsDim
                    }
                    (HeadAxes::HeadsTokens, [0, 2, 1, 3]) => HeadAxes::TokensHeads,
                    _ => return unsupported(format!("heads transposed by {perm:?}")),
                };
                Ok(SymbolicValue::Heads { view, heads, order, scale })
            }
            (_, perm) => unsupported(format!("a transposition by {perm:?}")),
        }
    }

    pub(super) fn cast(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let float = int(node, "to") == Some(pb::tensor_proto::DataType::Float as i64);
        match self.symbol(input(node, 0)?)? {
            symbol @ (SymbolicValue::Mask
            | SymbolicValue::IntegerRows { .. }
            | SymbolicValue::Rows(_)
            | SymbolicValue::OneHot(_))
                if float =>
            {
                Ok(symbol)
            }
            // 16-bit floats are read as 32-bit floats.
            SymbolicValue::Constant(number)
                if float
                    && self.file.graph.initializer[number].data_type == pb::tensor_proto::DataType::Float16 as i32 =>
            {
                Ok(SymbolicValue::Constant(number))
            }
            // To a number of any type.
            SymbolicValue::IsId(id) => Ok(SymbolicValue::IsId(id)),
            _ => unsupported("a conversion of something else than the mask, rows or 16-bit floats"),
        }
    }

    pub(super) fn length(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let tokens_axis = int(node, "start") == Some(1) && int(node, "end") == Some(2);
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::Index(_) | SymbolicValue::Mask if tokens_axis => Ok(SymbolicValue::Length),
            _ => unsupported("the shape of something else than the ids' tokens"),
        }
    }

    /// `Squeeze` and `Unsqueeze`: removes or adds axes of size 1.
    pub(super) fn axes(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let axes = match node.input.get(1) {
            Some(name) => self.ints(name)?,
            None => ints(node, "axes").unwrap_or_default().to_vec(),
        };
        match self.symbol(input(node, 0)?)? {
            SymbolicValue::Rows(view) if self.rows_of(view) == Rows::One && axes == [1] => {
                Ok(SymbolicValue::Rows(view))
            }
            symbol @ (SymbolicValue::Mask | SymbolicValue::AdditiveMask | SymbolicValue::Padding)
                if node.op_type == "Unsqueeze" && matches!(axes[..], [1, 2] | [1] | [2]) =>
            {
                Ok(symbol)
            }
            symbol @ SymbolicValue::OneHot(_) if node.op_type == "Unsqueeze" && axes == [1] => Ok(symbol),
            _ => unsupported("an axis added to or removed from something else than one row or the mask"),
        }
    }
}

/// Rows reshaped to [batch, tokens, heads, dim].
fn heads(view: View, shape: &[i64]) -> Lowered<SymbolicValue> {
    let (heads, dim) = (usize::try_from(shape[2]).ok(), usize::try_from(shape[3]).ok());
    let heads = match (heads, dim) {
        (Some(heads), _) if heads > 0 => heads,
        (_, Some(dim)) if dim > 0 => view.width / dim,
        _ => return unsupported("neither heads nor their size is given"),
    };
    if heads == 0 || !view.width.is_multiple_of(heads) || dim.is_some_and(|dim| dim * heads != view.width) {
        return unsupported("the heads do not fill the rows");
    }
    Ok(SymbolicValue::Heads { view, heads, order: HeadAxes::TokensHeads, scale: 1.0 })
}

/// True if the new size of an axis is the old one; 0 means the old size.
fn keeps(extent: i64, old: usize) -> bool {
    extent == 0 || usize::try_from(extent) == Ok(old)
}
