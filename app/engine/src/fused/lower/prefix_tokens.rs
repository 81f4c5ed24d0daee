//! Tokens before the patches: class, distillation and register tokens.

use tract_onnx::pb;

use super::{Lowered, Lowering, Op, PATCHES_MAX, Rows, SymbolicValue, View, unsupported};
use crate::fused::attributes::{input, int, text};

impl Lowering<'_, '_> {
    /// Rows of zeros before the patches, to which class tokens are added later.
    pub(super) fn pad(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let pads = self.ints(input(node, 1)?)?;
        let zeros = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => {
                let value = self.symbol(name)?;
                self.scalar(&value)? == Some(0.0)
            }
            None => text(node, "mode").is_none_or(|mode| mode == "constant"),
        };
        let (SymbolicValue::Rows(view), [0, prefix, 0, 0, 0, 0], true) =
            (self.symbol(input(node, 0)?)?, &pads[..], zeros)
        else {
            return unsupported("padding of something else than patches");
        };
        let prefix = usize::try_from(*prefix).unwrap_or(0);
        self.reserve_prefix(input(node, 0)?, view, prefix)?;
        Ok(SymbolicValue::Rows(view))
    }

    /// Constant tokens concatenated with the patches.
    pub(super) fn concatenation(&mut self, node: &pb::NodeProto) -> Lowered<SymbolicValue> {
        let [tokens @ .., patches] = &node.input[..] else { return unsupported("a concatenation of nothing") };
        let SymbolicValue::Rows(view) = self.symbol(patches)? else {
            return unsupported("a concatenation of something else than tokens");
        };
        if int(node, "axis") != Some(1) {
            return unsupported("a concatenation of tokens along another axis");
        }
        let mut table = Vec::new();
        for name in tokens {
            let SymbolicValue::Constant(number) = self.symbol(name)? else {
                return unsupported("tokens before the patches are not constant");
            };
            match self.shape(number)[..] {
                [1, _, width] if width == view.width => table.extend(self.floats(number)?),
                _ => return unsupported(format!("{name} is not a constant token")),
            }
        }
        self.reserve_prefix(patches, view, table.len() / view.width.max(1))?;
        table.resize(self.program.tokens * view.width, 0.0);
        let out = self.value(Rows::Tokens, view.width);
        self.push(&node.output[0], Op::AddTable { x: view, table, out: out.value });
        Ok(SymbolicValue::Rows(out))
    }

    /// Reserves `prefix` rows before the patches `view`, called `name`, which the last step embeds.
    fn reserve_prefix(&mut self, name: &str, view: View, prefix: usize) -> Lowered<()> {
        if prefix > PATCHES_MAX {
            return unsupported(format!("{prefix} rows before the patches, of at most {PATCHES_MAX}"));
        }
        let last = self.program.steps.last_mut().map(|step| &mut step.op);
        match last {
            Some(Op::PatchEmbedding { patches, out, .. })
                if *out == view.value && patches.prefix_tokens == 0 && self.uses.get(name) == Some(&1) =>
            {
                patches.prefix_tokens = prefix;
                self.program.tokens += prefix;
                Ok(())
            }
            _ => unsupported("tokens before something else than patches"),
        }
    }
}
