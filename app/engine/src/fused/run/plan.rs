//! The plan of a run: phases, partition of the rows, and memory layout of values.

use std::ops::Range;

use crate::fused::program::{Op, Program, Rows};

/// Rows of a block: few enough for the block's values to stay in the L2 cache of a core (a feed-forward layer of 3072 floats
/// takes 768 KiB for 64 rows), many enough to amortise loading the weights from memory.
const BLOCK_ROWS_MAX: usize = 64;

/// Blocks per thread, so that other threads can take over the work of a delayed one.
pub(super) const BLOCKS_PER_THREAD: usize = 2;

/// Smallest number of rows of a block: with fewer, loading a panel of weights costs more than the work on it.
const BLOCK_ROWS_MIN: usize = 12;

/// Steps between two barriers.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Rows(Range<usize>),
    Attention(usize),
    Pool(usize),
}

/// How the work of a run is divided among threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partition {
    pub(super) tokens: usize,
    pub(super) blocks: usize,
    /// Number of parts that the queries of a head are split into.
    pub(super) parts: usize,
}

impl Partition {
    /// Splits `tokens` rows into blocks for `threads` threads, and `heads` heads into parts where they do not divide evenly.
    pub(super) fn new(tokens: usize, threads: usize, heads: usize) -> Self {
        let wanted = if threads > 1 { threads * BLOCKS_PER_THREAD } else { 1 };
        let most = tokens.div_ceil(BLOCK_ROWS_MIN).max(1);
        let blocks = wanted.max(tokens.div_ceil(BLOCK_ROWS_MAX)).min(most);
        // The same number of blocks for each thread: five blocks on four threads would take as long as eight.
        let even = blocks.next_multiple_of(threads);
        let blocks = if even <= most {
            even
        } else if blocks > threads {
            even - threads
        } else {
            blocks
        };
        // Heads that cannot be distributed evenly are split into parts.
        let parts = if heads.is_multiple_of(threads) || tokens < BLOCK_ROWS_MIN * threads { 1 } else { threads };
        Self { tokens, blocks, parts }
    }

    pub(super) fn block(&self, index: usize) -> Range<usize> {
        self.tokens * index / self.blocks..self.tokens * (index + 1) / self.blocks
    }

    /// Queries of part `index`.
    pub(super) fn part(&self, queries: usize, index: usize) -> Range<usize> {
        queries * index / self.parts..queries * (index + 1) / self.parts
    }
}

pub(super) fn phases(program: &Program) -> Vec<Phase> {
    let mut phases = Vec::new();
    let mut start = 0;
    for (index, step) in program.steps.iter().enumerate() {
        let phase = match step.op {
            Op::Attention(_) => Phase::Attention(index),
            Op::Pool { .. } => Phase::Pool(index),
            _ => continue,
        };
        phases.push(Phase::Rows(start..index));
        phases.push(phase);
        start = index + 1;
    }
    phases.push(Phase::Rows(start..program.steps.len()));
    phases
}

/// Width of the rows that a step may quantise.
pub(super) fn input_width(op: &Op) -> usize {
    match op {
        Op::Linear { x, .. } => x.width,
        other => patch_width(other),
    }
}

pub(super) fn patch_width(op: &Op) -> usize {
    match op {
        Op::PatchEmbedding { patches, .. } => patches.channels * patches.patch[0] * patches.patch[1],
        _ => 0,
    }
}

/// Assigns an offset to each value, so that values that are needed at the same time do not overlap. Also returns the total
/// size.
pub(super) fn place_values(program: &Program, capacity: usize) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; program.values.len()];
    // Start, end, and the last step that needs the value.
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
        // Padded to whole cache lines.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_partitioned_evenly() {
        for (tokens, threads, blocks) in [(50, 4, 4), (50, 3, 3), (197, 4, 8), (197, 1, 4), (7, 4, 1), (1025, 3, 18)] {
            assert_eq!(Partition::new(tokens, threads, 12).blocks, blocks, "{tokens} tokens, {threads} threads");
        }
        for tokens in 1..300 {
            for threads in 1..9 {
                let partition = Partition::new(tokens, threads, 12);
                let rows: Vec<usize> = (0..partition.blocks).flat_map(|block| partition.block(block)).collect();
                assert!(rows.iter().copied().eq(0..tokens), "{tokens} tokens, {threads} threads");
                assert!(partition.blocks <= threads || partition.blocks.is_multiple_of(threads));
            }
        }
    }
}
