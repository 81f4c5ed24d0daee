//! Filter kernels and their weights: Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, and the variant of
//! ATen's `upsample_…2d_aa` for 8-bit tensors.

use std::f64::consts::PI;
use std::ops::Range;

use crate::preprocess::Filter;

/// Fraction bits of fixed-point weights: 32, less 8 for the pixel, less 2 against overflow by negative lobes (Pillow's
/// `PRECISION_BITS`).
pub(super) const FRACTION_BITS: u32 = 32 - 8 - 2;

/// How many of the [`FRACTION_BITS`] a weight uses; the others are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    /// All, as in Pillow.
    Full,
    /// As many as let the largest weight of an axis fit into 16 bits, as in ATen.
    Short,
}

/// Calls `each` for every output position in `window`, with the first input position and the weights from there on.
pub(super) fn for_each_output(
    filter: Filter,
    precision: Precision,
    (input, output): (usize, usize),
    window: Range<usize>,
    mut each: impl FnMut(usize, &[i32]),
) {
    let taps = Taps::new(filter, input, output);
    let (mut weights, mut fixed) = (Vec::new(), Vec::new());
    let bits = match precision {
        Precision::Full => FRACTION_BITS,
        Precision::Short => {
            let mut largest = 0.0_f64;
            for position in 0..output {
                taps.at(position, &mut weights);
                largest = weights.iter().copied().fold(largest, f64::max);
            }
            short_bits(largest)
        }
    };
    for position in window {
        let first = taps.at(position, &mut weights);
        fixed.clear();
        fixed.extend(weights.iter().map(|&weight| {
            let scaled = weight * f64::from(1 << bits);
            ((if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32) << (FRACTION_BITS - bits)
        }));
        each(first, &fixed);
    }
}

/// The most inputs of an output.
pub(super) fn taps_max(filter: Filter, input: usize, output: usize) -> usize {
    let support = Taps::new(filter, input, output).support;
    ((2.0 * support) as usize).saturating_add(2).min(input)
}

/// The most fraction bits with which `largest` rounds to less than 2^15.
fn short_bits(largest: f64) -> u32 {
    let too_large = |bits: &u32| (0.5 + largest * f64::from(1 << (bits + 1))) as i32 >= 1 << 15;
    (0..FRACTION_BITS).find(too_large).unwrap_or(FRACTION_BITS)
}

/// Computes the inputs of an output along one axis, and their weights.
struct Taps {
    filter: Filter,
    input: usize,
    scale: f64,
    /// Input pixels on each side.
    support: f64,
    /// Factor of distances.
    inverse: f64,
}

impl Taps {
    fn new(filter: Filter, input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        Self { filter, input, scale, support: radius(filter) * filter_scale, inverse: 1.0 / filter_scale }
    }

    /// Fills `weights`, whose sum is 1, and returns the first input position.
    fn at(&self, position: usize, weights: &mut Vec<f64>) -> usize {
        let center = (position as f64 + 0.5) * self.scale;
        // `as` clamps negative numbers to 0 and truncates, as Pillow's cast and test do.
        let first = (center - self.support + 0.5) as usize;
        let end = ((center + self.support + 0.5) as usize).min(self.input);
        weights.clear();
        weights.extend((first..end).map(|at| kernel(self.filter, (at as f64 - center + 0.5) * self.inverse)));
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        first
    }
}

/// Input pixels that a kernel covers on each side at scale 1.
fn radius(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest => 0.0,
        Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn kernel(filter: Filter, x: f64) -> f64 {
    let distance = x.abs();
    match filter {
        // Nearest does not use weights.
        Filter::Nearest => 0.0,
        Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear => (1.0 - distance).max(0.0),
        Filter::Hamming if distance >= 1.0 => 0.0,
        // These two constants have single precision in Pillow.
        Filter::Hamming => sinc(distance) * (f64::from(0.54_f32) + f64::from(0.46_f32) * (distance * PI).cos()),
        Filter::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
        Filter::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5,
        Filter::Bicubic => 0.0,
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Filter::Lanczos => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_cover_the_input_and_sum_to_one() {
        let check = |filter, input: usize, output: usize| {
            for (precision, unit) in [(Precision::Full, 1), (Precision::Short, 1 << (FRACTION_BITS - 13))] {
                let mut next = 0;
                for_each_output(filter, precision, (input, output), 0..output, |first, weights| {
                    assert!(first + weights.len() <= input, "{filter:?} {input} -> {output}");
                    let sum: i64 = weights.iter().copied().map(i64::from).sum();
                    let error = (sum - (1 << FRACTION_BITS)).unsigned_abs() as usize;
                    assert!(error <= weights.len() * unit, "{filter:?} {input} -> {output}: off by {error}");
                    next += 1;
                });
                assert_eq!(next, output);
            }
        };
        for filter in [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos] {
            for (input, output) in [(1, 1), (1, 9), (9, 1), (7, 48), (480, 48), (640, 224), (5000, 3), (3, 5000)] {
                check(filter, input, output);
            }
        }
    }

    #[test]
    fn short_weights_use_the_bits_of_the_largest() {
        let check = |largest: f64, expected| assert_eq!(short_bits(largest), expected, "{largest}");
        check(1.0, 14);
        check(1.001, 14);
        check(0.999_97, 15);
        check(0.5, 15);
        check(0.001, 22);
    }
}
