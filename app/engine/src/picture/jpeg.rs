//! Decoder of JPEG files and of the frames of MJPEG streams.
//!
//! The pixels are those of Pillow, that is of libjpeg-turbo with its defaults: the accurate integer transform, triangle
//! filters for subsampled chroma, and smoothing of progressive images whose last scans are missing. Coefficients and
//! tables are read as in ITU-T T.81; where T.81 leaves the behaviour open, libjpeg-turbo is followed.
//!
//! The work is bounded by the number of bytes and pixels: there are at most [`MAX_SCANS`] scans, each of which visits a
//! block once.

mod bits;
mod color;
mod entropy;
mod error;
mod frame;
mod huffman;
mod idct;
pub mod marker;
mod output;
mod scan;
mod smoothing;
mod upsample;

use image::metadata::Orientation;

use self::bits::Reader;
use self::color::ColorSpace;
pub use self::error::JpegError;
use self::error::Problem;
use self::frame::{Coding, Frame, MAX_COMPONENTS, Scan};
use self::idct::Block;
use self::marker::{
    APP0, APP1, APP14, APP15, COM, DAC, DHT, DQT, DRI, EOI, FILL, RST0, RST7, SOF0, SOF3, SOF5, SOF7, SOF9, SOF11,
    SOF13, SOF15, SOI, SOS, TEM,
};
use self::output::{Output, Planes};
use self::scan::{Surroundings, Tables};
use self::smoothing::{Known, Neighbourhood};
use super::budget::check_bytes;
use super::{DecodeError, Picture, orientation, rgb, start_of};

/// The most scans of one image. Encoders write about ten, libjpeg's own tools at most 100.
const MAX_SCANS: usize = 256;

/// First bytes of every JPEG.
const START: [u8; 2] = [FILL, SOI];

/// Decodes a sequence of JPEGs into one [`Picture`], for a live loop. Buffers are reused, so that frames of the same
/// kind and size allocate nothing, unless EXIF asks for a rotation.
///
/// Frames of webcams often lack Huffman tables; they get the standard ones. Bytes after the end-of-image marker are
/// ignored.
#[derive(Debug, Default)]
pub struct JpegDecoder {
    tables: Tables,
    planes: Planes,
    output: Output,
    /// Of an image with several scans.
    coefficients: [Vec<Block>; MAX_COMPONENTS],
}

/// The bytes end too early.
#[derive(Debug)]
struct Truncated;

/// Why decoding stopped.
#[derive(Debug)]
enum Failure {
    Truncated,
    Refused(DecodeError),
}

impl From<Truncated> for Failure {
    fn from(_: Truncated) -> Self {
        Failure::Truncated
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Failure::Refused(error)
    }
}

impl From<JpegError> for Failure {
    fn from(error: JpegError) -> Self {
        Failure::Refused(error.into())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        JpegError(problem).into()
    }
}

/// Content of the headers before a scan.
#[derive(Debug, Default)]
struct Headers<'a> {
    frame: Option<Frame>,
    quantization: [Option<Block>; 4],
    restart_interval: usize,
    has_jfif: bool,
    adobe_transform: Option<u8>,
    /// Joined EXIF segments before the first scan, without their identifiers. Most files have one.
    exif: Option<std::borrow::Cow<'a, [u8]>>,
    xmp: Option<&'a [u8]>,
}

/// The part of a JPEG after its headers.
enum Next<'a> {
    Scan(&'a [u8]),
    End,
}

impl JpegDecoder {
    /// Creates a decoder without buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes `bytes` into `picture`, whose buffer is reused. After an error its pixels are undefined.
    ///
    /// # Errors
    /// There are no bytes, or they are no JPEG; they end before the end-of-image marker; the image is too large or
    /// takes too much memory; it is of an unsupported kind, or its headers are damaged. Damage in entropy-coded data is
    /// no error: the pixels show it, as in Pillow.
    pub fn decode_into(&mut self, bytes: &[u8], picture: &mut Picture) -> Result<(), DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        if !is_jpeg(bytes) {
            return Err(DecodeError::UnknownFormat { found: start_of(bytes) });
        }
        let turn = self.decode(bytes, picture).map_err(|failure| match failure {
            Failure::Truncated => DecodeError::Truncated { found_bytes: bytes.len() },
            Failure::Refused(error) => error,
        })?;
        if let Some(turn) = turn.filter(|&turn| turn != Orientation::NoTransforms) {
            *picture = rgb::upright(std::mem::take(picture), turn)?;
        }
        Ok(())
    }

    /// Decodes everything after the start marker; returns the orientation to apply.
    fn decode(&mut self, bytes: &[u8], picture: &mut Picture) -> Result<Option<Orientation>, Failure> {
        let mut reader = Reader::new(&bytes[START.len()..]);
        for table in self.tables.dc.iter_mut().chain(&mut self.tables.ac) {
            table.is_defined = false;
        }
        let mut headers = Headers::default();
        let Next::Scan(segment) = headers.read(&mut reader, &mut self.tables)? else {
            return Err(Problem::NoPicture.into());
        };
        let frame = headers.frame.take().ok_or(Problem::NoPicture)?;
        let scan = Scan::read(segment, &frame)?;
        let space = frame.color_space(headers.has_jfif, headers.adobe_transform);
        let turn = orientation(headers.exif.as_deref(), headers.xmp);
        if frame.coding == Coding::Sequential {
            self.tables.define_standard()?;
        }
        let is_single = frame.coding == Coding::Sequential && scan.members().len() == frame.components.len();
        let needed = frame.bytes(!is_single, turn.unwrap_or(Orientation::NoTransforms));
        check_bytes((frame.width, frame.height), bytes.len(), needed)?;
        self.planes.prepare(&frame);
        self.output.prepare(&frame, picture);
        if is_single {
            // Frees them: they are as large as the largest image so far.
            self.coefficients = Default::default();
            self.decode_single(&mut reader, &scan, (&frame, space), &headers, picture)?;
            headers.frame = Some(frame);
            match headers.read(&mut reader, &mut self.tables)? {
                Next::Scan(_) => return Err(Problem::SecondScan.into()),
                Next::End => {}
            }
        } else {
            self.decode_many(&mut reader, scan, (frame, space), headers, picture)?;
        }
        Ok(turn)
    }

    /// Decodes an image with all components in one scan.
    fn decode_single(
        &mut self,
        reader: &mut Reader<'_>,
        scan: &Scan,
        (frame, space): (&Frame, ColorSpace),
        headers: &Headers<'_>,
        picture: &mut Picture,
    ) -> Result<(), Failure> {
        let JpegDecoder { tables, planes, output, .. } = self;
        for member in scan.members() {
            planes.steps[member.component] = headers.steps(frame.components[member.component].table)?;
        }
        let surroundings = Surroundings { frame, tables, restart_interval: headers.restart_interval };
        scan::decode_directly(reader, scan, surroundings, planes, |planes, mcu_row| {
            output.write(planes, mcu_row, frame, space, picture);
        })
    }

    /// Decodes an image whose coefficients are spread over several scans.
    fn decode_many<'a>(
        &mut self,
        reader: &mut Reader<'a>,
        first: Scan,
        (frame, space): (Frame, ColorSpace),
        mut headers: Headers<'a>,
        picture: &mut Picture,
    ) -> Result<(), Failure> {
        for (number, blocks) in self.coefficients.iter_mut().enumerate() {
            let component = frame.components.get(number);
            let count = component.map_or(0, |own| own.stride_blocks * own.rows * frame.mcu_rows());
            blocks.clear();
            blocks.shrink_to(count);
            blocks.reserve_exact(count);
            blocks.resize(count, [0; 64]);
        }
        let mut known = [Known::default(); MAX_COMPONENTS];
        let mut has_steps = [false; MAX_COMPONENTS];
        let (mut scan, mut scans) = (first, 1);
        // `Headers::read` refuses a second frame header.
        headers.frame = Some(frame.clone());
        let last_row = loop {
            for member in scan.members() {
                if !has_steps[member.component] {
                    let table = frame.components[member.component].table;
                    self.planes.steps[member.component] = headers.steps(table)?;
                    has_steps[member.component] = true;
                }
                if frame.coding == Coding::Progressive {
                    known[member.component].note(scan.first, scan.last, scan.low, scans == 1);
                }
            }
            let surroundings =
                Surroundings { frame: &frame, tables: &self.tables, restart_interval: headers.restart_interval };
            let last_row = scan::decode_into_coefficients(reader, &scan, surroundings, &mut self.coefficients)?;
            match headers.read(reader, &mut self.tables)? {
                Next::End => break last_row,
                Next::Scan(_) if scans == MAX_SCANS => return Err(Problem::Scans.into()),
                Next::Scan(segment) => scan = Scan::read(segment, &frame)?,
            }
            scans += 1;
        };
        if scans == 1 {
            known.iter_mut().for_each(|known| known.before = [-1; 64]);
        }
        let is_smoothed = frame.coding == Coding::Progressive
            && has_steps[..frame.components.len()].iter().all(|&has| has)
            && smoothing::is_useful(&frame, &known, &self.planes.steps);
        for mcu_row in 0..frame.mcu_rows() {
            let known =
                is_smoothed.then(|| known.each_ref().map(|k| if mcu_row > last_row { &k.before } else { &k.now }));
            self.transform_row(mcu_row, &frame, known);
            self.output.write(&self.planes, mcu_row, &frame, space, picture);
        }
        Ok(())
    }

    /// Transforms one row of MCUs from coefficients to samples; smooths it where `known` is given.
    fn transform_row(&mut self, mcu_row: usize, frame: &Frame, known: Option<[&[i8; 64]; MAX_COMPONENTS]>) {
        for (number, component) in frame.components.iter().enumerate() {
            let blocks = &self.coefficients[number];
            let rows = component.rows.min(component.height_blocks.saturating_sub(mcu_row * component.rows));
            let neighbourhood = Neighbourhood {
                blocks,
                stride: component.stride_blocks,
                width: component.width_blocks,
                rows,
                mcu_rows: frame.mcu_rows(),
            };
            for y in 0..rows {
                let row = mcu_row * component.rows + y;
                for column in 0..component.width_blocks {
                    let (steps, out, stride) = self.planes.at(number, row, column);
                    if let Some(known) = known {
                        let at = (row, mcu_row * rows + y, column);
                        idct::transform(&neighbourhood.smoothed(at, known[number], steps), steps, out, stride);
                    } else {
                        idct::transform(&blocks[row * component.stride_blocks + column], steps, out, stride);
                    }
                }
            }
        }
    }
}

impl<'a> Headers<'a> {
    /// Reads segments up to the next scan or the end of the image.
    fn read(&mut self, reader: &mut Reader<'a>, tables: &mut Tables) -> Result<Next<'a>, Failure> {
        loop {
            let marker = reader.next_marker().ok_or(Truncated)?;
            match marker {
                EOI => return Ok(Next::End),
                // These have no segment.
                TEM | RST0..=RST7 => continue,
                DHT | DAC | SOS..=DRI | APP0..=APP15 | COM => {}
                SOF0..=SOF3 | SOF5..=SOF7 | SOF9..=SOF11 | SOF13..=SOF15 if self.frame.is_none() => {}
                found => return Err(Problem::Marker { found }.into()),
            }
            let segment = reader.segment().ok_or(Truncated)?;
            match marker {
                DHT => tables.define(segment)?,
                DQT => frame::read_quantization(segment, &mut self.quantization)?,
                SOS => return Ok(Next::Scan(segment)),
                DRI => {
                    let interval = segment.try_into().map_err(|_| Problem::Segment { marker })?;
                    self.restart_interval = usize::from(u16::from_be_bytes(interval));
                }
                APP0 => self.has_jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
                APP1 => self.take_app1(segment),
                APP14 if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe_transform = Some(segment[11]);
                }
                SOF0..=SOF15 if marker != DAC => self.frame = Some(Frame::read(marker, segment)?),
                _ => {}
            }
        }
    }

    /// Stores EXIF or XMP. As in Pillow, EXIF segments are joined, and the last XMP segment counts.
    fn take_app1(&mut self, segment: &'a [u8]) {
        if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
            self.exif = Some(match self.exif.take() {
                None => exif.into(),
                Some(start) => [&start, exif].concat().into(),
            });
        } else if let Some(xmp) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            self.xmp = Some(xmp);
        }
    }

    /// The quantisation table with this number.
    fn steps(&self, number: usize) -> Result<Block, JpegError> {
        let table = self.quantization.get(number).copied().flatten();
        table.ok_or(JpegError(Problem::NoQuantization { number }))
    }
}

/// Returns true if bytes start as a JPEG.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&START)
}
