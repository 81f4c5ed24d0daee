//! Runs a [`Program`]: every thread carries blocks of rows through the steps between two attentions, then all meet.
//!
//! Whatever a run needs is allocated when the runner is made. A row's result does not depend on the block it is in, nor
//! on the thread, so that any number of threads gives the same bits.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::attention::{Head, HeadScratch};
use super::kernels::{Activation, Kernels, Matrix, Pool, QuantizedRows};
use super::program::{Attention, Index, Op, Patches, Program, Rows, Table, ValueId, View, Weights};

/// Rows of a block: few enough for the block's values to stay in a core's second-level cache (a feed-forward block of
/// 3072 floats for 64 rows is 768 KiB), many enough for the weights' way from memory to be worth it.
const BLOCK_ROWS_MAX: usize = 64;

/// Blocks for each thread, so that one that was held up leaves work to others.
const BLOCKS_PER_THREAD: usize = 2;

/// Fewer rows than this are not worth a block of their own: a panel of weights would be read for hardly any work.
const BLOCK_ROWS_MIN: usize = 12;

/// What a tower is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// `[channels][height][width]`.
    Pixels(&'a [f32], [usize; 2]),
    /// One of each for every token.
    Tokens { ids: &'a [i64], types: &'a [i64], mask: &'a [i64] },
}

/// Told which step starts, or that none runs any more. Only runs with one thread are observed.
pub(crate) type Observer<'a> = &'a (dyn Fn(Option<usize>) + Sync);

/// Steps between two meetings of the threads.
#[derive(Debug, Clone)]
enum Phase {
    Rows(Range<usize>),
    Attention(usize),
}

/// A program with its memory.
#[derive(Debug)]
pub(crate) struct Runner {
    program: Program,
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    phases: Vec<Phase>,
    /// Where each value starts within a block's memory.
    offsets: Vec<usize>,
    blocks: Vec<RwLock<Vec<f32>>>,
    /// One for each head and part of the queries: what attention gives, until the rows' blocks fetch it.
    contexts: Vec<RwLock<Vec<f32>>>,
    scratch: Vec<Mutex<Scratch>>,
    /// The most heads of any attention.
    heads: usize,
    /// The next piece of work of each phase.
    next: Vec<AtomicUsize>,
    /// One run at a time.
    running: Mutex<()>,
}

/// Memory of one thread.
#[derive(Debug)]
struct Scratch {
    rows: Vec<f32>,
    quantized: Quantized,
    head: HeadScratch,
}

/// Quantised rows with room for the widest.
#[derive(Debug)]
pub(super) struct Quantized {
    values: Vec<u8>,
    stride: usize,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
}

impl Quantized {
    pub(super) fn new(rows: usize, width: usize) -> Self {
        Self {
            values: vec![0; rows * stride_of(width)],
            stride: 0,
            scales: vec![0.0; rows],
            zero_points: vec![0; rows],
        }
    }

    /// Starts over, for rows of `width` values.
    pub(super) fn start(&mut self, width: usize) {
        self.stride = stride_of(width);
    }

    /// Row `row`'s bytes, scale and zero point.
    pub(super) fn row(&mut self, row: usize) -> (&mut [u8], &mut f32, &mut i32) {
        let values = &mut self.values[row * self.stride..][..self.stride];
        (values, &mut self.scales[row], &mut self.zero_points[row])
    }

    pub(super) fn quantize(&mut self, kernels: &Kernels, row: usize, x: &[f32]) {
        let (values, scale, zero_point) = self.row(row);
        (*scale, *zero_point) = kernels.quantize(x, values);
    }

    pub(super) fn rows(&self, count: usize) -> QuantizedRows<'_> {
        QuantizedRows {
            values: &self.values,
            stride: self.stride,
            scales: &self.scales[..count],
            zero_points: &self.zero_points[..count],
        }
    }
}

/// Whole cache lines, and one more where rows would otherwise all fall into the same few sets of the cache.
fn stride_of(width: usize) -> usize {
    let lines = width.div_ceil(64);
    (lines + usize::from(lines.is_multiple_of(4))) * 64
}

/// How the rows of a run are shared out.
#[derive(Debug, Clone, Copy)]
struct Sharing {
    tokens: usize,
    blocks: usize,
    /// Parts of the queries of a head.
    parts: usize,
}

impl Sharing {
    fn block(&self, index: usize) -> Range<usize> {
        self.tokens * index / self.blocks..self.tokens * (index + 1) / self.blocks
    }

    /// Queries of part `index`.
    fn part(&self, queries: usize, index: usize) -> Range<usize> {
        queries * index / self.parts..queries * (index + 1) / self.parts
    }
}

impl Runner {
    /// Allocates what `program` needs, whose weights are loaded for `kernels`.
    pub(crate) fn new(program: Program, kernels: &'static Kernels, pool: Arc<Pool>) -> Self {
        let phases = phases(&program);
        let attentions = |op: &Op| if let Op::Attention(attention) = op { Some(*attention) } else { None };
        let attentions: Vec<_> = program.steps.iter().filter_map(|step| attentions(&step.op)).collect();
        let heads = attentions.iter().map(|attention| attention.heads).max().unwrap_or(0);
        let dim = attentions.iter().map(Attention::head_dim).max().unwrap_or(0);
        let threads = pool.threads();
        let sharing = share(program.tokens, threads, heads);
        // Rounding may put one more row into a block, and shorter inputs may be shared out in fewer blocks.
        let capacity = (1..=program.tokens)
            .map(|tokens| share(tokens, threads, heads))
            .map(|sharing| sharing.tokens.div_ceil(sharing.blocks))
            .max()
            .unwrap_or(1);
        let (offsets, len) = place_values(&program, capacity);
        let widest = program.steps.iter().map(|step| input_width(&step.op)).max().unwrap_or(0);
        let patch = program.steps.iter().map(|step| patch_width(&step.op)).max().unwrap_or(0);
        let int8 = program.steps.iter().any(|step| matches!(&step.op, Op::Linear { weights, .. } if weights.is_i8()));
        let scratch = || Scratch {
            rows: vec![0.0; patch * capacity],
            quantized: Quantized::new(capacity, widest),
            head: HeadScratch::new(kernels, if heads > 0 { program.tokens } else { 0 }, dim, int8),
        };
        let parts = (1..=program.tokens).map(|tokens| share(tokens, threads, heads).parts).max().unwrap_or(1);
        Self {
            scratch: (0..threads).map(|_| Mutex::new(scratch())).collect(),
            blocks: (0..sharing.blocks.max(threads * BLOCKS_PER_THREAD)).map(|_| RwLock::new(vec![0.0; len])).collect(),
            contexts: (0..heads * parts).map(|_| RwLock::new(vec![0.0; program.tokens * dim])).collect(),
            next: phases.iter().map(|_| AtomicUsize::new(0)).collect(),
            running: Mutex::new(()),
            heads,
            phases,
            offsets,
            program,
            kernels,
            pool,
        }
    }

    /// The program.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// The instruction set.
    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Computes the embedding of `input` into `out`.
    ///
    /// # Panics
    /// When the input or `out` does not have the program's size; the tower has checked both.
    pub(crate) fn run(&self, input: Input<'_>, out: &mut [f32], observer: Option<Observer<'_>>) {
        let tokens = match input {
            Input::Pixels(..) => self.program.tokens,
            Input::Tokens { ids, .. } => ids.len(),
        };
        assert!(tokens > 0 && tokens <= self.program.tokens);
        let _running = lock(&self.running);
        let sharing = share(tokens, self.pool.threads(), self.heads);
        self.next.iter().for_each(|next| next.store(0, Ordering::Relaxed));
        if let Some(observer) = observer {
            let mut scratch = lock(&self.scratch[0]);
            let work = Work { runner: self, input, sharing, observer };
            for phase in 0..self.phases.len() {
                work.phase(phase, &mut scratch);
            }
            observer(None);
        } else {
            self.pool.run(&|number, meeting| {
                let mut scratch = lock(&self.scratch[number]);
                let work = Work { runner: self, input, sharing, observer: &|_| {} };
                for phase in 0..self.phases.len() {
                    work.phase(phase, &mut scratch);
                    meeting.wait();
                }
            });
        }
        let view = self.program.output;
        let block = read(&self.blocks[0]);
        out.copy_from_slice(&block[self.offsets[view.value] + view.offset..][..view.width]);
    }
}

/// One thread's part in a run.
struct Work<'a> {
    runner: &'a Runner,
    input: Input<'a>,
    sharing: Sharing,
    observer: Observer<'a>,
}

impl Work<'_> {
    fn phase(&self, phase: usize, scratch: &mut Scratch) {
        let runner = self.runner;
        let next = &runner.next[phase];
        match &runner.phases[phase] {
            Phase::Rows(steps) => {
                let fetch = phase.checked_sub(1).and_then(|before| match runner.phases[before] {
                    Phase::Attention(step) => Some(step),
                    Phase::Rows(_) => None,
                });
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= self.sharing.blocks {
                        return;
                    }
                    let mut block = write(&runner.blocks[index]);
                    let mut block = Block { work: self, index, rows: self.sharing.block(index), values: &mut block };
                    if let Some(step) = fetch {
                        block.fetch_context(step);
                    }
                    for step in steps.clone() {
                        (self.observer)(Some(step));
                        block.step(&runner.program.steps[step].op, scratch);
                    }
                }
            }
            Phase::Attention(step) => {
                (self.observer)(Some(*step));
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Op::Attention(attention) = &runner.program.steps[*step].op else { return };
                    if index >= attention.heads * self.sharing.parts {
                        return;
                    }
                    self.attend(attention, index, &mut scratch.head);
                }
            }
        }
    }

    /// The rows of a view, from whichever blocks they are in.
    fn attend(&self, attention: &Attention, index: usize, scratch: &mut HeadScratch) {
        let runner = self.runner;
        let (head, part) = (index / self.sharing.parts, index % self.sharing.parts);
        let dim = attention.head_dim();
        let one = runner.program.values[attention.query.value].rows == Rows::One;
        let queries = if one { 1 } else { self.sharing.tokens };
        let queries = self.sharing.part(queries, part);
        if queries.is_empty() {
            return;
        }
        let visit = |view: View, rows: Range<usize>, f: &mut dyn FnMut(usize, Matrix<'_>)| {
            let stride = runner.program.values[view.value].width;
            let offset = runner.offsets[view.value] + view.offset + head * dim;
            for index in 0..self.sharing.blocks {
                let block = if one && view == attention.query { 0..1 } else { self.sharing.block(index) };
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
        let tokens = self.sharing.tokens;
        let mask = match self.input {
            Input::Tokens { mask, .. } if attention.masked && mask.contains(&0) => Some(mask),
            _ => None,
        };
        let head = Head {
            queries: queries.len(),
            tokens,
            dim,
            scale: attention.scale,
            mask,
            query: &|f| visit(attention.query, queries.clone(), f),
            key: &|f| visit(attention.key, 0..tokens, f),
            value: &|f| visit(attention.value, 0..tokens, f),
        };
        let mut context = write(&runner.contexts[index]);
        scratch.attend(runner.kernels, &head, &mut context);
    }
}

/// A block of rows, and its values.
struct Block<'a, 'b> {
    work: &'a Work<'b>,
    index: usize,
    rows: Range<usize>,
    values: &'a mut [f32],
}

impl Block<'_, '_> {
    /// Rows of a value in this block.
    fn count(&self, value: ValueId) -> usize {
        match (self.work.runner.program.values[value].rows, self.index) {
            (Rows::Tokens, _) => self.rows.len(),
            (Rows::One, 0) => 1,
            (Rows::One, _) => 0,
        }
    }

    fn width(&self, value: ValueId) -> usize {
        self.work.runner.program.values[value].width
    }

    fn range(&self, value: ValueId) -> Range<usize> {
        let start = self.work.runner.offsets[value];
        start..start + self.count(value) * self.width(value)
    }

    /// A value to read, from the first value of the view on, and another to write.
    fn pair(&mut self, x: View, out: ValueId) -> (&[f32], &mut [f32]) {
        let mut from = self.range(x.value);
        from.start += x.offset;
        let to = self.range(out);
        match self.values.get_disjoint_mut([from, to]) {
            Ok([x, out]) => (x, out),
            // Their places were chosen not to overlap while both are needed.
            Err(_) => unreachable!("values that overlap"),
        }
    }

    fn fetch_context(&mut self, step: usize) {
        let runner = self.work.runner;
        let Op::Attention(attention) = &runner.program.steps[step].op else { return };
        let (dim, parts) = (attention.head_dim(), self.work.sharing.parts);
        let (width, start) = (self.width(attention.out), runner.offsets[attention.out]);
        let count = self.count(attention.out);
        let first = if count == self.rows.len() { self.rows.start } else { 0 };
        let one = runner.program.values[attention.out].rows == Rows::One;
        let queries = if one { 1 } else { self.work.sharing.tokens };
        for head in 0..attention.heads {
            for part in 0..parts {
                let part_rows = self.work.sharing.part(queries, part);
                let rows = part_rows.start.max(first)..part_rows.end.min(first + count);
                if rows.is_empty() {
                    continue;
                }
                let context = read(&runner.contexts[head * parts + part]);
                for row in rows {
                    let from = &context[(row - part_rows.start) * dim..][..dim];
                    self.values[start + (row - first) * width + head * dim..][..dim].copy_from_slice(from);
                }
            }
        }
    }

    fn step(&mut self, op: &Op, scratch: &mut Scratch) {
        if self.count(op.out()) == 0 {
            return;
        }
        match op {
            Op::PatchEmbedding { patches, weights, out } => self.patch_embedding(patches, weights, *out, scratch),
            Op::Lookup { table, index, out } => self.lookup(table, *index, *out),
            Op::AddTable { x, table, out } => self.add_table(*x, table, *out),
            Op::Add { a, b, out } => self.add(*a, *b, *out),
            Op::LayerNorm { x, gamma, beta, epsilon, out } => {
                let (width, kernels) = (self.width(x.value), self.work.runner.kernels);
                let (from, to) = self.pair(*x, *out);
                for (out, row) in to.chunks_exact_mut(x.width).zip(from.chunks(width)) {
                    kernels.layer_norm(&row[..x.width], gamma, beta, *epsilon, out);
                }
            }
            Op::Linear { x, weights, activation, add, out } => {
                let (rows, stride) = (self.count(*out), self.width(x.value));
                let kernels = self.work.runner.kernels;
                let (from, to) = self.pair(*x, *out);
                let from = Matrix { values: from, stride, width: x.width, rows };
                linear(kernels, from, weights, *activation, *add, to, &mut scratch.quantized);
            }
            Op::Activate { x, activation, out } => {
                self.copy(*x, *out);
                let (range, width) = (self.range(*out), x.width);
                self.work.runner.kernels.activate(*activation, &mut self.values[range], width, width);
            }
            Op::First { x, out } => {
                let (from, to) = self.pair(*x, *out);
                to.copy_from_slice(&from[..x.width]);
            }
            Op::Normalize { x, out } => {
                self.copy(*x, *out);
                let range = self.range(*out);
                for row in self.values[range].chunks_exact_mut(x.width) {
                    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|v| *v /= norm);
                }
            }
            Op::Attention(_) => {}
        }
    }

    /// Copies a view into another value; nothing where they are the same.
    fn copy(&mut self, x: View, out: ValueId) {
        if x.value != out {
            let width = self.width(x.value);
            let (from, to) = self.pair(x, out);
            for (out, row) in to.chunks_exact_mut(x.width).zip(from.chunks(width)) {
                out.copy_from_slice(&row[..x.width]);
            }
        }
    }

    fn add_table(&mut self, x: View, table: &[f32], out: ValueId) {
        self.copy(x, out);
        let (range, first) = (self.range(out), self.rows.start);
        for (row, out) in self.values[range].chunks_exact_mut(x.width).enumerate() {
            let table = if table.len() == x.width { table } else { &table[(first + row) * x.width..] };
            out.iter_mut().zip(table).for_each(|(out, t)| *out += t);
        }
    }

    fn add(&mut self, a: View, b: View, out: ValueId) {
        self.copy(a, out);
        let width = self.width(b.value);
        let (from, to) = self.pair(b, out);
        for (out, row) in to.chunks_exact_mut(b.width).zip(from.chunks(width)) {
            out.iter_mut().zip(row).for_each(|(out, b)| *out += b);
        }
    }

    fn lookup(&mut self, table: &Table, index: Index, out: ValueId) {
        let Input::Tokens { ids, types, .. } = self.work.input else { return };
        let (range, width, first) = (self.range(out), self.width(out), self.rows.start);
        for (row, out) in self.values[range].chunks_exact_mut(width).enumerate() {
            let token = first + row;
            let at = match index {
                Index::Ids => usize::try_from(ids[token]).unwrap_or(0),
                Index::Types => usize::try_from(types[token]).unwrap_or(0),
                Index::Positions => token,
            };
            match table {
                Table::F32(values) => out.copy_from_slice(&values[at * width..][..width]),
                Table::I8 { values, scales } => {
                    let values = &values[at * width..][..width];
                    out.iter_mut().zip(values).for_each(|(out, w)| *out = f32::from(w.cast_signed()) * scales[at]);
                }
            }
        }
    }

    fn patch_embedding(&mut self, patches: &Patches, weights: &Weights, out: ValueId, scratch: &mut Scratch) {
        let Input::Pixels(pixels, size) = self.work.input else { return };
        let width = patches.channels * patches.patch[0] * patches.patch[1];
        let rows = &mut scratch.rows[..self.rows.len() * width];
        for (row, out) in self.rows.clone().zip(rows.chunks_exact_mut(width)) {
            match row.checked_sub(patches.lead) {
                Some(patch) => cut_patch(patches, pixels, size, patch, out),
                None => out.fill(0.0),
            }
        }
        let range = self.range(out);
        let (kernels, to) = (self.work.runner.kernels, &mut self.values[range]);
        let from = Matrix { values: &*rows, stride: width, width, rows: self.rows.len() };
        linear(kernels, from, weights, None, false, to, &mut scratch.quantized);
        let hidden = self.width(out);
        let lead = patches.lead.saturating_sub(self.rows.start).min(self.rows.len());
        let start = self.work.runner.offsets[out];
        self.values[start..start + lead * hidden].fill(0.0);
    }
}

/// Copies patch number `patch` into `out`: channel by channel, row by row.
fn cut_patch(patches: &Patches, pixels: &[f32], [height, width]: [usize; 2], patch: usize, out: &mut [f32]) {
    let [patch_height, patch_width] = patches.patch;
    let (top, left) = (patch / patches.grid[1] * patch_height, patch % patches.grid[1] * patch_width);
    for (index, out) in out.chunks_exact_mut(patch_width).enumerate() {
        let (channel, row) = (index / patch_height, index % patch_height);
        let start = (channel * height + top + row) * width + left;
        out.copy_from_slice(&pixels[start..start + patch_width]);
    }
}

fn linear(
    kernels: &Kernels,
    x: Matrix<'_>,
    weights: &Weights,
    activation: Option<Activation>,
    add: bool,
    out: &mut [f32],
    quantized: &mut Quantized,
) {
    let (panels, columns, stride) = match weights {
        Weights::I8(weights) => (weights.panels(), kernels.layout_i8.columns, weights.outputs()),
        Weights::F32(weights) => (weights.panels(), kernels.layout_f32.columns, weights.outputs()),
        Weights::Parts(_) => unreachable!("weights are loaded before a program runs"),
    };
    if weights.is_i8() {
        quantized.start(x.width);
        for (index, row) in x.iter().enumerate() {
            quantized.quantize(kernels, index, row);
        }
    }
    for panel in 0..panels {
        match weights {
            Weights::I8(weights) => kernels.panel_i8(&quantized.rows(x.rows), weights, panel, out, stride, add),
            Weights::F32(weights) => {
                kernels.panel_f32(x.values, x.stride, x.rows, weights, panel, out, stride, add);
            }
            Weights::Parts(_) => {}
        }
        if let Some(activation) = activation {
            // At once, while the panel's results are in the nearest cache.
            let first = panel * columns;
            let width = columns.min(stride - first);
            kernels.activate(activation, &mut out[first..], width, stride);
        }
    }
}

fn phases(program: &Program) -> Vec<Phase> {
    let mut phases = Vec::new();
    let mut start = 0;
    for (index, step) in program.steps.iter().enumerate() {
        if matches!(step.op, Op::Attention(_)) {
            phases.push(Phase::Rows(start..index));
            phases.push(Phase::Attention(index));
            start = index + 1;
        }
    }
    phases.push(Phase::Rows(start..program.steps.len()));
    phases
}

fn share(tokens: usize, threads: usize, heads: usize) -> Sharing {
    let wanted = if threads > 1 { threads * BLOCKS_PER_THREAD } else { 1 };
    let blocks = wanted.max(tokens.div_ceil(BLOCK_ROWS_MAX)).min(tokens.div_ceil(BLOCK_ROWS_MIN)).max(1);
    // Heads that do not go round evenly are cut in parts.
    let parts = if heads.is_multiple_of(threads) || tokens < BLOCK_ROWS_MIN * threads { 1 } else { threads };
    Sharing { tokens, blocks, parts }
}

/// Width of the rows that a step quantises.
fn input_width(op: &Op) -> usize {
    match op {
        Op::Linear { x, .. } => x.width,
        other => patch_width(other),
    }
}

fn patch_width(op: &Op) -> usize {
    match op {
        Op::PatchEmbedding { patches, .. } => patches.channels * patches.patch[0] * patches.patch[1],
        _ => 0,
    }
}

/// Gives each value a place that no other value has while both are needed; also says how much memory that takes.
fn place_values(program: &Program, capacity: usize) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; program.values.len()];
    // Start, end, last step that needs it.
    let mut taken: Vec<(usize, usize, usize)> = Vec::new();
    let mut placed = vec![false; program.values.len()];
    let mut most = 0;
    for (index, step) in program.steps.iter().enumerate() {
        let value = step.op.out();
        if std::mem::replace(&mut placed[value], true) {
            continue;
        }
        let Some(form) = program.values.get(value) else { continue };
        let rows = if form.rows == Rows::One { 1 } else { capacity };
        // Whole cache lines.
        let len = (rows * form.width).next_multiple_of(16);
        let reads = program.steps.iter().rposition(|step| step.op.reads(value) || step.op.out() == value);
        let last = if program.output.value == value { usize::MAX } else { reads.unwrap_or(index) };
        taken.retain(|(.., needed)| *needed >= index);
        taken.sort_unstable();
        let mut start = 0;
        for (from, to, _) in &taken {
            if start + len <= *from {
                break;
            }
            start = start.max(*to);
        }
        taken.push((start, start + len, last));
        offsets[value] = start;
        most = most.max(start + len);
    }
    (offsets, most)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
