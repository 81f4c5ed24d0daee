//! Rows before the patches: class, distillation and register tokens.

use tract_onnx::pb;

use super::attributes::{input, int, text};
use super::{Interpreter, Known, Meaning, Op, PATCHES_MAX, Rows, View, unknown};

impl Interpreter<'_, '_> {
    /// A row of zeros before the patches, where a class token will be.
    pub(super) fn pad(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let pads = self.ints(input(node, 1)?)?;
        let zeros = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => {
                let value = self.meaning(name)?;
                self.scalar(&value)? == Some(0.0)
            }
            None => text(node, "mode").is_none_or(|mode| mode == "constant"),
        };
        let (Meaning::Rows(view), [0, lead, 0, 0, 0, 0], true) = (self.meaning(input(node, 0)?)?, &pads[..], zeros)
        else {
            return unknown("padding of something else than rows of patches");
        };
        let lead = usize::try_from(*lead).unwrap_or(0);
        self.lead(input(node, 0)?, view, lead)?;
        Ok(Meaning::Rows(view))
    }

    /// Class and register tokens before the patches.
    pub(super) fn concatenation(&mut self, node: &pb::NodeProto) -> Known<Meaning> {
        let [tokens @ .., patches] = &node.input[..] else { return unknown("nothing is put together") };
        let Meaning::Rows(view) = self.meaning(patches)? else {
            return unknown("something else than tokens is put together");
        };
        if int(node, "axis") != Some(1) {
            return unknown("tokens are put together along another axis");
        }
        let mut table = Vec::new();
        for name in tokens {
            let Meaning::Constant(number) = self.meaning(name)? else {
                return unknown("tokens before the patches are not constant");
            };
            match self.shape(number)[..] {
                [1, _, width] if width == view.width => table.extend(self.floats(number)?),
                _ => return unknown(format!("{name} is no constant token")),
            }
        }
        self.lead(patches, view, table.len() / view.width.max(1))?;
        table.resize(self.program.tokens * view.width, 0.0);
        let out = self.value(Rows::Tokens, view.width);
        self.push(&node.output[0], Op::AddTable { x: view, table, out: out.value });
        Ok(Meaning::Rows(out))
    }

    /// Makes room for `lead` rows before the patches `view`, called `name`, that were embedded by the last step.
    fn lead(&mut self, name: &str, view: View, lead: usize) -> Known<()> {
        if lead > PATCHES_MAX {
            return unknown(format!("{lead} rows before the patches, of at most {PATCHES_MAX}"));
        }
        let last = self.program.steps.last_mut().map(|step| &mut step.op);
        match last {
            Some(Op::PatchEmbedding { patches, out, .. })
                if *out == view.value && patches.lead == 0 && self.uses.get(name) == Some(&1) =>
            {
                patches.lead = lead;
                self.program.tokens += lead;
                Ok(())
            }
            _ => unknown("rows before something else than patches"),
        }
    }
}
