//! Estimates coefficients that a progressive file has not sent, from the DC values around a block.
//!
//! libjpeg-turbo does so for each component if one of the first nine AC coefficients is not known to its last bit,
//! which is so when scans are missing. The weights are libjpeg-turbo's; T.81, K.8 has the simpler ones they derive
//! from.

use super::frame::Frame;
use super::idct::Block;

/// Number of coefficients that are considered, in zigzag order: the DC and nine AC coefficients.
pub(super) const LOOKED_AT: usize = 10;

/// Precision of the coefficients of a component: -1 if not sent, else the lowest bit that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// After all scans.
    pub(super) now: [i8; 64],
    /// Before the last scan of this component.
    pub(super) before: [i8; 64],
}

impl Default for Known {
    fn default() -> Self {
        Known { now: [-1; 64], before: [-1; 64] }
    }
}

impl Known {
    /// Records a scan.
    pub(super) fn note(&mut self, first: usize, last: usize, low: u32, is_first_scan: bool) {
        for at in first.min(1)..=last.max(LOOKED_AT - 1) {
            self.before[at] = if is_first_scan { 0 } else { self.now[at] };
        }
        self.now[first..=last].fill(low as i8);
    }
}

/// True if an image is smoothed: all relevant steps are known and not zero, all DC values are known, and AC
/// coefficients are missing.
pub(super) fn is_useful(frame: &Frame, known: &[Known; 4], steps: &[Block; 4]) -> bool {
    let components = || known.iter().zip(steps).take(frame.components.len());
    let can_be = components().all(|(known, steps)| known.now[0] >= 0 && PLACES.iter().all(|&place| steps[place] != 0));
    can_be && components().any(|(known, _)| known.now[1..LOOKED_AT].iter().any(|&bits| bits != 0))
}

/// Indices in a block of these coefficients, in zigzag order.
const PLACES: [usize; LOOKED_AT] = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24];

/// Weights of the DC values of the 5 x 5 blocks around a block, row by row, for one coefficient.
type Weights = [i32; 25];

/// If some AC coefficient was sent: the first five coefficients, from a cross or a square of neighbours.
#[rustfmt::skip]
const WITH_AC: [Weights; 5] = [
    [0, 0, 0, 0, 0,  0, 0, 0, 0, 0,  -7, 50, 0, -50, 7,  0, 0, 0, 0, 0,  0, 0, 0, 0, 0],
    [0, 0, -7, 0, 0,  0, 0, 50, 0, 0,  0, 0, 0, 0, 0,  0, 0, -50, 0, 0,  0, 0, 7, 0, 0],
    [0, 0, -1, 0, 0,  0, 0, 13, 0, 0,  0, 0, -24, 0, 0,  0, 0, 13, 0, 0,  0, 0, -1, 0, 0],
    [0, -1, 0, 1, 0,  -1, 10, 0, -10, 1,  0, 0, 0, 0, 0,  1, -10, 0, 10, -1,  0, 1, 0, -1, 0],
    [0, 0, 0, 0, 0,  0, 0, 0, 0, 0,  -1, 13, -24, 13, -1,  0, 0, 0, 0, 0,  0, 0, 0, 0, 0],
];

/// If none was sent: nine coefficients, from all neighbours.
#[rustfmt::skip]
const WITHOUT_AC: [Weights; 9] = [
    [-1, -1, 0, 1, 1,  -3, 13, 0, -13, 3,  -3, 38, 0, -38, 3,  -3, 13, 0, -13, 3,  -1, -1, 0, 1, 1],
    [-1, -3, -3, -3, -1,  -1, 13, 38, 13, -1,  0, 0, 0, 0, 0,  1, -13, -38, -13, 1,  1, 3, 3, 3, 1],
    [0, 0, 1, 0, 0,  0, 2, 7, 2, 0,  0, -5, -14, -5, 0,  0, 2, 7, 2, 0,  0, 0, 1, 0, 0],
    [-1, 0, 0, 0, 1,  0, 9, 0, -9, 0,  0, 0, 0, 0, 0,  0, -9, 0, 9, 0,  1, 0, 0, 0, -1],
    [0, 0, 0, 0, 0,  0, 2, -5, 2, 0,  1, 7, -14, 7, 1,  0, 2, -5, 2, 0,  0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0,  0, 1, 0, -1, 0,  0, 2, 0, -2, 0,  0, 1, 0, -1, 0,  0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0,  0, 1, -3, 1, 0,  0, 0, 0, 0, 0,  0, -1, 3, -1, 0,  0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0,  0, 1, 0, -1, 0,  0, -3, 0, 3, 0,  0, 1, 0, -1, 0,  0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0,  0, 1, 2, 1, 0,  0, 0, 0, 0, 0,  0, -1, -2, -1, 0,  0, 0, 0, 0, 0],
];

/// If none was sent: the DC value itself, averaged.
#[rustfmt::skip]
const DC: Weights = [
    -2, -6, -8, -6, -2,  -6, 6, 42, 6, -6,  -8, 42, 152, 42, -8,  -6, 6, 42, 6, -6,  -2, -6, -8, -6, -2,
];

/// The coefficients of one component for smoothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbourhood<'a> {
    /// All blocks, padded to whole MCUs.
    pub(super) blocks: &'a [Block],
    pub(super) stride: usize,
    /// Blocks per row within the image.
    pub(super) width: usize,
    /// Rows of blocks in this row of MCUs, and the number of rows of MCUs. libjpeg-turbo takes their product as the
    /// height in blocks.
    pub(super) rows: usize,
    pub(super) mcu_rows: usize,
}

impl Neighbourhood<'_> {
    /// The DC values around a block. `row` counts from the top of the image, `row_here` as libjpeg-turbo does.
    fn around(&self, row: usize, row_here: usize, column: usize) -> Weights {
        let total = self.rows * self.mcu_rows;
        let up = usize::from(row_here > 0);
        let up2 = if row_here > 1 { 2 } else { up };
        let down = usize::from(row_here + 1 < total);
        let down2 = if row_here + 2 < total { 2 } else { down };
        let rows = [row - up2, row - up, row, row + down, row + down2];
        let columns: [usize; 5] = std::array::from_fn(|at| (column + at).saturating_sub(2).min(self.width - 1));
        std::array::from_fn(|at| {
            self.blocks.get(rows[at / 5] * self.stride + columns[at % 5]).map_or(0, |block| i32::from(block[0]))
        })
    }

    /// A block with estimated coefficients.
    pub(super) fn smoothed(
        &self,
        (row, row_here, column): (usize, usize, usize),
        known: &[i8; 64],
        steps: &Block,
    ) -> Block {
        let mut block = self.blocks[row * self.stride + column];
        let dc = self.around(row, row_here, column);
        let step = |place: usize| i64::from(steps[place] as u16);
        let estimate = |weights: &Weights, place: usize, low: i8| {
            let sum: i64 = weights.iter().zip(dc).map(|(weight, dc)| i64::from(*weight) * i64::from(dc)).sum();
            let sum = sum * step(0);
            let size = ((step(place) << 7) + sum.abs()) / (step(place) << 8);
            let size = if low > 0 { size.min((1 << low) - 1) } else { size };
            (if sum >= 0 { size } else { -size }) as i16
        };
        let has_no_ac = known[1..LOOKED_AT].iter().all(|&bits| bits == -1);
        let weights = if has_no_ac { &WITHOUT_AC[..] } else { &WITH_AC[..] };
        for ((weights, &place), &low) in weights.iter().zip(&PLACES[1..]).zip(&known[1..]) {
            if low != 0 && block[place] == 0 {
                block[place] = estimate(weights, place, low);
            }
        }
        if has_no_ac {
            block[0] = estimate(&DC, 0, -1);
        }
        block
    }
}
