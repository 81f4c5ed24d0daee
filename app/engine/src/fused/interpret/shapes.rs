//! Nodes that change shapes, order of axes, or types, and no number.

use tract_onnx::pb;

use super::attributes::{input, int, ints};
use super::{Inputs, Interpreter, Known, Meaning, Order, Rows, View, unknown};
use crate::fused::program::Op;

impl Interpreter<'_, '_> {
    pub(super) fn reshape(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
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

    pub(super) fn transpose(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
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

    pub(super) fn cast(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
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

    pub(super) fn length(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let tokens_axis = int(node, "start") == Some(1) && int(node, "end") == Some(2);
        match self.meaning(input(node, 0)?)? {
            Meaning::Index(_) | Meaning::Mask if tokens_axis => Ok(Meaning::Length),
            _ => unknown("the shape of something else than the ids' tokens"),
        }
    }

    /// Axes of extent 1 come and go.
    pub(super) fn axes(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
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

/// Whether an extent of a new shape is the old one; 0 stands for it.
fn keeps(extent: i64, old: usize) -> bool {
    extent == 0 || usize::try_from(extent) == Ok(old)
}
