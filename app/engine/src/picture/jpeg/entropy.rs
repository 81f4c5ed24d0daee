//! Entropy decoding of coefficients: ITU-T T.81, F.2 for sequential and G.2 for progressive images.
//!
//! Damaged data is read as libjpeg reads it: unassigned codes mean 0, zeros follow the end of the data, and MCUs after
//! the end are not changed.

use super::bits::Reader;
use super::frame::MAX_COMPONENTS;
use super::frame::{Scan, ZIGZAG};
use super::huffman::{Table, extend};
use super::idct::Block;

/// State that is carried from block to block within a restart interval.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    /// Last DC value of each member of the scan.
    dc: [i32; MAX_COMPONENTS],
    /// Number of blocks that follow without new coefficients.
    end_of_band: u32,
}

/// Index in a block of the coefficient with this zigzag number, which may be beyond the last one.
#[inline(always)]
fn place(number: usize) -> usize {
    usize::from(ZIGZAG[number & 127] & 63)
}

/// Decodes one block of a sequential image into `block`, which is zeroed. Returns whether it may have AC coefficients.
#[inline(always)]
pub(super) fn sequential(
    reader: &mut Reader<'_>,
    (dc, ac): (&Table, &Table),
    state: &mut State,
    member: usize,
    block: &mut Block,
) -> bool {
    block[0] = next_dc(reader, dc, state, member) as i16;
    let mut at = 1;
    while at < 64 {
        let (symbol, value) = ac.symbol(reader);
        if value != 0 {
            at += (symbol >> 4) as usize;
            block[place(at)] = value as i16;
            at += 1;
            continue;
        }
        let (run, size) = ((symbol >> 4) as usize, symbol & 15);
        if size != 0 {
            at += run;
            let bits = reader.take(size);
            block[place(at)] = extend(bits, size) as i16;
            at += 1;
        } else if run == 15 {
            at += 16;
        } else {
            break;
        }
    }
    at > 1
}

/// The next DC value of a member of the scan.
#[inline(always)]
fn next_dc(reader: &mut Reader<'_>, table: &Table, state: &mut State, member: usize) -> i32 {
    let (size, value) = table.symbol(reader);
    let difference = match size & 15 {
        _ if value != 0 => value,
        0 => 0,
        size => {
            let bits = reader.take(size);
            extend(bits, size)
        }
    };
    state.dc[member] = state.dc[member].wrapping_add(difference);
    state.dc[member]
}

/// Decodes the first scan of a DC coefficient.
pub(super) fn dc_first(reader: &mut Reader<'_>, table: &Table, state: &mut State, member: usize, low: u32) -> i16 {
    (next_dc(reader, table, state, member) << low) as i16
}

/// Decodes the first scan of a band of AC coefficients.
pub(super) fn ac_first(reader: &mut Reader<'_>, table: &Table, state: &mut State, scan: &Scan, block: &mut Block) {
    if state.end_of_band > 0 {
        state.end_of_band -= 1;
        return;
    }
    let mut at = scan.first;
    while at <= scan.last {
        let symbol = table.bare_symbol(reader);
        let (run, size) = (symbol >> 4, symbol & 15);
        if size != 0 {
            at += run as usize;
            let bits = reader.take(size);
            block[place(at)] = (extend(bits, size) << scan.low) as i16;
            at += 1;
        } else if run == 15 {
            at += 16;
        } else {
            state.end_of_band = (1 << run) + reader.take(run) as u32 - 1;
            break;
        }
    }
}

/// Decodes a refinement scan of a band of AC coefficients.
pub(super) fn ac_refine(reader: &mut Reader<'_>, table: &Table, state: &mut State, scan: &Scan, block: &mut Block) {
    let one = 1_i16 << scan.low;
    let mut at = scan.first;
    while state.end_of_band == 0 && at <= scan.last {
        let symbol = table.bare_symbol(reader);
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        let mut value = 0;
        if size != 0 {
            value = if reader.bit() { one } else { -one };
        } else if zeros != 15 {
            state.end_of_band = (1 << zeros) + reader.take(zeros) as u32;
            break;
        }
        // Skips this many zeros, and refines each nonzero coefficient on the way.
        while at <= scan.last {
            let coefficient = &mut block[place(at)];
            if *coefficient != 0 {
                correct(reader, coefficient, one);
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if value != 0 {
            block[place(at)] = value;
        }
        at += 1;
    }
    if state.end_of_band > 0 {
        for number in at..=scan.last {
            let coefficient = &mut block[place(number)];
            if *coefficient != 0 {
                correct(reader, coefficient, one);
            }
        }
        state.end_of_band -= 1;
    }
}

/// Refines a nonzero coefficient by the next bit.
#[inline(always)]
fn correct(reader: &mut Reader<'_>, coefficient: &mut i16, one: i16) {
    if reader.bit() && *coefficient & one == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { one } else { -one });
    }
}
