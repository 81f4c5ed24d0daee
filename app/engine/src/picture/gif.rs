//! Decodes the first frame of a GIF onto its screen, as Pillow 13 does. GIFs have no orientation. A truncated frame is an
//! error.

mod lzw;

use super::budget::{check_bytes, check_size, rgb_bytes};
use super::{DecodeError, Picture};

const SIGNATURES: [&[u8]; 2] = [b"GIF87a", b"GIF89a"];

/// Block types.
const EXTENSION: u8 = b'!';
const IMAGE: u8 = b',';
const TRAILER: u8 = b';';
/// Label of the extension that names the transparent index.
const GRAPHIC_CONTROL: u8 = 0xf9;

/// Returns true if the file has a GIF signature.
pub(super) fn is_gif(bytes: &[u8]) -> bool {
    SIGNATURES.iter().any(|signature| bytes.starts_with(signature))
}

/// Decodes the first frame to RGB. `transparent` is the colour of the frame's transparent index.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, DecodeError> {
    let mut reader = Reader { rest: bytes };
    let frame = Frame::read(&mut reader).map_err(damaged)?;
    let (width, height) = frame.size();
    check_size(width, height)?;
    check_bytes((width, height), bytes.len(), rgb_bytes(width, height) + frame.indices() as u64)?;
    let color = |index: u8| frame.palette.0[usize::from(index)];
    // Pillow fills the screen around the frame with the transparent index, or with index 0.
    let mut rgb = color(frame.transparent.unwrap_or(0)).repeat(width * height);
    frame.decode(&mut reader, &mut rgb, width).map_err(damaged)?;
    let transparent = frame.transparent.map(color);
    Ok(Picture { width, height, rgb, transparent })
}

fn damaged(what: Damage) -> DecodeError {
    DecodeError::Gif { what }
}

/// Damage of a GIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends within a block.
    #[error("expected a whole frame, found the end of the file; copy it again")]
    Truncated,
    /// There is no frame.
    #[error("expected a frame, found none")]
    NoFrame,
    /// A frame without columns or without rows.
    #[error("expected a frame with pixels, found one without")]
    EmptyFrame,
    /// The LZW minimum code size is too large.
    #[error("expected an LZW minimum code size of at most {max} bits, found {0}", max = lzw::CODE_BITS_MAX)]
    CodeSize(u8),
    /// An LZW code that is not in the table yet.
    #[error("expected an LZW code in the table, found one that is not")]
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

/// Reads from the front of the remaining bytes.
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

    /// Reads a data sub-block. An empty one terminates the sequence.
    fn block(&mut self) -> Result<&'a [u8], Damage> {
        let [length] = self.array()?;
        self.take(usize::from(length))
    }

    /// Reads the colour table that follows if `flags` announce one.
    fn palette(&mut self, flags: u8) -> Result<Option<&'a [u8]>, Damage> {
        if flags & 128 == 0 { Ok(None) } else { self.take(3 << ((flags & 7) + 1)).map(Some) }
    }
}

/// Position, size and colours of the first frame.
struct Frame {
    /// Width and height of the logical screen.
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
    /// Reads up to the frame's LZW data.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damage> {
        let number = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high]));
        let [.., w0, w1, h0, h1, flags, _, _] = reader.array::<13>()?;
        let screen = (number(w0, w1), number(h0, h1));
        let shared = reader.palette(flags)?;
        let mut transparent = None;
        loop {
            match reader.array()? {
                [EXTENSION] => transparent = extension(reader)?.or(transparent),
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

    /// Width and height of the image: the screen, enlarged where the frame exceeds it.
    fn size(&self) -> (usize, usize) {
        (self.screen.0.max(self.left + self.width), self.screen.1.max(self.top + self.height))
    }

    /// Number of colour indices, one per pixel of the frame.
    fn indices(&self) -> usize {
        self.width * self.height
    }

    /// Decodes the frame into `rgb`, an image of `stride` columns.
    fn decode(&self, reader: &mut Reader<'_>, rgb: &mut [u8], stride: usize) -> Result<(), Damage> {
        let mut indices = vec![0; self.indices()];
        lzw::decode(reader, &mut indices)?;
        for (from, row) in indices.chunks_exact(self.width).zip(rows(self.height, self.is_interlaced)) {
            let at = (self.top + row) * stride + self.left;
            let row = rgb[at * 3..][..self.width * 3].as_chunks_mut::<3>().0;
            for (pixel, &index) in row.iter_mut().zip(from) {
                *pixel = self.palette.0[usize::from(index)];
            }
        }
        Ok(())
    }
}

/// Reads an extension block. Returns the transparent index if it names one.
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

/// Yields row numbers in file order.
fn rows(height: usize, is_interlaced: bool) -> impl Iterator<Item = usize> {
    let passes: &[(usize, usize)] = if is_interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

/// The colour of each index.
struct Palette([[u8; 3]; 256]);

impl Palette {
    /// Takes the first colour table that is not a plain grey ramp; indices beyond its end are black. Without such a table
    /// indices are grey levels. Pillow drops grey ramps in the same way.
    fn new(tables: [Option<&[u8]>; 2]) -> Self {
        let grey = std::array::from_fn(|level| [level as u8; 3]);
        let tables = tables.into_iter().flatten().map(|table| table.as_chunks::<3>().0);
        let mut colored = tables.filter(|table| !table.iter().eq(grey.iter().take(table.len())));
        let table = colored.next();
        Self(table.map_or(grey, |table| std::array::from_fn(|index| table.get(index).copied().unwrap_or_default())))
    }
}
