//! YUV rows become RGB rows, in integers.

use crate::source::{Matrix, Range};

/// Binary places of the coefficients: the most that keep every sum within 32 bits.
const PLACES: u32 = 16;

/// One standard's conversion: for luma y and chroma u, v without their offsets,
/// R = l y + rv v, G = l y - gu u - gv v, B = l y + bu u (ITU-R BT.601-7 section 2.5.1, BT.709-6 section 3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Converter {
    black: i32,
    l: i32,
    rv: i32,
    gu: i32,
    gv: i32,
    bu: i32,
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
        let fixed = |value: f64| (value * f64::from(1 << PLACES)).round() as i32;
        Converter {
            black,
            l: fixed(luma),
            rv: fixed(chroma * 2.0 * (1.0 - kr)),
            gu: fixed(chroma * 2.0 * (1.0 - kb) * kb / kg),
            gv: fixed(chroma * 2.0 * (1.0 - kr) * kr / kg),
            bu: fixed(chroma * 2.0 * (1.0 - kb)),
        }
    }

    /// What a pair of chroma samples adds to red, green and blue; with the half that rounds.
    #[inline(always)]
    fn chroma(self, u: u8, v: u8) -> [i32; 3] {
        const HALF: i32 = 1 << (PLACES - 1);
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        [self.rv * v + HALF, HALF - self.gu * u - self.gv * v, self.bu * u + HALF]
    }

    #[inline(always)]
    fn pixel(self, y: u8, chroma: [i32; 3]) -> [u8; 3] {
        let luma = self.l * (i32::from(y) - self.black);
        chroma.map(|part| ((luma + part) >> PLACES).clamp(0, 255) as u8)
    }

    /// `row`: `Y0 U Y1 V` for every two pixels, whole also for an odd last pixel.
    pub(super) fn yuyv(self, row: &[u8], rgb: &mut [u8]) {
        self.packed(row, rgb, |&[y0, u, y1, v]| [y0, y1, u, v]);
    }

    /// `row`: `U Y0 V Y1` for every two pixels, whole also for an odd last pixel.
    pub(super) fn uyvy(self, row: &[u8], rgb: &mut [u8]) {
        self.packed(row, rgb, |&[u, y0, v, y1]| [y0, y1, u, v]);
    }

    #[inline(always)]
    fn packed(self, row: &[u8], rgb: &mut [u8], order: impl Fn(&[u8; 4]) -> [u8; 4]) {
        let (groups, _) = row.as_chunks::<4>();
        let (pairs, odd) = rgb.as_chunks_mut::<6>();
        for (group, pair) in groups.iter().zip(&mut *pairs) {
            let [y0, y1, u, v] = order(group);
            let chroma = self.chroma(u, v);
            let ([r0, g0, b0], [r1, g1, b1]) = (self.pixel(y0, chroma), self.pixel(y1, chroma));
            *pair = [r0, g0, b0, r1, g1, b1];
        }
        if let ([r, g, b], Some(group)) = (odd, groups.get(pairs.len())) {
            let [y0, _, u, v] = order(group);
            [*r, *g, *b] = self.pixel(y0, self.chroma(u, v));
        }
    }

    /// `ys`: one byte a pixel; `uvs`: `U V` for every two pixels, whole also for an odd last pixel.
    pub(super) fn nv12(self, ys: &[u8], uvs: &[u8], rgb: &mut [u8]) {
        let ((ys, last), (uvs, _)) = (ys.as_chunks::<2>(), uvs.as_chunks::<2>());
        let (pairs, odd) = rgb.as_chunks_mut::<6>();
        for (([y0, y1], [u, v]), pair) in ys.iter().zip(uvs).zip(&mut *pairs) {
            let chroma = self.chroma(*u, *v);
            let ([r0, g0, b0], [r1, g1, b1]) = (self.pixel(*y0, chroma), self.pixel(*y1, chroma));
            *pair = [r0, g0, b0, r1, g1, b1];
        }
        if let ([r, g, b], [y], Some([u, v])) = (odd, last, uvs.get(ys.len())) {
            [*r, *g, *b] = self.pixel(*y, self.chroma(*u, *v));
        }
    }

    /// `ys`: one byte a pixel.
    pub(super) fn grey(self, ys: &[u8], rgb: &mut [u8]) {
        let chroma = self.chroma(128, 128);
        for (y, pixel) in ys.iter().zip(rgb.as_chunks_mut::<3>().0) {
            *pixel = self.pixel(*y, chroma);
        }
    }
}
