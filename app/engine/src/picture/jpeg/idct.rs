//! The inverse DCT: libjpeg's accurate integer transform ("islow", by Loeffler, Ligtenberg and Moschytz).
//!
//! Sums and products wrap and saturate as in libjpeg-turbo's vector code, so that coefficients that no encoder writes
//! give the same pixels too.

/// Coefficients or quantisation steps of one block, row by row.
pub(super) type Block = [i16; 64];

/// One row of eight values.
type Lanes = [i16; 8];

/// Fraction bits of the constants.
const CONST_BITS: u32 = 13;
/// Fraction bits that the first pass keeps.
const PASS1_BITS: u32 = 2;

/// Writes the samples of one block to `out`, whose rows are `stride` bytes apart.
#[inline(always)]
pub(super) fn transform(block: &Block, quantization: &Block, out: &mut [u8], stride: usize) {
    let mut rows = [[0_i16; 8]; 8];
    for ((row, values), steps) in rows.iter_mut().zip(block.chunks_exact(8)).zip(quantization.chunks_exact(8)) {
        for lane in 0..8 {
            row[lane] = values[lane].wrapping_mul(steps[lane]);
        }
    }
    let is_flat = block[8..].iter().fold(0, |all, value| all | value) == 0;
    let columns = if is_flat {
        let scaled = rows[0].map(|value| value << PASS1_BITS);
        scaled.map(|value| [value; 8])
    } else {
        transpose(pass::<{ CONST_BITS - PASS1_BITS }>(&rows))
    };
    let rows = transpose(pass::<{ CONST_BITS + PASS1_BITS + 3 }>(&columns_as_rows(columns)));
    for (row, line) in rows.iter().zip(out.chunks_mut(stride)) {
        let Some(line) = line.first_chunk_mut::<8>() else { return };
        *line = row.map(sample);
    }
}

/// As [`transform`], for a block whose AC coefficients are all zero.
#[inline(always)]
pub(super) fn transform_dc(dc: i16, quantization: &Block, out: &mut [u8], stride: usize) {
    let scaled = i32::from(dc.wrapping_mul(quantization[0]) << PASS1_BITS);
    let value = sample(((scaled + (1 << (PASS1_BITS + 2))) >> (PASS1_BITS + 3)) as i16);
    for line in out.chunks_mut(stride).take(8) {
        let Some(line) = line.first_chunk_mut::<8>() else { return };
        *line = [value; 8];
    }
}

/// Converts a value around zero to a sample.
#[inline(always)]
fn sample(value: i16) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

/// The output of the first pass is the input of the second: lane `i` of row `k` is value `k` of line `i`.
#[inline(always)]
fn columns_as_rows(columns: [Lanes; 8]) -> [Lanes; 8] {
    columns
}

/// One pass over eight columns at a time: `rows[k][i]` is coefficient `k` of column `i`. The result is descaled by
/// `SHIFT` bits.
#[inline(always)]
fn pass<const SHIFT: u32>(rows: &[Lanes; 8]) -> [Lanes; 8] {
    // Constants of T.81's transform times 2^13, combined so that each output is a sum of two products.
    const F_0_541: i32 = 4433;
    const F_0_765: i32 = 6270;
    const F_1_847: i32 = 15137;
    const F_1_175: i32 = 9633;
    const F_1_961: i32 = 16069;
    const F_0_390: i32 = 3196;
    const F_0_298: i32 = 2446;
    const F_0_899: i32 = 7373;
    const F_2_053: i32 = 16819;
    const F_2_562: i32 = 20995;
    const F_3_072: i32 = 25172;
    const F_1_501: i32 = 12299;
    let mut out = [[0_i16; 8]; 8];
    for lane in 0..8 {
        let at = |row: usize| rows[row][lane];
        let wide = |value: i16| i32::from(value);
        let (z2, z3) = (wide(at(2)), wide(at(6)));
        let even2 = z2 * F_0_541 + z3 * (F_0_541 - F_1_847);
        let even3 = z2 * (F_0_541 + F_0_765) + z3 * F_0_541;
        let even0 = wide(at(0).wrapping_add(at(4))) << CONST_BITS;
        let even1 = wide(at(0).wrapping_sub(at(4))) << CONST_BITS;
        let (t10, t13) = (even0.wrapping_add(even3), even0.wrapping_sub(even3));
        let (t11, t12) = (even1.wrapping_add(even2), even1.wrapping_sub(even2));

        let (i7, i5, i3, i1) = (wide(at(7)), wide(at(5)), wide(at(3)), wide(at(1)));
        let (z3, z4) = (wide(at(7).wrapping_add(at(3))), wide(at(5).wrapping_add(at(1))));
        let s3 = z3 * (F_1_175 - F_1_961) + z4 * F_1_175;
        let s4 = z3 * F_1_175 + z4 * (F_1_175 - F_0_390);
        let odd0 = (i7 * (F_0_298 - F_0_899) + i1 * -F_0_899).wrapping_add(s3);
        let odd1 = (i5 * (F_2_053 - F_2_562) + i3 * -F_2_562).wrapping_add(s4);
        let odd2 = (i5 * -F_2_562 + i3 * (F_3_072 - F_2_562)).wrapping_add(s3);
        let odd3 = (i7 * -F_0_899 + i1 * (F_1_501 - F_0_899)).wrapping_add(s4);

        let descale = |sum: i32| {
            let value = sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
            value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
        };
        out[0][lane] = descale(t10.wrapping_add(odd3));
        out[7][lane] = descale(t10.wrapping_sub(odd3));
        out[1][lane] = descale(t11.wrapping_add(odd2));
        out[6][lane] = descale(t11.wrapping_sub(odd2));
        out[2][lane] = descale(t12.wrapping_add(odd1));
        out[5][lane] = descale(t12.wrapping_sub(odd1));
        out[3][lane] = descale(t13.wrapping_add(odd0));
        out[4][lane] = descale(t13.wrapping_sub(odd0));
    }
    out
}

/// Transposes by three rounds of interleaving, which vector units have instructions for.
#[inline(always)]
fn transpose(rows: [Lanes; 8]) -> [Lanes; 8] {
    let round = |r: [Lanes; 8]| {
        let low = |a: Lanes, b: Lanes| [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]];
        let high = |a: Lanes, b: Lanes| [a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]];
        let [a, b, c, d, e, f, g, h] = r;
        [low(a, e), high(a, e), low(b, f), high(b, f), low(c, g), high(c, g), low(d, h), high(d, h)]
    };
    round(round(round(rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let rows: [Lanes; 8] = std::array::from_fn(|row| std::array::from_fn(|column| (row * 8 + column) as i16));
        let expected: [Lanes; 8] = std::array::from_fn(|row| std::array::from_fn(|column| (column * 8 + row) as i16));
        assert_eq!(transpose(rows), expected);
    }

    #[test]
    fn the_dc_transform_equals_the_full_one() {
        for step in [1, 16, 99, 255] {
            let quantization = [step; 64];
            for dc in -3000..3000 {
                let mut block = [0; 64];
                block[0] = dc;
                let (mut whole, mut short) = ([0; 64], [0; 64]);
                transform(&block, &quantization, &mut whole, 8);
                transform_dc(dc, &quantization, &mut short, 8);
                assert_eq!(whole, short, "{dc} times {step}");
            }
        }
    }

    #[test]
    fn samples_match_the_definition() {
        let mut seed = 1_u32;
        for _ in 0..200 {
            let mut block = [0_i16; 64];
            for value in &mut block[..20] {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (seed >> 24) as i16 - 128;
            }
            let mut found = [0; 64];
            transform(&block, &[1; 64], &mut found, 8);
            for (at, found) in found.iter().enumerate() {
                let (y, x) = (at / 8, at % 8);
                let basis = |at: usize, k: usize| {
                    let scale = if k == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
                    scale * ((2 * at + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos()
                };
                let sum: f64 =
                    (0..64).map(|k| f64::from(block[k]) * basis(y, k / 8) * basis(x, k % 8)).sum::<f64>() / 4.0;
                let expected = (sum + 128.0).clamp(0.0, 255.0);
                assert!((f64::from(*found) - expected).abs() < 0.6, "{found} for {expected}");
            }
        }
    }
}
