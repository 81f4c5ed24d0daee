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
            if self.absorb(index) {
                self.steps.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Lets an earlier step do the work of step `index`; false if none can.
    fn absorb(&mut self, index: usize) -> bool {
        let step = self.steps[index].clone();
        match &step.op {
            Op::Affine { factors, terms } => {
                let Some(at) = self.open(step.x).filter(|at| self.steps[*at].add.is_none()) else { return false };
                let Op::Convolution { weights: Weights::Unloaded(source), .. } = &mut self.steps[at].op else {
                    return false;
                };
                let [mut all, mut sums] =
                    source.affine.take().unwrap_or_else(|| [vec![1.0; factors.len()], vec![0.0; factors.len()]]);
                for (((all, sum), factor), term) in all.iter_mut().zip(&mut sums).zip(factors).zip(terms) {
                    *all *= factor;
                    *sum = *sum * factor + term;
                }
                source.affine = Some([all, sums]);
                self.continue_as(at, step.out, step.activation)
            }
            Op::Copy => match step.add {
                None => match self.open(step.x) {
                    Some(at) => self.continue_as(at, step.out, step.activation),
                    None => false,
                },
                // The later of the two maps is added to while it is computed.
                Some(add) => {
                    let [x, add] = if self.writer(step.x) < self.writer(add) { [add, step.x] } else { [step.x, add] };
                    match self.open(x).filter(|at| self.steps[*at].add.is_none() && x != add) {
                        Some(at)
                            if !matches!(self.steps[at].op, Op::Mean | Op::Convolution { depthwise: true, .. }) =>
                        {
                            self.steps[at].add = Some(add);
                            self.continue_as(at, step.out, step.activation)
                        }
                        _ => false,
                    }
                }
            },
            _ => false,
        }
    }

    /// The step that writes `map`, if nothing else reads that map and no activation was applied.
    fn open(&self, map: MapId) -> Option<usize> {
        let at = self.writer(map)?;
        (self.uses(map) == 1 && self.steps[at].activation.is_none()).then_some(at)
    }

    fn continue_as(&mut self, at: usize, out: MapId, activation: Option<crate::fused::kernels::Activation>) -> bool {
        self.steps[at].out = out;
        self.steps[at].activation = activation;
        true
    }
}
