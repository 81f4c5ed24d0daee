//! Passes that fuse the steps of a program.

use super::{Op, Program, Step, ValueId, View, Weights};

impl Program {
    /// Fuses steps without changing results. Every value must be written by a single step.
    pub(crate) fn fuse(&mut self) {
        self.drop_unused();
        self.merge_linears();
        self.fuse_activations();
        self.fuse_residuals();
        self.reuse_values();
        self.choose_attentions();
    }

    /// Attention is int8 if the layers that compute queries, keys and values are, so that layers kept in float for accuracy
    /// do not lose it in attention. If none of the three is a linear layer, it is int8 if any layer of the tower is.
    fn choose_attentions(&mut self) {
        let int8 = |step: &Step| match &step.op {
            Op::Linear { weights, .. } => Some(weights.is_i8()),
            _ => None,
        };
        let any = self.steps.iter().any(|step| int8(step) == Some(true));
        for index in 0..self.steps.len() {
            let (before, rest) = self.steps.split_at_mut(index);
            if let Op::Attention(attention) = &mut rest[0].op {
                let source = |view: View| before.iter().rev().find(|step| step.op.out() == view.value).and_then(int8);
                let sources = [attention.query, attention.key, attention.value].map(source);
                let known = sources.iter().any(Option::is_some);
                attention.int8 = if known { !sources.contains(&Some(false)) } else { any };
            }
        }
    }

    /// Returns a copy that has the weights of `other`, the same program, in every step with a layer that is `chosen`, and
    /// the number of those steps. `None` if the two programs have different steps.
    pub(crate) fn with_layers_from(&self, other: &Self, chosen: &dyn Fn(&str) -> bool) -> Option<(Self, usize)> {
        let same = |(a, b): (&Step, &Step)| {
            a.name == b.name && a.layers == b.layers && a.op.kind() == b.op.kind() && a.op.out() == b.op.out()
        };
        if self.steps.len() != other.steps.len() || !self.steps.iter().zip(&other.steps).all(same) {
            return None;
        }
        let (mut program, mut count) = (self.clone(), 0);
        let is_chosen = |step: &Step| step.layers.iter().any(|layer| chosen(layer));
        for (step, other) in program.steps.iter_mut().zip(&other.steps).filter(|(step, _)| is_chosen(step)) {
            match (&mut step.op, &other.op) {
                (Op::Linear { weights, .. }, Op::Linear { weights: others, .. })
                | (Op::PatchEmbedding { weights, .. }, Op::PatchEmbedding { weights: others, .. }) => {
                    weights.clone_from(others);
                }
                (Op::Lookup { table, .. }, Op::Lookup { table: others, .. }) => table.clone_from(others),
                _ => continue,
            }
            count += 1;
        }
        program.choose_attentions();
        Some((program, count))
    }

    /// Removes steps whose results are not read, such as those of an unused output.
    fn drop_unused(&mut self) {
        for index in (0..self.steps.len()).rev() {
            if self.uses(self.steps[index].op.out()) == 0 {
                self.steps.remove(index);
            }
        }
    }

    fn uses(&self, value: ValueId) -> usize {
        let steps = self.steps.iter().filter(|step| step.op.reads(value)).count();
        steps + usize::from(self.output.value == value)
    }

    fn writer(&self, value: ValueId) -> Option<usize> {
        self.steps.iter().position(|step| step.op.out() == value)
    }

    /// True if no step after `index` reads `value`.
    fn is_last_use(&self, value: ValueId, index: usize) -> bool {
        self.output.value != value && !self.steps[index + 1..].iter().any(|step| step.op.reads(value))
    }

    /// True if the view covers the whole value.
    fn is_whole(&self, view: View) -> bool {
        view.offset == 0 && view.width == self.values[view.value].width
    }

    fn rename(&mut self, from: ValueId, to: View) {
        let views = self.steps.iter_mut().flat_map(|step| step.op.inputs_mut());
        for view in views.chain([&mut self.output]).filter(|view| view.value == from) {
            view.value = to.value;
            view.offset += to.offset;
        }
    }

    /// Merges linear layers that read the same rows and are all int8 or all float, such as query, key and value; their
    /// results are concatenated. The contract is documented in [`crate::onnx`].
    fn merge_linears(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            let Some((_, out)) = plain_linear(&self.steps[index].op) else {
                index += 1;
                continue;
            };
            let mut width = self.values[out].width;
            while let Some(other) = (index + 1..self.steps.len()).find(|other| self.can_merge(index, *other)) {
                let Step { layers, op: Op::Linear { weights: Weights::Unloaded(more), out: old, .. }, .. } =
                    self.steps.remove(other)
                else {
                    break;
                };
                self.steps[index].layers.extend(layers);
                self.rename(old, View { value: out, offset: width, width: 0 });
                width += self.values[old].width;
                if let Op::Linear { weights: Weights::Unloaded(parts), .. } = &mut self.steps[index].op {
                    parts.extend(more);
                }
            }
            self.values[out].width = width;
            index += 1;
        }
    }

    fn can_merge(&self, first: usize, second: usize) -> bool {
        match (plain_linear(&self.steps[first].op), plain_linear(&self.steps[second].op)) {
            (Some((a, _)), Some((b, _))) => {
                let int8 = |at: usize| matches!(&self.steps[at].op, Op::Linear { weights, .. } if weights.is_i8());
                a == b && int8(first) == int8(second)
            }
            _ => false,
        }
    }

    /// Fuses an activation into the linear layer before it if nothing else reads the layer's result.
    fn fuse_activations(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            if let Op::Activate { x, activation, out } = self.steps[index].op
                && self.uses(x.value) == 1
                && self.is_whole(x)
                && let Some(writer) = self.writer(x.value)
                && let Op::Linear { activation: slot @ None, add: false, .. } = &mut self.steps[writer].op
            {
                *slot = Some(activation);
                self.steps.remove(index);
                self.rename(out, x);
            } else {
                index += 1;
            }
        }
    }

    /// Fuses a residual connection: if a linear layer's result is only added to a value that is not read afterwards, the
    /// layer increments that value in place.
    fn fuse_residuals(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            let Op::Add { a, b, out } = self.steps[index].op else {
                index += 1;
                continue;
            };
            let fused = [(a, b), (b, a)].into_iter().find_map(|(residual, x)| {
                let writer = self.writer(x.value)?;
                let linear = matches!(self.steps[writer].op, Op::Linear { activation: None, add: false, .. });
                let quiet = !self.steps[writer..index]
                    .iter()
                    .any(|step| step.op.reads(residual.value) || step.op.out() == residual.value);
                let rows = self.values[x.value].rows == self.values[residual.value].rows;
                let whole = self.is_whole(residual) && self.is_whole(x);
                let free = self.uses(x.value) == 1 && self.is_last_use(residual.value, index);
                (linear && quiet && rows && whole && free).then_some((writer, residual))
            });
            if let Some((writer, residual)) = fused
                && let Op::Linear { add, out: written, .. } = &mut self.steps[writer].op
            {
                (*add, *written) = (true, residual.value);
                self.steps.remove(index);
                self.rename(out, residual);
            } else {
                index += 1;
            }
        }
    }

    /// Lets elementwise steps overwrite their input if nothing reads it later.
    fn reuse_values(&mut self) {
        for index in 0..self.steps.len() {
            let (x, out) = match &self.steps[index].op {
                Op::AddTable { x, out, .. }
                | Op::Scale { x, out, .. }
                | Op::Activate { x, out, .. }
                | Op::Normalize { x, out, .. }
                | Op::Add { a: x, out, .. } => (*x, *out),
                _ => continue,
            };
            if self.is_whole(x) && self.is_last_use(x.value, index) {
                self.rename(out, x);
                // Its own output, and that of layers that increment it.
                let writers = self.steps.iter_mut().map(|step| step.op.out_mut());
                writers.filter(|written| **written == out).for_each(|written| *written = x.value);
            }
        }
    }
}

/// Input and output of a linear layer without fused steps.
fn plain_linear(op: &Op) -> Option<(View, ValueId)> {
    match op {
        Op::Linear { x, weights: Weights::Unloaded(_), activation: None, add: false, out } => Some((*x, *out)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rows, Value, WeightSource};
    use super::*;
    use crate::onnx::product_node;

    /// A program of linear layers that all read the same row, and the sum of their results. A layer's flag tells whether
    /// its weights are int8.
    fn program(layers: &[(&str, bool)]) -> Program {
        let count = layers.len();
        let view = |value: ValueId| View { value, offset: 0, width: 4 };
        let mut steps = vec![Step::new("row", Op::Constant { row: vec![0.0; 4], out: 0 })];
        for (index, (name, is_int8)) in layers.iter().enumerate() {
            let scales = is_int8.then_some(1);
            let source = WeightSource { weights: 0, scales, group: None, bias: None, outputs: 4, transposed: false };
            let weights = Weights::Unloaded(vec![source]);
            let op = Op::Linear { x: view(0), weights, activation: None, add: false, out: 1 + index };
            steps.push(Step::new(&product_node(name), op));
        }
        for index in 1..count {
            let a = if index == 1 { 1 } else { count + index - 1 };
            steps.push(Step::new("sum", Op::Add { a: view(a), b: view(1 + index), out: count + index }));
        }
        let mut program = Program {
            values: vec![Value { rows: Rows::One, width: 4 }; 2 * count],
            steps,
            biases: Vec::new(),
            output: view(2 * count - 1),
            tokens: 1,
            ids_max: 0,
            types_max: 0,
            positions_max: 0,
        };
        program.fuse();
        program
    }

    fn layers(program: &Program) -> Vec<Vec<String>> {
        program.steps.iter().map(|step| step.layers.clone()).filter(|layers| !layers.is_empty()).collect()
    }

    #[test]
    fn layers_with_one_input_and_one_storage_run_as_one() {
        let check = |stored: &[(&str, bool)], expected: &[&[&str]]| {
            assert_eq!(layers(&program(stored)), expected, "{stored:?}");
        };
        check(&[("q", true), ("k", true), ("v", true)], &[&["q", "k", "v"]]);
        check(&[("q", false), ("k", false)], &[&["q", "k"]]);
        check(&[("q", true), ("k", true), ("v", false)], &[&["q", "k"], &["v"]]);
        check(&[("q", false), ("k", true), ("v", false)], &[&["q", "v"], &["k"]]);
    }

    #[test]
    fn layers_are_exchanged_with_those_that_run_with_them() {
        struct Case {
            other: [bool; 3],
            chosen: &'static str,
            /// Steps that were exchanged; `None` where the programs differ.
            expected: Option<usize>,
        }
        let float = program(&[("q", false), ("k", false), ("v", false)]);
        for Case { other, chosen, expected } in [
            Case { other: [true; 3], chosen: "k", expected: Some(1) },
            Case { other: [true; 3], chosen: "q", expected: Some(1) },
            Case { other: [true; 3], chosen: "q.product", expected: Some(0) },
            Case { other: [true, false, true], chosen: "k", expected: None },
        ] {
            let [q, k, v] = other;
            let other = program(&[("q", q), ("k", k), ("v", v)]);
            let found = float.with_layers_from(&other, &|layer| layer == chosen);
            assert_eq!(found.as_ref().map(|(_, count)| *count), expected, "{chosen}");
            let int8 = |step: &Step| matches!(&step.op, Op::Linear { weights, .. } if weights.is_i8());
            let has_int8 = found.is_some_and(|(program, _)| program.steps.iter().any(int8));
            assert_eq!(has_int8, expected == Some(1), "{chosen}");
        }
    }
}
