//! Frame and scan headers: size, components, and which of them a scan has.

use std::ops::Deref;

use image::metadata::Orientation;

use super::color::ColorSpace;
use super::idct::Block;
use super::marker::{DQT, SOF0, SOF1, SOF2, SOF3, SOF9, SOF10, SOF11, SOS};
use super::upsample::Upsampling;
use super::{JpegError, Problem};
use crate::picture::DecodeError;
use crate::picture::budget::{check_size, rgb_bytes, turn_bytes};

/// How the coefficients are distributed over scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Baseline or extended sequential.
    Sequential,
    Progressive,
}

/// One component of an image.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Number of the quantisation table.
    pub(super) table: usize,
    /// Samples within the image.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks within the image.
    pub(super) width_blocks: usize,
    pub(super) height_blocks: usize,
    /// Blocks per row, padded to whole MCUs.
    pub(super) stride_blocks: usize,
    pub(super) upsampling: Upsampling,
}

/// The components of an image, which are not allocated for every frame of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Components {
    all: [Component; MAX_COMPONENTS],
    count: usize,
}

impl Components {
    fn push(&mut self, component: Component) {
        self.all[self.count] = component;
        self.count += 1;
    }
}

impl Deref for Components {
    type Target = [Component];

    fn deref(&self) -> &[Component] {
        &self.all[..self.count]
    }
}

/// A frame header.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) coding: Coding,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Components,
    /// The largest sampling factors.
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// The most components of an image.
pub(super) const MAX_COMPONENTS: usize = 4;

/// The most blocks of an MCU: T.81, B.2.3.
const MAX_BLOCKS: usize = 10;

impl Frame {
    /// Reads the frame header SOF0, SOF1 or SOF2, and checks the size.
    pub(super) fn read(marker: u8, segment: &[u8]) -> Result<Self, DecodeError> {
        let coding = match marker {
            SOF0 | SOF1 => Coding::Sequential,
            SOF2 => Coding::Progressive,
            _ => return Err(JpegError(Problem::Coding { found: coding_name(marker) }).into()),
        };
        let Some((&[precision, h1, h0, w1, w0, count], specifications)) = segment.split_first_chunk() else {
            return Err(JpegError(Problem::Segment { marker }).into());
        };
        let (height, width) = (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        if precision != 8 {
            return Err(JpegError(Problem::Precision { bits: precision }).into());
        }
        if height == 0 {
            return Err(JpegError(Problem::NoHeight).into());
        }
        check_size(width, height)?;
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError(Problem::Components { count }).into());
        }
        let (specifications, rest) = specifications.as_chunks::<3>();
        if specifications.len() != usize::from(count) || !rest.is_empty() {
            return Err(JpegError(Problem::Segment { marker }).into());
        }
        Self::new(coding, width, height, specifications).map_err(DecodeError::from)
    }

    /// Takes at most [`MAX_COMPONENTS`] component specifications: id, sampling factors and quantisation table of each.
    fn new(coding: Coding, width: usize, height: usize, specifications: &[[u8; 3]]) -> Result<Self, JpegError> {
        let factors =
            |specification: &[u8; 3]| (usize::from(specification[1] >> 4), usize::from(specification[1] & 15));
        let columns = specifications.iter().map(|specification| factors(specification).0).max().unwrap_or(1);
        let rows = specifications.iter().map(|specification| factors(specification).1).max().unwrap_or(1);
        let mut frame = Frame { coding, width, height, components: Components::default(), columns, rows };
        for specification in specifications {
            let (&[id, _, table], own) = (specification, factors(specification));
            let sampling = || JpegError(Problem::Sampling { component: id, found: own, largest: (columns, rows) });
            if !(1..=4).contains(&own.0) || !(1..=4).contains(&own.1) {
                return Err(sampling());
            }
            let (own_width, own_height) = ((width * own.0).div_ceil(columns), (height * own.1).div_ceil(rows));
            frame.components.push(Component {
                id,
                columns: own.0,
                rows: own.1,
                table: usize::from(table),
                width: own_width,
                height: own_height,
                width_blocks: (width * own.0).div_ceil(columns * 8),
                height_blocks: (height * own.1).div_ceil(rows * 8),
                stride_blocks: frame.mcus_per_row() * own.0,
                upsampling: Upsampling::of(own, (columns, rows), own_width).ok_or_else(sampling)?,
            });
        }
        Ok(frame)
    }

    /// MCUs per row of a scan with all components.
    pub(super) fn mcus_per_row(&self) -> usize {
        self.width.div_ceil(self.columns * 8)
    }

    /// Rows of MCUs of a scan with all components.
    pub(super) fn mcu_rows(&self) -> usize {
        self.height.div_ceil(self.rows * 8)
    }

    /// Peak memory for decoding and rotating the image: its pixels, two rows of MCUs, and the coefficients if there are
    /// several scans.
    pub(super) fn bytes(&self, has_coefficients: bool, turn: Orientation) -> u64 {
        const COEFFICIENT_BYTES: u64 = 2;
        let (mut samples, mut coefficients) = (0, 0);
        for component in self.components.iter() {
            let row = (component.stride_blocks * component.rows * 64) as u64;
            samples += 2 * row;
            coefficients += row * self.mcu_rows() as u64 * COEFFICIENT_BYTES;
        }
        let kept = if has_coefficients { coefficients } else { 0 };
        rgb_bytes(self.width, self.height) + samples + kept + turn_bytes((self.width, self.height), turn)
    }

    /// The colour space, by libjpeg's rules: number and ids of components, JFIF marker, Adobe's transform.
    pub(super) fn color_space(&self, has_jfif: bool, adobe_transform: Option<u8>) -> ColorSpace {
        let is_named_rgb = || self.components.iter().map(|component| component.id).eq(*b"RGB");
        match (self.components.len(), adobe_transform) {
            (1, _) => ColorSpace::Grey,
            (3, _) if has_jfif => ColorSpace::YCbCr,
            (3, Some(0)) => ColorSpace::Rgb,
            (3, None) if is_named_rgb() => ColorSpace::Rgb,
            (3, _) => ColorSpace::YCbCr,
            (_, None | Some(0)) => ColorSpace::Cmyk,
            _ => ColorSpace::Ycck,
        }
    }
}

/// Name of the coding of an unsupported frame header.
fn coding_name(marker: u8) -> &'static str {
    match marker {
        SOF3 => "lossless",
        SOF9 => "sequential with arithmetic coding",
        SOF10 => "progressive with arithmetic coding",
        SOF11 => "lossless with arithmetic coding",
        _ => "hierarchical",
    }
}

/// A component of a scan.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Member {
    /// Index of the component in the frame.
    pub(super) component: usize,
    /// Numbers of the Huffman tables.
    pub(super) dc_table: usize,
    pub(super) ac_table: usize,
}

/// A scan header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    members: [Member; MAX_COMPONENTS],
    count: usize,
    /// First and last coefficient, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// The lowest bit that earlier scans sent; 0 if there were none.
    pub(super) high: u32,
    /// The lowest bit that this scan sends.
    pub(super) low: u32,
}

impl Scan {
    /// Reads a scan header and checks it against the frame.
    pub(super) fn read(segment: &[u8], frame: &Frame) -> Result<Self, JpegError> {
        let malformed = || JpegError(Problem::Segment { marker: SOS });
        let (&count, rest) = segment.split_first().ok_or_else(malformed)?;
        let count = usize::from(count);
        if !(1..=MAX_COMPONENTS).contains(&count) || rest.len() != count * 2 + 3 {
            return Err(malformed());
        }
        let mut members = [Member::default(); MAX_COMPONENTS];
        for at in 0..count {
            let (id, tables) = (rest[at * 2], rest[at * 2 + 1]);
            let is_free = |index: &usize| members[..at].iter().all(|member| member.component != *index);
            let component = (0..frame.components.len())
                .find(|index| frame.components[*index].id == id && is_free(index))
                .ok_or(JpegError(Problem::ScanComponent { id }))?;
            members[at] = Member { component, dc_table: usize::from(tables >> 4), ac_table: usize::from(tables & 15) };
        }
        let &[first, last, bits] = &rest[count * 2..] else { return Err(malformed()) };
        let (first, last) = (usize::from(first), usize::from(last));
        let scan = Scan { members, count, first, last, high: u32::from(bits >> 4), low: u32::from(bits & 15) };
        scan.check(frame)?;
        Ok(scan)
    }

    fn check(&self, frame: &Frame) -> Result<(), JpegError> {
        let blocks = self.members().iter().map(|member| frame.components[member.component]);
        if self.count > 1 && blocks.map(|component| component.columns * component.rows).sum::<usize>() > MAX_BLOCKS {
            return Err(JpegError(Problem::McuSize));
        }
        if frame.coding == Coding::Sequential {
            return Ok(());
        }
        let is_band =
            if self.first == 0 { self.last == 0 } else { self.count == 1 && (self.first..64).contains(&self.last) };
        let is_step = self.high == 0 || self.low + 1 == self.high;
        if is_band && is_step && self.low <= 13 { Ok(()) } else { Err(JpegError(Problem::Progression)) }
    }

    /// The components of the scan, in their order.
    pub(super) fn members(&self) -> &[Member] {
        &self.members[..self.count]
    }

    /// True if the scan has a single component, so that an MCU is one block.
    pub(super) fn is_single(&self) -> bool {
        self.count == 1
    }

    /// MCUs per row.
    pub(super) fn mcus_per_row(&self, frame: &Frame) -> usize {
        if self.is_single() { frame.components[self.members[0].component].width_blocks } else { frame.mcus_per_row() }
    }

    /// Rows of this scan's MCUs within one row of MCUs of all components.
    pub(super) fn rows_within(&self, mcu_row: usize, frame: &Frame) -> usize {
        if !self.is_single() {
            return 1;
        }
        let component = &frame.components[self.members[0].component];
        component.rows.min(component.height_blocks.saturating_sub(mcu_row * component.rows))
    }
}

/// Index in a block of each coefficient, in zigzag order; T.81, figure A.6. Indices beyond the last coefficient map to
/// the last.
pub(super) const ZIGZAG: [u8; 128] = {
    let mut order = [63; 128];
    let (mut row, mut column, mut at) = (0_usize, 0_usize, 0);
    while at < 64 {
        order[at] = (row * 8 + column) as u8;
        at += 1;
        if (row + column) % 2 == 0 {
            if column == 7 {
                row += 1;
            } else {
                column += 1;
                row = row.saturating_sub(1);
            }
        } else if row == 7 {
            column += 1;
        } else {
            row += 1;
            column = column.saturating_sub(1);
        }
    }
    order
};

/// Reads a DQT segment. Steps are stored as signed 16 bits, as libjpeg-turbo multiplies them.
pub(super) fn read_quantization(mut segment: &[u8], tables: &mut [Option<Block>; 4]) -> Result<(), JpegError> {
    let malformed = || JpegError(Problem::Segment { marker: DQT });
    while let Some((&number, rest)) = segment.split_first() {
        let table = tables.get_mut(usize::from(number & 15)).ok_or_else(malformed)?;
        let mut steps = [0; 64];
        let bytes = if number >> 4 == 0 { 64 } else { 128 };
        let (values, rest) = rest.split_at_checked(bytes).ok_or_else(malformed)?;
        for (at, place) in ZIGZAG[..64].iter().enumerate() {
            let step = if bytes == 64 {
                u16::from(values[at])
            } else {
                u16::from_be_bytes([values[at * 2], values[at * 2 + 1]])
            };
            steps[usize::from(*place)] = step as i16;
        }
        *table = Some(steps);
        segment = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zigzag_order_is_the_standard_one() {
        let start = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48];
        assert_eq!(ZIGZAG[..22], start);
        assert_eq!(ZIGZAG[55..64], [46, 53, 60, 61, 54, 47, 55, 62, 63]);
        assert!(ZIGZAG[64..].iter().all(|place| *place == 63));
        let mut places = ZIGZAG[..64].to_vec();
        places.sort_unstable();
        assert!(places.iter().enumerate().all(|(at, place)| at == usize::from(*place)));
    }

    #[test]
    fn color_spaces_are_guessed_as_libjpeg_does() {
        let check = |ids: &[u8], jfif, adobe, expected| {
            let specifications: Vec<_> = ids.iter().map(|id| [*id, 0x11, 0]).collect();
            let frame = Frame::new(Coding::Sequential, 8, 8, &specifications).unwrap();
            assert_eq!(frame.color_space(jfif, adobe), expected, "{ids:?} {jfif} {adobe:?}");
        };
        check(&[1], true, Some(0), ColorSpace::Grey);
        check(&[1, 2, 3], false, None, ColorSpace::YCbCr);
        check(&[1, 2, 3], true, Some(0), ColorSpace::YCbCr);
        check(&[1, 2, 3], false, Some(0), ColorSpace::Rgb);
        check(&[1, 2, 3], false, Some(1), ColorSpace::YCbCr);
        check(&[1, 2, 3], false, Some(9), ColorSpace::YCbCr);
        check(b"RGB", false, None, ColorSpace::Rgb);
        check(b"RGB", true, None, ColorSpace::YCbCr);
        check(b"RGB", false, Some(1), ColorSpace::YCbCr);
        check(&[0, 1, 2], false, None, ColorSpace::YCbCr);
        check(&[1, 2, 3, 4], true, None, ColorSpace::Cmyk);
        check(&[1, 2, 3, 4], false, Some(0), ColorSpace::Cmyk);
        check(&[1, 2, 3, 4], false, Some(2), ColorSpace::Ycck);
        check(&[1, 2, 3, 4], false, Some(1), ColorSpace::Ycck);
    }
}
