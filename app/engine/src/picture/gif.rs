//! GIF: the first frame on its screen, as Pillow 13 reads it, for interlaced and plain frames alike. No metadata turns a
//! GIF, and a frame that ends early is refused.

use super::{DecodeError, Picture, check_size};

const SIGNATURES: [&[u8]; 2] = [b"GIF87a", b"GIF89a"];

/// What opens a block.
const EXTENSION: u8 = b'!';
const IMAGE: u8 = b',';
const TRAILER: u8 = b';';
/// The extension that marks an index as transparent.
const GRAPHIC_CONTROL: u8 = 0xf9;

/// Most bits of a code, and with it most entries of the table.
const CODE_BITS_MAX: u32 = 12;
const CODES_MAX: usize = 1 << CODE_BITS_MAX;

/// Whether a file begins as GIF does.
pub(super) fn is_gif(bytes: &[u8]) -> bool {
    SIGNATURES.iter().any(|signature| bytes.starts_with(signature))
}

/// The first frame as RGB. `transparent` is the colour of the index that the frame marks so.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    let mut reader = Reader { rest: bytes };
    let frame = Frame::read(&mut reader).map_err(damaged)?;
    let (width, height) = frame.size();
    check_size(width, height)?;
    // Around the frame lies the transparent index, else the first one.
    let mut indices = vec![frame.transparent.unwrap_or(0); width * height];
    frame.decode(&mut reader, &mut indices, width).map_err(damaged)?;
    let color = |index: u8| frame.palette.0[usize::from(index)];
    let mut rgb = Vec::with_capacity(indices.len() * 3);
    for index in indices {
        rgb.extend_from_slice(&color(index));
    }
    let transparent = frame.transparent.map(color);
    Ok(Picture { width, height, rgb, transparent })
}

fn damaged(what: Damage) -> DecodeError {
    DecodeError::Gif { what }
}

/// What is wrong with a GIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends within what it began.
    #[error("expected a whole frame, found the end of the file; copy it again")]
    Truncated,
    /// Blocks without a frame among them.
    #[error("expected a frame, found none")]
    NoFrame,
    /// A frame without columns or without rows.
    #[error("expected a frame with pixels, found one without")]
    EmptyFrame,
    /// Indices with more bits than a code may have.
    #[error("expected indices of at most {CODE_BITS_MAX} bits, found some of {0}")]
    IndexSize(u8),
    /// A code that stands for nothing yet.
    #[error("expected a code of the table, found another")]
    Code,
    /// The end code before the last pixel.
    #[error("expected {expected} pixels in the frame, found {found}")]
    Pixels {
        /// Pixels of the frame.
        expected: usize,
        /// Pixels before the end code.
        found: usize,
    },
}

/// The bytes that are left.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Damage::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (&taken, rest) = self.rest.split_first_chunk().ok_or(Damage::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A block of data behind its length; an empty one ends a row of them.
    fn block(&mut self) -> Result<&'a [u8], Damage> {
        let [length] = self.array()?;
        self.take(usize::from(length))
    }

    /// The colours that follow, if `flags` say so.
    fn palette(&mut self, flags: u8) -> Result<Option<&'a [u8]>, Damage> {
        if flags & 128 == 0 { Ok(None) } else { self.take(3 << ((flags & 7) + 1)).map(Some) }
    }
}

/// The first frame and what the blocks before it say of it.
struct Frame {
    /// Width and height of what frames are drawn on.
    screen: (usize, usize),
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    is_interlaced: bool,
    palette: Palette,
    transparent: Option<u8>,
}

impl Frame {
    /// Reads up to the frame's codes.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damage> {
        let number = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high]));
        let [.., w0, w1, h0, h1, flags, _, _] = reader.array::<13>()?;
        let screen = (number(w0, w1), number(h0, h1));
        let shared = reader.palette(flags)?;
        let mut transparent = None;
        loop {
            match reader.array()? {
                [EXTENSION] => {
                    if let Some(index) = extension(reader)? {
                        transparent = Some(index);
                    }
                }
                [IMAGE] => break,
                [TRAILER] => return Err(Damage::NoFrame),
                _ => {}
            }
        }
        let [x0, x1, y0, y1, w0, w1, h0, h1, flags] = reader.array()?;
        let palette = Palette::new([reader.palette(flags)?, shared]);
        let (left, top) = (number(x0, x1), number(y0, y1));
        let (width, height) = (number(w0, w1), number(h0, h1));
        if width == 0 || height == 0 {
            return Err(Damage::EmptyFrame);
        }
        Ok(Self { screen, left, top, width, height, is_interlaced: flags & 64 != 0, palette, transparent })
    }

    /// Width and height of the picture: the screen's, but no smaller than what holds the frame.
    fn size(&self) -> (usize, usize) {
        (self.screen.0.max(self.left + self.width), self.screen.1.max(self.top + self.height))
    }

    /// Puts the frame's indices into a picture of `stride` columns.
    fn decode(&self, reader: &mut Reader<'_>, picture: &mut [u8], stride: usize) -> Result<(), Damage> {
        let mut indices = vec![0; self.width * self.height];
        decode_codes(reader, &mut indices)?;
        for (from, row) in indices.chunks_exact(self.width).zip(rows(self.height, self.is_interlaced)) {
            let at = (self.top + row) * stride + self.left;
            picture[at..at + self.width].copy_from_slice(from);
        }
        Ok(())
    }
}

/// Reads an extension; gives the index that it marks as transparent.
fn extension(reader: &mut Reader<'_>) -> Result<Option<u8>, Damage> {
    let [label] = reader.array()?;
    let mut transparent = None;
    let first = reader.block()?;
    if label == GRAPHIC_CONTROL
        && let &[flags, _, _, index, ..] = first
        && flags & 1 == 1
    {
        transparent = Some(index);
    }
    let mut block = first;
    while !block.is_empty() {
        block = reader.block()?;
    }
    Ok(transparent)
}

/// The rows of a frame in the order in which they lie in the file.
fn rows(height: usize, is_interlaced: bool) -> impl Iterator<Item = usize> {
    let passes: &[(usize, usize)] = if is_interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

/// Fills `out` from the codes that follow: the number of bits that an index has, then blocks of codes with their lowest
/// bit first (Appendix F of the specification of GIF 89a).
fn decode_codes(reader: &mut Reader<'_>, out: &mut [u8]) -> Result<(), Damage> {
    let [index_bits] = reader.array()?;
    if u32::from(index_bits) > CODE_BITS_MAX {
        return Err(Damage::IndexSize(index_bits));
    }
    let mut table = Table::new(index_bits);
    let (mut bits, mut bit_count, mut block) = (0u32, 0u32, &[][..]);
    let (mut filled, expected) = (0, out.len());
    while filled < expected {
        while bit_count < table.code_bits {
            let Some((&byte, rest)) = block.split_first() else {
                block = reader.block()?;
                if block.is_empty() {
                    return Err(Damage::Pixels { expected, found: filled });
                }
                continue;
            };
            (bits, bit_count, block) = (bits | u32::from(byte) << bit_count, bit_count + 8, rest);
        }
        let code = (bits & ((1 << table.code_bits) - 1)) as usize;
        (bits, bit_count) = (bits >> table.code_bits, bit_count - table.code_bits);
        if code == table.clear {
            table.reset();
        } else if code == table.clear + 1 {
            return Err(Damage::Pixels { expected, found: filled });
        } else {
            filled += table.write(code, out, filled).ok_or(Damage::Code)?;
        }
    }
    Ok(())
}

/// The strings that codes stand for. Each is a part of what was written: where it begins and how long it is.
struct Table {
    index_bits: u8,
    /// The code that empties the table; the next one ends the frame.
    clear: usize,
    code_bits: u32,
    /// Per code above the end code.
    strings: Vec<(usize, usize)>,
    /// The string written last since the table was emptied.
    last: Option<(usize, usize)>,
}

impl Table {
    fn new(index_bits: u8) -> Self {
        let mut table = Self {
            index_bits,
            clear: 1 << index_bits,
            code_bits: 0,
            strings: Vec::with_capacity(CODES_MAX),
            last: None,
        };
        table.reset();
        table
    }

    fn reset(&mut self) {
        self.code_bits = u32::from(self.index_bits) + 1;
        self.strings.clear();
        self.last = None;
    }

    /// Writes the string of a code at `at`, up to the end of `out`; gives its length there. `None` where the code
    /// stands for nothing.
    fn write(&mut self, code: usize, out: &mut [u8], at: usize) -> Option<usize> {
        let first_string = self.clear + 2;
        // A new string is the one before it and the first index of this one; where both are one text, the code that
        // is being made can be used at once.
        let made = self.last.map(|(start, length)| (start, length + 1));
        let (start, length) = if code < self.clear {
            (None, 1)
        } else {
            let &(start, length) = self.strings.get(code - first_string).or_else(|| {
                let is_next = code - first_string == self.strings.len() && code < CODES_MAX;
                made.as_ref().filter(|_| is_next)
            })?;
            (Some(start), length)
        };
        let length = length.min(out.len() - at);
        match start {
            None => out[at] = code as u8,
            Some(start) => {
                for offset in 0..length {
                    out[at + offset] = out[start + offset];
                }
            }
        }
        if let Some(made) = made
            && first_string + self.strings.len() < CODES_MAX
        {
            self.strings.push(made);
            let next = first_string + self.strings.len();
            if next == 1 << self.code_bits && self.code_bits < CODE_BITS_MAX {
                self.code_bits += 1;
            }
        }
        self.last = Some((at, length));
        Some(length)
    }
}

/// The colour of each index.
struct Palette([[u8; 3]; 256]);

impl Palette {
    /// Of the first of these tables that is not just grey levels in order; what it does not name is black. Without one,
    /// indices are grey levels.
    fn new(tables: [Option<&[u8]>; 2]) -> Self {
        let grey = std::array::from_fn(|level| [level as u8; 3]);
        let tables = tables.into_iter().flatten().map(|table| table.as_chunks::<3>().0);
        let is_grey = |table: &&[[u8; 3]]| table.iter().eq(grey.iter().take(table.len()));
        let table = tables.skip_while(is_grey).next();
        Self(table.map_or(grey, |table| std::array::from_fn(|index| table.get(index).copied().unwrap_or_default())))
    }
}
