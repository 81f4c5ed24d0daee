//! Divides the steps of a convolutional tower into chains, chains into strips and bands, and maps among buffers.

use std::ops::Range;

use super::program::{MapId, Op, Program};

/// The least pixels of a strip: with fewer, loading a panel of weights costs more than the work on it.
const STRIP_PIXELS_MIN: usize = 28;

/// Bands per thread, so that other threads can take over the work of a delayed one.
const BANDS_PER_THREAD: usize = 2;

/// The largest share of rows of maps within a chain that bands may compute twice, at their edges.
const TWICE_MAX: f64 = 0.1;

/// Steps that are run strip by strip, or the mean of a whole map.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Chain(Chain),
    Mean(usize),
}

/// Consecutive steps, each of which alone reads the map of the one before.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) steps: Range<usize>,
    /// Rows of a strip of the last map; the last strip may have fewer.
    pub(super) strip: usize,
    /// Rows of the last map.
    pub(super) height: usize,
    /// Parts of the last map, whole strips each, which threads take one after the other.
    pub(super) bands: usize,
}

impl Chain {
    /// The rows of a band.
    pub(super) fn band(&self, index: usize) -> Range<usize> {
        let strips = self.height.div_ceil(self.strip);
        let row = |band: usize| (strips * band / self.bands * self.strip).min(self.height);
        row(index)..row(index + 1)
    }

    /// The strips of a band.
    pub(super) fn strips(&self, band: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, strip) = (self.band(band), self.strip);
        rows.clone().step_by(strip).map(move |start| start..(start + strip).min(rows.end))
    }
}

/// How a tower is run with a number of threads.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The phases of a run, in order.
    pub(super) phases: Vec<Phase>,
    /// Where each map is stored that outlives a phase.
    pub(super) places: Vec<Option<Place>>,
    /// Values of each band of each buffer.
    pub(super) sizes: Vec<Vec<usize>>,
}

/// Where a map is stored.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) buffer: usize,
    /// The rows of each band.
    pub(super) bands: Vec<Range<usize>>,
}

impl Plan {
    /// Divides `program` among `threads` threads.
    pub(crate) fn new(program: &Program, threads: usize) -> Self {
        let mut plan =
            Self { phases: phases(program, threads), places: vec![None; program.maps.len()], sizes: Vec::new() };
        plan.place(program);
        plan
    }

    /// Values of all maps that outlive a phase.
    pub(crate) fn values(&self) -> usize {
        self.sizes.iter().flatten().sum()
    }

    /// Assigns buffers, so that maps that are needed at the same time have different ones.
    fn place(&mut self, program: &Program) {
        let steps_of = |phase: &Phase| match phase {
            Phase::Chain(chain) => chain.steps.clone(),
            Phase::Mean(step) => *step..*step + 1,
        };
        let last_read = |map: MapId| {
            if program.output == map {
                return usize::MAX;
            }
            let reads = |phase: &Phase| program.steps[steps_of(phase)].iter().any(|step| step.reads(map) > 0);
            self.phases.iter().rposition(reads).unwrap_or(0)
        };
        // The phase up to which each buffer is needed.
        let mut taken: Vec<usize> = Vec::new();
        for (index, phase) in self.phases.iter().enumerate() {
            let Some(step) = program.steps[steps_of(phase)].last() else { continue };
            let shape = program.maps[step.out];
            let bands: Vec<Range<usize>> = match phase {
                Phase::Chain(chain) => (0..chain.bands).map(|band| chain.band(band)).collect(),
                Phase::Mean(_) => std::iter::once(0..1).collect(),
            };
            let buffer = taken.iter().position(|needed| *needed < index).unwrap_or(taken.len());
            if buffer == taken.len() {
                taken.push(0);
                self.sizes.push(Vec::new());
            }
            taken[buffer] = last_read(step.out);
            let sizes = &mut self.sizes[buffer];
            sizes.resize(sizes.len().max(bands.len()), 0);
            for (size, rows) in sizes.iter_mut().zip(&bands) {
                *size = (*size).max(rows.len() * shape.row());
            }
            self.places[step.out] = Some(Place { buffer, bands });
        }
    }
}

fn phases(program: &Program, threads: usize) -> Vec<Phase> {
    let mut phases = Vec::new();
    let mut start = 0;
    while start < program.steps.len() {
        if matches!(program.steps[start].op, Op::Mean) {
            phases.push(Phase::Mean(start));
            start += 1;
            continue;
        }
        let steps = start..end_of_chain(program, start);
        let whole = chain(program, steps.clone(), threads);
        start = steps.end;
        if share_twice(program, &whole) <= TWICE_MAX {
            phases.push(Phase::Chain(whole));
        } else {
            phases.extend(steps.map(|step| Phase::Chain(chain(program, step..step + 1, threads))));
        }
    }
    phases
}

fn chain(program: &Program, steps: Range<usize>, threads: usize) -> Chain {
    let last = program.maps[program.steps[steps.end - 1].out];
    let strip = STRIP_PIXELS_MIN.div_ceil(last.width).clamp(1, last.height);
    let wanted = if threads > 1 { threads * BANDS_PER_THREAD } else { 1 };
    let bands = wanted.min(last.height.div_ceil(strip));
    Chain { steps, strip, height: last.height, bands }
}

/// The end of the chain that begins with step `start`. A chain has at most one step whose results depend on more than a
/// pixel, and nothing follows a convolution over all channels of more than a pixel: its input is quantised strip by
/// strip, and strips of the last map alone are the same for any number of threads.
fn end_of_chain(program: &Program, start: usize) -> usize {
    let mut end = start + 1;
    let mut spatial = (!program.steps[start].op.window().is_point()).then_some(start);
    while end < program.steps.len() {
        let (before, step) = (&program.steps[end - 1], &program.steps[end]);
        let follows = step.x == before.out
            && program.uses(before.out) == 1
            && !matches!(step.op, Op::Mean)
            && !before.op.gathers();
        if !follows {
            break;
        }
        if !step.op.window().is_point() {
            if let Some(earlier) = spatial {
                // Between the two, where the map is smallest.
                let volume = |index: usize| {
                    let map = program.maps[program.steps[index].out];
                    map.height * map.row()
                };
                return (earlier..end).rev().min_by_key(|index| volume(*index)).map_or(end, |index| index + 1);
            }
            spatial = Some(end);
        }
        end += 1;
    }
    end
}

/// The share of rows of the maps within a chain that more than one band computes.
fn share_twice(program: &Program, chain: &Chain) -> f64 {
    let (mut computed, mut rows_in_all) = (0, 0);
    for step in chain.steps.clone().skip(1) {
        rows_in_all += program.maps[program.steps[step].x].height;
    }
    for band in 0..chain.bands {
        let mut rows = chain.band(band);
        for step in chain.steps.clone().skip(1).rev() {
            let step = &program.steps[step];
            rows = step.op.window().rows(&rows, program.maps[step.x].height);
            computed += rows.len();
        }
    }
    if rows_in_all == 0 { 0.0 } else { computed as f64 / rows_in_all as f64 - 1.0 }
}
