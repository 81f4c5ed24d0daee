//! Runs a [`Program`]: each thread takes blocks of rows through the steps between two attentions, then all threads wait at a
//! barrier.
//!
//! All memory is allocated when the runner is created. A row's result depends neither on its block nor on the thread, so
//! any number of threads gives the same bits.

mod block;
mod plan;

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::block::Block;
use self::plan::{BLOCKS_PER_THREAD, Partition, Phase, input_width, patch_width, phases, place_values};
use super::attention::{Head, HeadScratch};
use super::kernels::{Kernels, Matrix, Pool};
use super::phases::{Phases, Watch};
use super::program::{Attention, Op, Pooling, Program, Rows, ValueId, View};
use super::quantized::Quantized;

/// The input of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// `[channels][height][width]`, and height and width.
    Pixels(&'a [f32], [usize; 2]),
    /// One value per token in each list.
    Tokens { ids: &'a [i64], types: &'a [i64], positions: &'a [i64], mask: &'a [i64] },
}

/// A program with its scratch memory.
#[derive(Debug)]
pub(crate) struct Runner {
    program: Arc<Program>,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    phases: Vec<Phase>,
    /// Offset of each value in the memory of a block.
    offsets: Vec<usize>,
    blocks: Vec<RwLock<Vec<f32>>>,
    /// Results of attention per head and part of the queries, until the blocks copy them.
    contexts: Vec<RwLock<Vec<f32>>>,
    /// The most heads of any attention.
    heads: usize,
    work: Phases<Scratch>,
}

/// Scratch memory of one thread.
#[derive(Debug)]
struct Scratch {
    rows: Vec<f32>,
    /// One row, as wide as the widest that is pooled.
    pooled: Vec<f32>,
    quantized: Quantized,
    /// For float and int8 attention; empty if the program has none.
    heads: [HeadScratch; 2],
}

impl Runner {
    /// Allocates memory for `program`, whose weights are packed for `kernels`.
    pub(crate) fn new(program: Arc<Program>, kernels: &'static Kernels, pool: Arc<Pool>) -> Self {
        let phases = phases(&program);
        let attentions = |op: &Op| if let Op::Attention(attention) = op { Some(*attention) } else { None };
        let attentions: Vec<_> = program.steps.iter().filter_map(|step| attentions(&step.op)).collect();
        let heads = attentions.iter().map(|attention| attention.heads).max().unwrap_or(0);
        let dim = attentions.iter().map(Attention::head_dim).max().unwrap_or(0);
        let threads = pool.threads();
        let partition = Partition::new(program.tokens, threads, heads);
        // Rounding can add a row to a block, and shorter inputs can be split into fewer blocks.
        let capacity = (1..=program.tokens)
            .map(|tokens| Partition::new(tokens, threads, heads))
            .map(|partition| partition.tokens.div_ceil(partition.blocks))
            .max()
            .unwrap_or(1);
        let (offsets, len) = place_values(&program, capacity);
        let widest = program.steps.iter().map(|step| input_width(&step.op)).max().unwrap_or(0);
        let patch = program.steps.iter().map(|step| patch_width(&step.op)).max().unwrap_or(0);
        let pools = program.steps.iter().filter(|step| matches!(step.op, Op::Pool { .. }));
        let pooled = pools.map(|step| program.values[step.op.out()].width).max().unwrap_or(0);
        let scratch = || Scratch {
            pooled: vec![0.0; pooled],
            rows: vec![0.0; patch * capacity],
            quantized: Quantized::new(capacity, widest),
            heads: [false, true].map(|int8| {
                let used = attentions.iter().any(|attention| attention.int8 == int8);
                HeadScratch::new(kernels, if used { program.tokens } else { 0 }, dim, int8)
            }),
        };
        let parts = (1..=program.tokens).map(|tokens| Partition::new(tokens, threads, heads).parts).max().unwrap_or(1);
        Self {
            work: Phases::new(threads, phases.len(), scratch),
            blocks: (0..partition.blocks.max(threads * BLOCKS_PER_THREAD))
                .map(|_| RwLock::new(vec![0.0; len]))
                .collect(),
            contexts: (0..heads * parts).map(|_| RwLock::new(vec![0.0; program.tokens * dim])).collect(),
            heads,
            phases,
            offsets,
            program,
            kernels,
            pool,
        }
    }

    /// A runner for another program, with the same kernels and threads.
    pub(crate) fn with_program(&self, program: Program) -> Self {
        Self::new(Arc::new(program), self.kernels, Arc::clone(&self.pool))
    }

    /// The program.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// The kernels.
    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Computes the embedding of `input` into `out`.
    ///
    /// # Panics
    /// If the size of the input or of `out` is wrong; towers check both before.
    pub(crate) fn run(&self, input: Input<'_>, out: &mut [f32], watch: Watch<'_>) {
        let tokens = match input {
            Input::Pixels(..) => self.program.tokens,
            Input::Tokens { ids, .. } => ids.len(),
        };
        assert!(tokens > 0 && tokens <= self.program.tokens);
        let partition = Partition::new(tokens, self.pool.threads(), self.heads);
        let work = Work { runner: self, input, partition, watch };
        let _running = self.work.run(&self.pool, watch, &|phase, scratch| work.phase(phase, scratch));
        let view = self.program.output;
        let block = read(&self.blocks[0]);
        out.copy_from_slice(&block[self.offsets[view.value] + view.offset..][..view.width]);
    }
}

impl Clone for Runner {
    /// A runner with the same weights and its own scratch memory.
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.program), self.kernels, Arc::clone(&self.pool))
    }
}

/// One thread's part in a run.
struct Work<'a> {
    runner: &'a Runner,
    input: Input<'a>,
    partition: Partition,
    watch: Watch<'a>,
}

impl Work<'_> {
    fn phase(&self, phase: usize, scratch: &mut Scratch) {
        let runner = self.runner;
        match &runner.phases[phase] {
            Phase::Rows(steps) => {
                let fetch = phase.checked_sub(1).and_then(|before| match runner.phases[before] {
                    Phase::Attention(step) => Some(step),
                    Phase::Rows(_) | Phase::Pool(_) => None,
                });
                loop {
                    let index = runner.work.next(phase);
                    if index >= self.partition.blocks {
                        return;
                    }
                    let mut block = write(&runner.blocks[index]);
                    let mut block = Block { work: self, index, rows: self.partition.block(index), values: &mut block };
                    if let Some(step) = fetch {
                        block.fetch_context(step);
                    }
                    for step in steps.clone() {
                        self.watch.step(Some(step));
                        if let Watch::LinearInputs(take) = self.watch {
                            block.show_inputs(step, take);
                        }
                        block.step(&runner.program.steps[step].op, scratch);
                    }
                }
            }
            Phase::Attention(step) => {
                self.watch.step(Some(*step));
                loop {
                    let index = runner.work.next(phase);
                    let Op::Attention(attention) = &runner.program.steps[*step].op else { return };
                    if index >= attention.heads * self.partition.parts {
                        return;
                    }
                    self.attend(attention, index, &mut scratch.heads);
                }
            }
            Phase::Pool(step) => {
                let Op::Pool { x, pooling, out } = runner.program.steps[*step].op else { return };
                if runner.work.next(phase) == 0 {
                    self.watch.step(Some(*step));
                    self.pool(x, pooling, out, &mut scratch.pooled);
                }
            }
        }
    }

    /// Reduces all rows to one, which the first block stores.
    fn pool(&self, x: View, pooling: Pooling, out: ValueId, pooled: &mut [f32]) {
        let (runner, tokens) = (self.runner, self.partition.tokens);
        let rows = match (pooling, self.input) {
            (Pooling::MeanFrom(first), _) => first.min(tokens - 1)..tokens,
            (Pooling::LargestId, Input::Tokens { ids, .. }) => {
                let largest = ids.iter().max();
                let row = ids.iter().position(|id| Some(id) == largest).unwrap_or(0);
                row..row + 1
            }
            (Pooling::FirstId(wanted), Input::Tokens { ids, .. }) => {
                let row = ids.iter().position(|id| *id == wanted).unwrap_or(0);
                row..row + 1
            }
            (Pooling::Last | Pooling::LargestId | Pooling::FirstId(_), _) => tokens - 1..tokens,
        };
        let (stride, offset) = (runner.program.values[x.value].width, runner.offsets[x.value] + x.offset);
        let pooled = &mut pooled[..x.width];
        pooled.fill(0.0);
        for index in 0..self.partition.blocks {
            let block = self.partition.block(index);
            let values = read(&runner.blocks[index]);
            for row in block.start.max(rows.start)..block.end.min(rows.end) {
                let row = &values[offset + (row - block.start) * stride..][..x.width];
                pooled.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
        }
        let share = 1.0 / rows.len() as f32;
        let mut block = write(&runner.blocks[0]);
        let out = &mut block[runner.offsets[out]..][..x.width];
        out.iter_mut().zip(pooled).for_each(|(out, sum)| *out = *sum * share);
    }

    /// Computes one part of the queries of one head.
    fn attend(&self, attention: &Attention, index: usize, scratch: &mut [HeadScratch; 2]) {
        let runner = self.runner;
        let (head, part) = (index / self.partition.parts, index % self.partition.parts);
        let dim = attention.head_dim();
        let one = runner.program.values[attention.query.value].rows == Rows::One;
        let total = if one { 1 } else { self.partition.tokens };
        let queries = self.partition.part(total, part);
        if queries.is_empty() {
            return;
        }
        let visit = |view: View, rows: Range<usize>, f: &mut dyn FnMut(usize, Matrix<'_>)| {
            let stride = runner.program.values[view.value].width;
            let offset = runner.offsets[view.value] + view.offset + head * dim;
            for index in 0..self.partition.blocks {
                let block = if one && view == attention.query { 0..1 } else { self.partition.block(index) };
                let (first, end) = (block.start.max(rows.start), block.end.min(rows.end));
                if first < end {
                    let values = read(&runner.blocks[index]);
                    let values = &values[offset + (first - block.start) * stride..];
                    f(first - rows.start, Matrix { values, stride, width: dim, rows: end - first });
                }
                if block.end >= rows.end {
                    return;
                }
            }
        };
        let tokens = self.partition.tokens;
        let mask = match self.input {
            Input::Tokens { mask, .. } if attention.terms.masked && mask.contains(&0) => Some(mask),
            _ => None,
        };
        let bias = attention.terms.bias.map(|bias| {
            let bias = &runner.program.biases[bias];
            &bias.values[((head % bias.heads) * total + queries.start) * tokens..][..queries.len() * tokens]
        });
        let head = Head {
            queries: queries.len(),
            tokens,
            dim,
            scale: attention.scale,
            mask,
            causal: attention.terms.causal.then_some(queries.start),
            bias,
            query: &|f| visit(attention.query, queries.clone(), f),
            key: &|f| visit(attention.key, 0..tokens, f),
            value: &|f| visit(attention.value, 0..tokens, f),
        };
        let mut context = write(&runner.contexts[index]);
        scratch[usize::from(attention.int8)].attend(runner.kernels, &head, &mut context);
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
