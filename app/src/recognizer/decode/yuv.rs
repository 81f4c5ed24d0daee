//! Converts YUV rows to RGB, in 16-bit integers and blocks that compilers vectorise.

use crate::source::{Matrix, Range};

/// Pixel pairs per block: a multiple of the lanes of every vector unit.
const PAIRS: usize = 16;

/// Fraction bits of sums: the most that keep them within 16 bits.
const PLACES: u32 = 5;

/// Bits by which luma is shifted before the multiplication; a product loses 16.
const LUMA_PLACES: u32 = 7;

/// The same for chroma, which has a sign.
const CHROMA_PLACES: u32 = 8;

/// Half of the last kept bit, for rounding.
const HALF: i16 = 1 << (PLACES - 1);

/// Conversion by one standard: for luma y and chroma u, v without their offsets,
/// R = l y + rv v, G = l y + gu u + gv v, B = l y + bu u (ITU-R BT.601-7 section 2.5.1, BT.709-6 section 3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Converter {
    black: i16,
    l: i16,
    rv: i16,
    gu: i16,
    gv: i16,
    bu: i16,
}

/// The samples of `PAIRS` pixel pairs, with left and right luma separate.
struct Block {
    y: [[u8; PAIRS]; 2],
    u: [u8; PAIRS],
    v: [u8; PAIRS],
}

impl Converter {
    pub(super) fn new(matrix: Matrix, range: Range) -> Self {
        // The standards' weights of red and blue in luma.
        let (kr, kb) = match matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = match range {
            Range::Full => (0, 1.0, 1.0),
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
        };
        let fixed = |value: f64, places: u32| (value * f64::from(1 << (PLACES + 16 - places))).round() as i16;
        Converter {
            black,
            l: fixed(luma, LUMA_PLACES),
            rv: fixed(chroma * 2.0 * (1.0 - kr), CHROMA_PLACES),
            gu: fixed(-chroma * 2.0 * (1.0 - kb) * kb / kg, CHROMA_PLACES),
            gv: fixed(-chroma * 2.0 * (1.0 - kr) * kr / kg, CHROMA_PLACES),
            bu: fixed(chroma * 2.0 * (1.0 - kb), CHROMA_PLACES),
        }
    }

    /// Converts `Y0 U Y1 V` for every two pixels; an odd last pixel has all four bytes.
    pub(super) fn yuyv(self, row: &[u8], rgb: &mut [u8]) {
        self.packed(row, rgb, |&[y0, u, y1, v]| [y0, y1, u, v]);
    }

    /// Converts `U Y0 V Y1` for every two pixels; an odd last pixel has all four bytes.
    pub(super) fn uyvy(self, row: &[u8], rgb: &mut [u8]) {
        self.packed(row, rgb, |&[u, y0, v, y1]| [y0, y1, u, v]);
    }

    #[inline(always)]
    fn packed(self, row: &[u8], rgb: &mut [u8], order: impl Fn(&[u8; 4]) -> [u8; 4]) {
        for (groups, rgb) in row.chunks(4 * PAIRS).zip(rgb.chunks_mut(6 * PAIRS)) {
            let groups: [u8; 4 * PAIRS] = padded(groups);
            let groups = groups.as_chunks::<4>().0;
            let pick = |sample: usize| std::array::from_fn(|i| order(&groups[i])[sample]);
            self.block(&Block { y: [pick(0), pick(1)], u: pick(2), v: pick(3) }, rgb);
        }
    }

    /// Converts one luma byte per pixel and `U V` for every two pixels; an odd last pixel has both bytes.
    pub(super) fn nv12(self, ys: &[u8], uvs: &[u8], rgb: &mut [u8]) {
        for ((ys, uvs), rgb) in ys.chunks(2 * PAIRS).zip(uvs.chunks(2 * PAIRS)).zip(rgb.chunks_mut(6 * PAIRS)) {
            let (ys, uvs): ([u8; 2 * PAIRS], [u8; 2 * PAIRS]) = (padded(ys), padded(uvs));
            let pick = |samples: &[u8; 2 * PAIRS], first: usize| std::array::from_fn(|i| samples[2 * i + first]);
            self.block(&Block { y: [pick(&ys, 0), pick(&ys, 1)], u: pick(&uvs, 0), v: pick(&uvs, 1) }, rgb);
        }
    }

    /// Converts one luma byte per pixel.
    pub(super) fn grey(self, ys: &[u8], rgb: &mut [u8]) {
        for (ys, pixels) in ys.chunks(2 * PAIRS).zip(rgb.as_chunks_mut::<3>().0.chunks_mut(2 * PAIRS)) {
            let ys: [u8; 2 * PAIRS] = padded(ys);
            let values = ys.map(|y| clamped(self.luma(y) + HALF));
            for (pixel, value) in pixels.iter_mut().zip(values) {
                *pixel = [value; 3];
            }
        }
    }

    /// Expands red, green and blue in luma's limited range.
    pub(super) fn rgb(self, row: &[u8], rgb: &mut [u8]) {
        for (value, sample) in rgb.iter_mut().zip(row) {
            *value = clamped(self.luma(*sample) + HALF);
        }
    }

    /// Converts a block into `rgb`, as far as it fits.
    #[inline(always)]
    fn block(self, block: &Block, rgb: &mut [u8]) {
        match rgb.try_into() {
            Ok(rgb) => self.whole_block(block, rgb),
            Err(_) => {
                let mut whole = [0; 6 * PAIRS];
                self.whole_block(block, &mut whole);
                rgb.copy_from_slice(&whole[..rgb.len()]);
            }
        }
    }

    #[inline(always)]
    fn whole_block(self, block: &Block, rgb: &mut [u8; 6 * PAIRS]) {
        let (u, v) = (block.u.map(signed), block.v.map(signed));
        let chroma: [[i16; PAIRS]; 3] = [
            std::array::from_fn(|i| times(v[i], self.rv) + HALF),
            std::array::from_fn(|i| times(u[i], self.gu) + times(v[i], self.gv) + HALF),
            std::array::from_fn(|i| times(u[i], self.bu) + HALF),
        ];
        let pixels = |y: &[u8; PAIRS]| -> [u32; PAIRS] {
            std::array::from_fn(|i| {
                let [r, g, b] = [0, 1, 2].map(|color| clamped(self.luma(y[i]) + chroma[color][i]));
                u32::from_le_bytes([r, g, b, 0])
            })
        };
        let [left, right] = [pixels(&block.y[0]), pixels(&block.y[1])];
        // Writes eight bytes for every six; the next pair overwrites the rest.
        let mut whole = [0; 6 * PAIRS + 2];
        for i in 0..PAIRS {
            let pair = u64::from(left[i]) | u64::from(right[i]) << 24;
            whole[6 * i..6 * i + 8].copy_from_slice(&pair.to_le_bytes());
        }
        rgb.copy_from_slice(&whole[..6 * PAIRS]);
    }

    #[inline(always)]
    fn luma(self, y: u8) -> i16 {
        times((i16::from(y) - self.black) << LUMA_PLACES, self.l)
    }
}

/// `samples`, padded with zeros to a whole block.
#[inline(always)]
fn padded<const N: usize>(samples: &[u8]) -> [u8; N] {
    samples.try_into().unwrap_or_else(|_| {
        let mut block = [0; N];
        block[..samples.len()].copy_from_slice(samples);
        block
    })
}

/// Chroma without its offset.
#[inline(always)]
fn signed(sample: u8) -> i16 {
    (i16::from(sample) - 128) << CHROMA_PLACES
}

/// The high half of a product.
#[inline(always)]
fn times(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b)) >> 16) as i16
}

#[inline(always)]
fn clamped(sum: i16) -> u8 {
    (sum >> PLACES).clamp(0, 255) as u8
}
