//! Passes that fuse the steps of a convolutional tower without changing its results.

use super::program::{MapId, Op, Program, Weights};

impl Program {
    /// Removes steps that nothing reads, and takes batch norms, sums and activations into the steps before them.
    pub(super) fn fuse(&mut self) {
        for index in (0..self.steps.len()).rev() {
            if self.uses(self.steps[index].out) == 0 {
                self.steps.remove(index);
            }
        }
        let mut index = 0;
        while index < self.steps.len() {
            match self.absorb(index) {
                Some(earlier) => {
                    let step = self.steps.remove(index);
                    (self.steps[earlier].out, self.steps[earlier].activation) = (step.out, step.activation);
                }
                None => index += 1,
            }
        }
    }

    /// Lets an earlier step compute what step `index` does before its activation; `None` if none can.
    fn absorb(&mut self, index: usize) -> Option<usize> {
        let (before, rest) = self.steps.split_at(index);
        let step = rest.first()?;
        // The step that writes a map, if nothing else reads that map and nothing follows the operation there.
        let open = |map: MapId| {
            let at = before.iter().position(|earlier| earlier.out == map)?;
            (self.uses(map) == 1 && before[at].activation.is_none()).then_some(at)
        };
        let without_sum = |at: &usize| before[*at].add.is_none();
        match &step.op {
            Op::Affine { factors, terms } => {
                let at = open(step.x).filter(without_sum)?;
                let (factors, terms) = (factors.clone(), terms.clone());
                let Op::Convolution { weights: Weights::Unloaded(source), .. } = &mut self.steps[at].op else {
                    return None;
                };
                source.apply(&factors, &terms);
                Some(at)
            }
            Op::Copy => {
                let Some(add) = step.add else { return open(step.x) };
                // The later of the two maps is added to while it is computed.
                let [x, add] = if self.writer(step.x) < self.writer(add) { [add, step.x] } else { [step.x, add] };
                let adds = |at: &usize| !matches!(before[*at].op, Op::Mean | Op::Convolution { depthwise: true, .. });
                let at = open(x).filter(without_sum).filter(adds).filter(|_| x != add)?;
                self.steps[at].add = Some(add);
                Some(at)
            }
            _ => None,
        }
    }
}
