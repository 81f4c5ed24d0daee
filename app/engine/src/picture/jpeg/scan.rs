//! Decodes scans MCU by MCU, with restart intervals.

use super::bits::Reader;
use super::entropy::{self, State};
use super::frame::{Coding, Frame, MAX_COMPONENTS, Scan};
use super::huffman::{self, Table};
use super::idct::{self, Block};
use super::marker::{DHT, RST0, RST7, SOF0};
use super::output::Planes;
use super::{JpegError, Problem, Truncated};

/// Huffman tables by class and number.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) dc: [Table; 4],
    pub(super) ac: [Table; 4],
}

impl Tables {
    /// Reads a DHT segment.
    pub(super) fn define(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        let malformed = || JpegError(Problem::Segment { marker: DHT });
        while let Some((&number, rest)) = segment.split_first() {
            let tables = if number & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            segment = tables.get_mut(usize::from(number & !0x10)).ok_or_else(malformed)?.define(rest)?;
        }
        Ok(())
    }

    /// Defines the standard tables that a file lacks: 0 for luma, 1 for chroma.
    pub(super) fn define_standard(&mut self) -> Result<(), JpegError> {
        let [dc0, dc1, ..] = &mut self.dc;
        let [ac0, ac1, ..] = &mut self.ac;
        for (table, standard) in [dc0, ac0, dc1, ac1].into_iter().zip(huffman::STANDARD) {
            if !table.is_defined {
                table.define(&standard[1..])?;
            }
        }
        Ok(())
    }

    /// The DC and AC tables of each member of a scan; checks those that the scan uses.
    fn of(&self, scan: &Scan, coding: Coding) -> Result<[(&Table, &Table); MAX_COMPONENTS], JpegError> {
        let is_sequential = coding == Coding::Sequential;
        let mut tables = [(&self.dc[0], &self.ac[0]); MAX_COMPONENTS];
        for (tables, member) in tables.iter_mut().zip(scan.members()) {
            let (dc, ac) = (self.dc.get(member.dc_table), self.ac.get(member.ac_table));
            let missing = |number| JpegError(Problem::NoHuffmanTable { number });
            if is_sequential || (scan.first == 0 && scan.high == 0) {
                let number = member.dc_table;
                tables.0 = dc.ok_or(missing(number))?;
                tables.0.check(number, true)?;
            }
            if is_sequential || scan.first > 0 {
                let number = member.ac_table;
                tables.1 = ac.ok_or(missing(number))?;
                tables.1.check(number, false)?;
            }
        }
        Ok(tables)
    }
}

/// State of the restart intervals of a scan.
struct Restarts {
    interval: usize,
    to_go: usize,
    next: u8,
}

impl Restarts {
    fn new(interval: usize) -> Self {
        Restarts { interval, to_go: interval, next: 0 }
    }

    /// Called before each MCU. At the end of an interval, consumes the marker and resets the state. If another marker
    /// is there, does what libjpeg does: skips markers of earlier intervals, and waits for those of later ones.
    /// `can_read` tells whether data follows.
    #[inline(always)]
    fn before_mcu(&mut self, reader: &mut Reader<'_>, state: &mut State, can_read: &mut bool) -> Result<(), Truncated> {
        if self.interval == 0 {
            return Ok(());
        }
        if self.to_go == 0 {
            self.restart(reader, state, can_read)?;
        }
        self.to_go -= 1;
        Ok(())
    }

    #[cold]
    fn restart(&mut self, reader: &mut Reader<'_>, state: &mut State, can_read: &mut bool) -> Result<(), Truncated> {
        reader.align();
        *state = State::default();
        let is_taken = loop {
            let marker = reader.peek_marker().ok_or(Truncated)?;
            let ahead = marker.wrapping_sub(RST0).wrapping_sub(self.next) & 7;
            match marker {
                RST0..=RST7 if matches!(ahead, 1 | 2) => break false,
                RST0..=RST7 if matches!(ahead, 6 | 7) => {}
                RST0..=RST7 => break true,
                SOF0.. => break false,
                _ => {}
            }
            reader.next_marker();
        };
        if is_taken {
            reader.next_marker();
            *can_read = true;
        }
        self.next = (self.next + 1) & 7;
        self.to_go = self.interval;
        Ok(())
    }
}

/// The input of a scan, besides its header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) frame: &'a Frame,
    pub(super) tables: &'a Tables,
    pub(super) restart_interval: usize,
}

/// Decodes the only scan of a sequential image. `finish` is called after each row of MCUs.
pub(super) fn decode_directly(
    reader: &mut Reader<'_>,
    scan: &Scan,
    Surroundings { frame, tables, restart_interval }: Surroundings<'_>,
    planes: &mut Planes,
    mut finish: impl FnMut(&Planes, usize),
) -> Result<(), super::Failure> {
    let tables = tables.of(scan, frame.coding)?;
    let (mut restarts, mut state, mut can_read) = (Restarts::new(restart_interval), State::default(), true);
    let mcus = scan.mcus_per_row(frame);
    reader.align();
    for mcu_row in 0..frame.mcu_rows() {
        for row in 0..scan.rows_within(mcu_row, frame) {
            for mcu in 0..mcus {
                restarts.before_mcu(reader, &mut state, &mut can_read)?;
                for (number, member) in scan.members().iter().enumerate() {
                    let component = &frame.components[member.component];
                    let (columns, rows) = if scan.is_single() { (1, 1) } else { (component.columns, component.rows) };
                    for y in 0..rows {
                        let block_row = mcu_row * component.rows + row + y;
                        for x in 0..columns {
                            let mut block: Block = [0; 64];
                            let has_ac =
                                can_read && entropy::sequential(reader, tables[number], &mut state, number, &mut block);
                            let (steps, out, stride) = planes.at(member.component, block_row, mcu * columns + x);
                            if has_ac {
                                idct::transform(&block, steps, out, stride);
                            } else {
                                idct::transform_dc(block[0], steps, out, stride);
                            }
                        }
                    }
                }
                can_read &= !reader.is_exhausted();
            }
        }
        if reader.is_truncated() {
            return Err(Truncated.into());
        }
        finish(planes, mcu_row);
    }
    Ok(())
}

/// Decodes one of several scans into the coefficients of each component. Returns the last row of MCUs that had data.
pub(super) fn decode_into_coefficients(
    reader: &mut Reader<'_>,
    scan: &Scan,
    Surroundings { frame, tables, restart_interval }: Surroundings<'_>,
    coefficients: &mut [Vec<Block>; MAX_COMPONENTS],
) -> Result<usize, super::Failure> {
    let tables = tables.of(scan, frame.coding)?;
    let (mut restarts, mut state, mut can_read) = (Restarts::new(restart_interval), State::default(), true);
    let mcus = scan.mcus_per_row(frame);
    let mut last_row = 0;
    reader.align();
    for mcu_row in 0..frame.mcu_rows() {
        for row in 0..scan.rows_within(mcu_row, frame) {
            for mcu in 0..mcus {
                if can_read {
                    last_row = mcu_row;
                } else if restart_interval == 0 {
                    // The rest of the scan has no data.
                    return Ok(last_row);
                }
                restarts.before_mcu(reader, &mut state, &mut can_read)?;
                if !can_read {
                    continue;
                }
                for (number, member) in scan.members().iter().enumerate() {
                    let component = &frame.components[member.component];
                    let (columns, rows) = if scan.is_single() { (1, 1) } else { (component.columns, component.rows) };
                    for y in 0..rows {
                        let start = (mcu_row * component.rows + row + y) * component.stride_blocks + mcu * columns;
                        for block in &mut coefficients[member.component][start..start + columns] {
                            decode_block(reader, scan, frame.coding, tables[number], &mut state, number, block);
                        }
                    }
                }
                can_read &= !reader.is_exhausted();
            }
        }
        if reader.is_truncated() {
            return Err(Truncated.into());
        }
    }
    Ok(last_row)
}

#[inline(always)]
fn decode_block(
    reader: &mut Reader<'_>,
    scan: &Scan,
    coding: Coding,
    tables: (&Table, &Table),
    state: &mut State,
    member: usize,
    block: &mut Block,
) {
    if coding == Coding::Sequential {
        entropy::sequential(reader, tables, state, member, block);
    } else if scan.first > 0 && scan.high > 0 {
        entropy::ac_refine(reader, tables.1, state, scan, block);
    } else if scan.first > 0 {
        entropy::ac_first(reader, tables.1, state, scan, block);
    } else if scan.high > 0 {
        block[0] |= i16::from(reader.bit()) << scan.low;
    } else {
        block[0] = entropy::dc_first(reader, tables.0, state, member, scan.low);
    }
}
