//! TIFF: the `tiff` crate reads the samples of the first page, and this module interprets them as Pillow 13 does. Kinds that
//! Pillow does not read, or converts with a colour profile, are errors.

use std::io::Cursor;

use ::tiff::TiffError;
use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::Tag;
use image::metadata::Orientation;

use super::budget::{MAX_BYTES, check_bytes, check_size, rgb_bytes, upright_bytes};
use super::rgb::from_cmyk;
use super::{DecodeError, Picture, orientation};

/// Limit of the bytes of a compressed strip or tile.
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// JPEG compression, whose strips are decoded to separate memory.
const JPEG: u16 = 7;

/// Tag of the photometric interpretation, and the value with which the `tiff` crate does not convert samples.
const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u16 = 1;

/// No compression.
const UNCOMPRESSED: u16 = 1;

/// Values of `SampleFormat`.
const UNSIGNED: u16 = 1;
const SIGNED: u16 = 2;
const FLOAT: u16 = 3;

/// Returns true if a file starts as TIFF or BigTIFF.
pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|mark| bytes.starts_with(*mark))
}

/// Decodes the first page, and returns the orientation to apply.
pub(super) fn decode(file: &[u8]) -> Result<(Picture, Orientation), DecodeError> {
    let mut bytes = file.to_vec();
    let big_endian = bytes.starts_with(b"MM");
    let photometric = replace_photometric(&mut bytes);
    let limits = {
        let mut limits = Limits::default();
        limits.decoding_buffer_size = MAX_BYTES as usize;
        limits.intermediate_buffer_size = CHUNK_BYTES_MAX;
        limits
    };
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(failed)?.with_limits(limits);
    let photometric = photometric.ok_or_else(|| refused("no word of what its samples mean"))?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let layout = Layout::read(&mut decoder, photometric, big_endian).map_err(failed)?;
    let meaning = Meaning::of(&layout).map_err(refused)?;
    check_bytes((width, height), 2 * file.len(), layout.bytes(meaning, width, height))?;
    let colours = match meaning {
        Meaning::Palette => Some(palette(&mut decoder, layout.bits)?),
        _ => None,
    };
    let turned = turned(&mut decoder);
    check_bytes((width, height), file.len(), upright_bytes((width, height), turned))?;
    let samples = samples(&mut decoder, &layout, meaning, width, height)?;
    if layout.is_rgb(meaning) {
        let mut rgb = samples;
        rgb.truncate(width * height * 3);
        return Ok((Picture { transparent: None, width, height, rgb }, turned));
    }
    let planar = layout.planar && layout.samples > 1;
    let at = |pixel: usize, sample: usize| {
        samples[if planar { sample * width * height + pixel } else { pixel * layout.samples + sample }]
    };
    let mut rgb = Vec::with_capacity(width * height * 3);
    for pixel in 0..width * height {
        let first = |count: usize| -> [u8; 4] { std::array::from_fn(|i| if i < count { at(pixel, i) } else { 0 }) };
        rgb.extend_from_slice(&match meaning {
            Meaning::Grey { inverted } => [if inverted { 255 - at(pixel, 0) } else { at(pixel, 0) }; 3],
            Meaning::Rgb { premultiplied: false } => [at(pixel, 0), at(pixel, 1), at(pixel, 2)],
            Meaning::Rgb { premultiplied: true } => divided_by_alpha(first(4)),
            Meaning::Palette => colours.as_ref().map_or([0; 3], |colours| colours[usize::from(at(pixel, 0))]),
            Meaning::Cmyk => from_cmyk(first(4)),
            Meaning::YCbCr => from_ycbcr(first(3)),
        });
    }
    Ok((Picture { transparent: None, width, height, rgb }, turned))
}

fn refused(found: impl Into<String>) -> DecodeError {
    DecodeError::Tiff { found: found.into() }
}

fn failed(error: TiffError) -> DecodeError {
    match error {
        TiffError::UnsupportedError(what) => {
            refused(what.to_string().trim_end_matches(" is unsupported").escape_debug().to_string())
        }
        other => DecodeError::DamagedTiff(other),
    }
}

/// Overwrites the photometric interpretation of the first page, so that samples are not converted, and returns the original
/// one.
fn replace_photometric(bytes: &mut [u8]) -> Option<u16> {
    let (big_endian, is_big) = (bytes.starts_with(b"MM"), bytes[2..4].contains(&b'+'));
    let number = |bytes: &[u8], at: usize, width: usize| -> Option<usize> {
        let bytes = bytes.get(at..at.checked_add(width)?)?;
        let value = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let number = if big_endian { bytes.iter().fold(0, value) } else { bytes.iter().rev().fold(0, value) };
        usize::try_from(number).ok()
    };
    // Offset of the first page's offset, and sizes of an offset, of the number of entries, and of an entry.
    let (place, place_width, count_width, entry_width) = if is_big { (8, 8, 8, 20) } else { (4, 4, 2, 12) };
    let page = number(bytes, place, place_width)?;
    let count = number(bytes, page, count_width)?;
    let first = page.checked_add(count_width)?;
    for index in 0..count {
        let entry = first.checked_add(index.checked_mul(entry_width)?)?;
        if number(bytes, entry, 2)? == usize::from(PHOTOMETRIC) {
            let value = entry + entry_width - place_width;
            let found = u16::try_from(number(bytes, value, 2)?).ok()?;
            let new = if big_endian { BLACK_IS_ZERO.to_be_bytes() } else { BLACK_IS_ZERO.to_le_bytes() };
            bytes.get_mut(value..value + 2)?.copy_from_slice(&new);
            return Some(found);
        }
    }
    None
}

/// How samples are stored.
#[derive(Debug)]
struct Layout {
    photometric: u16,
    format: u16,
    bits: u16,
    samples: usize,
    extra: Vec<u16>,
    planar: bool,
    big_endian: bool,
    compression: u16,
    reversed_bits: bool,
    subsampled: bool,
}

impl Layout {
    fn read(decoder: &mut Decoder<Cursor<Vec<u8>>>, photometric: u16, big_endian: bool) -> Result<Self, TiffError> {
        let mut values = |tag| decoder.find_tag_unsigned_vec::<u16>(tag).map(Option::unwrap_or_default);
        let first = |values: Vec<u16>, default| values.first().copied().unwrap_or(default);
        let samples = first(values(Tag::SamplesPerPixel)?, 1);
        let subsampling = values(Tag::Unknown(530))?;
        let mut extra = values(Tag::ExtraSamples)?;
        let planar = first(values(Tag::PlanarConfiguration)?, 1) == 2;
        // Extra samples without meaning in separate planes are ignored.
        if planar && extra.iter().all(|kind| *kind == 0) {
            extra.clear();
        }
        Ok(Self {
            photometric,
            format: first(values(Tag::SampleFormat)?, UNSIGNED),
            bits: first(values(Tag::BitsPerSample)?, 1),
            samples: usize::from(samples),
            extra,
            planar,
            big_endian,
            compression: first(values(Tag::Compression)?, UNCOMPRESSED),
            reversed_bits: first(values(Tag::FillOrder)?, 1) == 2,
            subsampled: subsampling.iter().any(|step| *step != 1),
        })
    }

    /// True if its samples, converted to 8 bits, are RGB pixels.
    fn is_rgb(&self, meaning: Meaning) -> bool {
        meaning == Meaning::Rgb { premultiplied: false } && self.samples == 3 && !self.planar
    }

    /// Peak memory of the samples as stored, the samples as 8 bits, and the pixels.
    fn bytes(&self, meaning: Meaning, width: usize, height: usize) -> u64 {
        let samples = (width * height) as u64 * self.samples as u64;
        let stored = samples * u64::from(self.bits.div_ceil(8));
        let aside = if self.compression == JPEG { stored } else { 0 };
        let converted = if self.bits == 8 && self.format == UNSIGNED { 0 } else { samples };
        let pixels = if self.is_rgb(meaning) { 0 } else { rgb_bytes(width, height) };
        (stored + aside + converted).max(samples + pixels)
    }

    /// Description for messages.
    fn shown(&self) -> String {
        let colours = match self.photometric {
            0 | 1 => "grey",
            2 => "RGB",
            3 => "a palette",
            4 => "a transparency mask",
            5 => "CMYK",
            6 => "YCbCr",
            8 => "CIE L*a*b* colours",
            9 => "ICC L*a*b* colours",
            10 => "ITU L*a*b* colours",
            32803 => "a camera's raw colours",
            34892 => "a camera's linear raw colours",
            32844 | 32845 => "LogLuv colours",
            _ => "colours of an unknown kind",
        };
        let kind = match self.format {
            UNSIGNED => "",
            SIGNED => " signed",
            FLOAT => " float",
            _ => " complex or unknown",
        };
        let extra = match self.extra.first() {
            None => "",
            Some(1) => ", with premultiplied alpha",
            Some(2) => ", with alpha",
            Some(_) => ", with extra samples",
        };
        let Self { bits, samples, .. } = self;
        let plural = if *samples == 1 { "" } else { "s" };
        format!("{colours} ({samples} sample{plural} of {bits}{kind} bits{extra})")
    }
}

/// The meaning of samples; alpha and other extra samples are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Grey { inverted: bool },
    Rgb { premultiplied: bool },
    Palette,
    Cmyk,
    YCbCr,
}

impl Meaning {
    /// The meaning, if Pillow reads this kind and converts it to RGB without a profile; else a description of the kind.
    fn of(layout: &Layout) -> Result<Self, String> {
        let Layout { photometric, format, bits, samples, ref extra, .. } = *layout;
        let refused = || layout.shown();
        if layout.reversed_bits {
            return Err(format!("{}, the bits of its bytes reversed", refused()));
        }
        let colours = match photometric {
            2 | 6 if samples > 1 => 3,
            5 => 4,
            _ => 1,
        };
        // RGB with four samples and no description of the fourth is RGB with alpha.
        let counted = samples == colours + extra.len() || (layout.planar && extra.is_empty() && samples > colours);
        let alpha_unsaid = photometric == 2 && samples == 4 && extra.is_empty();
        if !counted && !alpha_unsaid {
            return Err(refused());
        }
        let unused = |kinds: &[u16]| kinds.iter().all(|kind| *kind == 0);
        let meaning = match (photometric, format, bits, extra.as_slice()) {
            (0 | 1, UNSIGNED, 1 | 2 | 4 | 8, []) => Some(Self::Grey { inverted: photometric == 0 }),
            // Deep grey is clipped and never inverted; some kinds are read in one byte order only.
            (0, UNSIGNED, 16, []) | (1, UNSIGNED, 32, []) if layout.big_endian => None,
            (0 | 1, UNSIGNED, 16, []) | (1, UNSIGNED, 32, []) => Some(Self::Grey { inverted: false }),
            (1, SIGNED, 8 | 16 | 32, []) | (0 | 1, FLOAT, 32, []) => Some(Self::Grey { inverted: false }),
            (1, UNSIGNED, 8, [0 | 2]) => Some(Self::Grey { inverted: false }),
            (2, UNSIGNED, 8 | 16, [] | [999]) => Some(Self::Rgb { premultiplied: false }),
            (2, UNSIGNED, 8, [0 | 2, rest @ ..]) if rest.len() < 3 && unused(rest) => {
                Some(Self::Rgb { premultiplied: false })
            }
            (2, UNSIGNED, 16, [0 | 2]) => Some(Self::Rgb { premultiplied: false }),
            (2, UNSIGNED, 8, [1, rest @ ..]) if rest.len() < 3 && unused(rest) && !layout.planar => {
                Some(Self::Rgb { premultiplied: true })
            }
            (2, UNSIGNED, 16, [1]) if !layout.planar => Some(Self::Rgb { premultiplied: true }),
            (3, UNSIGNED, 1 | 2 | 4 | 8, []) | (3, UNSIGNED, 8, [0 | 2]) => Some(Self::Palette),
            (5, UNSIGNED, 8, rest) if rest.len() < 3 && unused(rest) => Some(Self::Cmyk),
            (5, UNSIGNED, 16, []) => Some(Self::Cmyk),
            (6, UNSIGNED, 8, []) if samples == 1 => Some(Self::Grey { inverted: false }),
            (6, UNSIGNED, 8, []) if layout.compression != UNCOMPRESSED => {
                return Err(format!("{}, compressed", refused()));
            }
            (6, UNSIGNED, 8, []) if layout.subsampled => {
                return Err(format!("{}, fewer of them for colour than for brightness", refused()));
            }
            (6, UNSIGNED, 8, []) => Some(Self::YCbCr),
            _ => None,
        };
        meaning.ok_or_else(refused)
    }
}

/// The colours of a palette of 2^`bits`.
fn palette(decoder: &mut Decoder<Cursor<Vec<u8>>>, bits: u16) -> Result<Vec<[u8; 3]>, DecodeError> {
    let map = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(failed)?.unwrap_or_default();
    let count = 1_usize << bits;
    if map.len() != 3 * count {
        return Err(refused(format!("a palette of {} numbers instead of {}", map.len(), 3 * count)));
    }
    Ok((0..count).map(|index| [0, 1, 2].map(|plane| (map[plane * count + index] >> 8) as u8)).collect())
}

/// The orientation in the tag of the page, else in XMP.
fn turned(decoder: &mut Decoder<Cursor<Vec<u8>>>) -> Orientation {
    if let Ok(Some(value)) = decoder.find_tag_unsigned::<u8>(Tag::Orientation) {
        return Orientation::from_exif(value).unwrap_or(Orientation::NoTransforms);
    }
    let xmp = decoder.get_tag_u8_vec(Tag::Unknown(700)).ok();
    orientation(None, xmp.as_deref()).unwrap_or(Orientation::NoTransforms)
}

/// All samples as 8 bits: palette indices unchanged, grey of fewer than 8 bits scaled to 255, deep grey clipped, the high
/// byte of deep colours.
fn samples(
    decoder: &mut Decoder<Cursor<Vec<u8>>>,
    layout: &Layout,
    meaning: Meaning,
    width: usize,
    height: usize,
) -> Result<Vec<u8>, DecodeError> {
    let mut read = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut read).map_err(failed)?;
    let clipped = |value: i64| value.clamp(0, 255) as u8;
    let is_grey = matches!(meaning, Meaning::Grey { .. });
    let samples: Vec<u8> = match read {
        DecodingResult::U8(packed) if layout.bits < 8 => unpacked(&packed, layout.bits, width, is_grey),
        DecodingResult::U8(values) => values,
        // Reinterpreted as unsigned, as in Pillow.
        DecodingResult::I8(values) => values.into_iter().map(i8::cast_unsigned).collect(),
        DecodingResult::U16(values) if is_grey => values.into_iter().map(|value| clipped(value.into())).collect(),
        DecodingResult::U16(values) => values.into_iter().map(|value| (value >> 8) as u8).collect(),
        DecodingResult::I16(values) => values.into_iter().map(|value| clipped(value.into())).collect(),
        // Reinterpreted as signed, as in Pillow.
        DecodingResult::U32(values) => values.into_iter().map(|value| clipped(value.cast_signed().into())).collect(),
        DecodingResult::I32(values) => values.into_iter().map(|value| clipped(value.into())).collect(),
        // Rounds towards zero; NaN becomes 0.
        DecodingResult::F32(values) => values.into_iter().map(|value| value as u8).collect(),
        _ => return Err(refused(layout.shown())),
    };
    if samples.len() < width * height * layout.samples {
        return Err(refused(format!("{}, fewer than its size says", layout.shown())));
    }
    Ok(samples)
}

/// Unpacks samples of fewer than 8 bits. Rows start at whole bytes, and the first sample is in the highest bits.
fn unpacked(packed: &[u8], bits: u16, width: usize, stretched: bool) -> Vec<u8> {
    let per_byte = usize::from(8 / bits);
    let largest = u8::MAX >> (8 - bits);
    let factor = if stretched { 255 / largest } else { 1 };
    let rows = packed.chunks(width.div_ceil(per_byte));
    let row = |bytes: &[u8]| -> Vec<u8> {
        let sample =
            |x: usize| bytes.get(x / per_byte).map_or(0, |b| b >> (8 - usize::from(bits) * (x % per_byte + 1)));
        (0..width).map(|x| (sample(x) & largest) * factor).collect()
    };
    rows.flat_map(row).collect()
}

/// Divides premultiplied RGB by its alpha.
fn divided_by_alpha([r, g, b, alpha]: [u8; 4]) -> [u8; 3] {
    [r, g, b].map(|value| match alpha {
        0 => 0,
        _ => (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8,
    })
}

/// ITU-R BT.601 in full range, with factors in 64ths as Pillow has them.
fn from_ycbcr([y, cb, cr, _]: [u8; 4]) -> [u8; 3] {
    let part = |factor: f64, chroma: u8| (factor * 64.0 * (f64::from(chroma) - 128.0) + 0.5) as i32;
    let sum = |colour: i32| (i32::from(y) + (colour >> 6)).clamp(0, 255) as u8;
    [sum(part(1.402, cr)), sum(part(-0.34414, cb) + part(-0.71414, cr)), sum(part(1.772, cb))]
}
