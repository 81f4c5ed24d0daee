//! Runs a convolutional tower: each thread takes bands of a chain and computes them strip by strip, then all threads wait
//! at a barrier.
//!
//! All memory is allocated when the runner is created. A result depends neither on the band that it lies in nor on the
//! thread, so any number of threads gives the same bits.

mod rows;

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use self::rows::{Rows, Workspace};
use super::chains::{Chain, Phase, Plan};
use super::program::{MapId, Op, Program};
use crate::fused::kernels::{Kernels, Pool};
use crate::fused::phases::{Phases, Watch};

/// A program with its scratch memory.
#[derive(Debug)]
pub(crate) struct Runner {
    program: Arc<Program>,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    plan: Plan,
    /// The bands of each buffer.
    memory: Vec<Vec<RwLock<Vec<f32>>>>,
    work: Phases<Scratch>,
}

/// Scratch memory of one thread.
#[derive(Debug)]
struct Scratch {
    /// The input of a chain's first step, and the results of all its steps but the last.
    strips: Vec<Strip>,
    work: Workspace,
}

/// Some rows of a map, in memory for twice the rows that are needed at a time, so that they are moved rarely.
#[derive(Debug)]
struct Strip {
    values: Vec<f32>,
    /// Where the first row begins.
    start: usize,
    rows: Range<usize>,
}

impl Strip {
    /// Keeps the rows from `rows.start` on of those that it has, and makes room for the others of `rows`.
    fn slide(&mut self, rows: &Range<usize>, row: usize) {
        if self.rows.end <= rows.start || self.rows.is_empty() {
            (self.start, self.rows) = (0, rows.start..rows.start);
        }
        let dropped = rows.start.saturating_sub(self.rows.start);
        self.start += dropped * row;
        self.rows.start += dropped;
        if self.start + (rows.end - self.rows.start) * row > self.values.len() {
            self.values.copy_within(self.start..self.start + self.rows.len() * row, 0);
            self.start = 0;
        }
    }

    /// Memory of the rows from `rows.start` on.
    fn part_mut(&mut self, rows: &Range<usize>, row: usize) -> &mut [f32] {
        &mut self.values[self.start + (rows.start - self.rows.start) * row..][..rows.len() * row]
    }

    fn part(&self, rows: &Range<usize>, row: usize) -> &[f32] {
        &self.values[self.start + (rows.start - self.rows.start) * row..][..rows.len() * row]
    }
}

impl Runner {
    /// Allocates memory for `program`, whose weights are packed for `kernels`, and its plan for the threads of `pool`.
    pub(crate) fn new(program: Arc<Program>, plan: Plan, kernels: &'static Kernels, pool: Arc<Pool>) -> Self {
        let scratch = || Scratch::new(&program, &plan.phases, kernels);
        let band = |size: &usize| RwLock::new(vec![0.0; *size]);
        Self {
            memory: plan.sizes.iter().map(|bands| bands.iter().map(band).collect()).collect(),
            work: Phases::new(pool.threads(), plan.phases.len(), scratch),
            plan,
            program,
            kernels,
            pool,
        }
    }

    /// The program.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// The kernels.
    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Computes the embedding of `pixels`, `[3][height][width]`, into `out`. A run that is watched uses one thread.
    ///
    /// # Panics
    /// If the size of the input or of `out` is wrong; towers check both before.
    pub(crate) fn run(&self, pixels: &[f32], out: &mut [f32], watch: Watch<'_>) {
        let work = Work { runner: self, pixels, watch };
        let _running = self.work.run(&self.pool, watch, &|phase, scratch| work.phase(phase, scratch));
        let len = out.len();
        work.read(self.program.output, &(0..1), &mut |_, row| out.copy_from_slice(&row[..len]));
    }
}

impl Clone for Runner {
    /// A runner with the same weights and its own scratch memory.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.program), self.plan.clone(), self.kernels, Arc::clone(&self.pool))
    }
}

impl Scratch {
    /// Memory that suffices for every phase.
    fn new(program: &Program, phases: &[Phase], kernels: &Kernels) -> Self {
        let mut sizes: Vec<usize> = Vec::new();
        let mut work = Workspace::default();
        for phase in phases {
            let Phase::Chain(chain) = phase else {
                let Phase::Mean(step) = phase else { continue };
                work.reserve_vector(program.maps[program.steps[*step].out].channels);
                continue;
            };
            // The most rows that a strip needs of each map, from the last to the first.
            let mut rows = chain.strip;
            for (place, step) in chain.steps.clone().enumerate().rev() {
                let step = &program.steps[step];
                let (window, map) = (step.op.window(), program.maps[step.x]);
                let needed = ((rows - 1) * window.stride[0] + window.kernel[0]).min(map.height);
                work.reserve(program, step, needed, rows, kernels);
                sizes.resize(sizes.len().max(place + 1), 0);
                // The input of the first step is copied anew for each strip.
                let rows_kept = if place == 0 { needed } else { 2 * needed };
                sizes[place] = sizes[place].max(rows_kept * map.row());
                rows = needed;
            }
        }
        let strips = sizes.iter().map(|size| Strip { values: vec![0.0; *size], start: 0, rows: 0..0 }).collect();
        Self { strips, work }
    }
}

/// One thread's part in a run.
struct Work<'a> {
    runner: &'a Runner,
    pixels: &'a [f32],
    watch: Watch<'a>,
}

impl Work<'_> {
    fn phase(&self, phase: usize, scratch: &mut Scratch) {
        let next = || self.runner.work.next(phase);
        match &self.runner.plan.phases[phase] {
            Phase::Chain(chain) => loop {
                let band = next();
                if band >= chain.bands {
                    return;
                }
                self.band(chain, band, scratch);
            },
            Phase::Mean(step) => {
                if next() == 0 {
                    self.watch.step(Some(*step));
                    self.mean(*step, &mut scratch.work);
                }
            }
        }
    }

    /// Passes rows of a map to `take`, with the index of each.
    fn read(&self, map: MapId, rows: &Range<usize>, take: &mut dyn FnMut(usize, &[f32])) {
        let Some(place) = &self.runner.plan.places[map] else { return };
        let row = self.runner.program.maps[map].row();
        for (band, memory) in place.bands.iter().zip(&self.runner.memory[place.buffer]) {
            let within = band.start.max(rows.start)..band.end.min(rows.end);
            if within.is_empty() {
                continue;
            }
            let values = memory.read().unwrap_or_else(PoisonError::into_inner);
            for at in within {
                take(at, &values[(at - band.start) * row..][..row]);
            }
        }
    }

    /// Copies rows of a map to `out`; the pixels' channels are brought side by side.
    fn copy(&self, map: MapId, rows: &Range<usize>, out: &mut [f32]) {
        let shape = self.runner.program.maps[map];
        if map == 0 {
            let plane = shape.height * shape.width;
            let pixels = rows.start * shape.width..rows.end * shape.width;
            for (pixel, out) in pixels.zip(out.chunks_exact_mut(shape.channels)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    *out = self.pixels[channel * plane + pixel];
                }
            }
            return;
        }
        self.read(map, rows, &mut |at, row| out[(at - rows.start) * row.len()..][..row.len()].copy_from_slice(row));
    }

    fn band(&self, chain: &Chain, band: usize, scratch: &mut Scratch) {
        let program = &self.runner.program;
        let Some(place) = &self.runner.plan.places[program.steps[chain.steps.end - 1].out] else { return };
        let mut memory = self.runner.memory[place.buffer][band].write().unwrap_or_else(PoisonError::into_inner);
        let first_row = place.bands[band].start;
        scratch.strips.iter_mut().for_each(|strip| strip.rows = 0..0);
        for rows in chain.strips(band) {
            self.strip(chain, chain.steps.end - 1, rows.clone(), scratch, &mut memory, first_row);
        }
    }

    /// Computes the `rows` of the map of step `index`: into `last` if it is the chain's last step, otherwise into the
    /// strip of the step, where rows from the strip before are kept.
    fn strip(
        &self,
        chain: &Chain,
        index: usize,
        rows: Range<usize>,
        scratch: &mut Scratch,
        last: &mut [f32],
        first_row: usize,
    ) {
        let program = &self.runner.program;
        let step = &program.steps[index];
        let place = index - chain.steps.start;
        let (x, out) = (program.maps[step.x], program.maps[step.out]);
        let is_last = index + 1 == chain.steps.end;
        let new = if is_last {
            rows
        } else {
            let strip = &mut scratch.strips[place + 1];
            strip.slide(&rows, out.row());
            strip.rows.end..rows.end
        };
        if new.is_empty() {
            return;
        }
        let needed = step.op.window().rows(&new, x.height);
        if place == 0 {
            let input = &mut scratch.strips[0];
            (input.start, input.rows) = (0, needed.clone());
            self.copy(step.x, &needed, input.part_mut(&needed, x.row()));
        } else {
            self.strip(chain, index - 1, needed.clone(), scratch, last, first_row);
        }
        self.watch.step(Some(index));
        let (before, after) = scratch.strips.split_at_mut(place + 1);
        let input = Rows { values: before[place].part(&needed, x.row()), rows: needed, shape: x };
        if let (Watch::LinearInputs(take), Op::Convolution { .. }) = (self.watch, &step.op) {
            input.values.chunks_exact(x.channels).for_each(|pixel| take(index, pixel));
        }
        let to = if is_last {
            &mut last[(new.start - first_row) * out.row()..][..new.len() * out.row()]
        } else {
            let strip = &mut after[0];
            strip.rows.end = new.end;
            strip.part_mut(&new, out.row())
        };
        if let Some(add) = step.add {
            self.copy(add, &new, to);
        }
        if let Op::Scale { by } = step.op {
            self.copy(by, &(0..1), scratch.work.vector(out.channels));
        }
        scratch.work.compute(self.runner.kernels, step, &input, new, out, to);
    }

    /// The mean of all pixels of a map.
    fn mean(&self, index: usize, work: &mut Workspace) {
        let step = &self.runner.program.steps[index];
        let shape = self.runner.program.maps[step.x];
        let sums = work.vector(shape.channels);
        sums.fill(0.0);
        self.read(step.x, &(0..shape.height), &mut |_, row| {
            for pixel in row.chunks_exact(shape.channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += v);
            }
        });
        let share = 1.0 / (shape.height * shape.width) as f32;
        sums.iter_mut().for_each(|sum| *sum *= share);
        if let Some(activation) = step.activation {
            self.runner.kernels.activate(activation, sums, shape.channels, shape.channels);
        }
        let Some(place) = &self.runner.plan.places[step.out] else { return };
        let mut memory = self.runner.memory[place.buffer][0].write().unwrap_or_else(PoisonError::into_inner);
        memory[..shape.channels].copy_from_slice(sums);
    }
}
