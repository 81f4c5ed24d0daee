//! The filters' kernels and the weights that they give: Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.

use std::f64::consts::PI;
use std::ops::Range;

use crate::preprocess::Filter;

/// Weights are fixed-point numbers with this many fraction bits: 32, less 8 for the pixel, less 2 against overflow by
/// negative lobes (Pillow's `PRECISION_BITS`).
pub(super) const FRACTION_BITS: u32 = 32 - 8 - 2;

/// Calls `each` for every output position of `window` with the first input position and the weights from there on.
pub(super) fn for_each_output(
    filter: Filter,
    input: usize,
    output: usize,
    window: Range<usize>,
    mut each: impl FnMut(usize, &[i32]),
) {
    let scale = input as f64 / output as f64;
    let filter_scale = scale.max(1.0);
    let support = radius(filter) * filter_scale;
    let inverse = 1.0 / filter_scale;
    let (mut weights, mut fixed) = (Vec::new(), Vec::new());
    for position in window {
        let center = (position as f64 + 0.5) * scale;
        // `as` cuts negative numbers to 0 and rounds towards it, as Pillow's cast and test do.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        weights.clear();
        weights.extend((first..end).map(|at| kernel(filter, (at as f64 - center + 0.5) * inverse)));
        let sum: f64 = weights.iter().sum();
        fixed.clear();
        fixed.extend(weights.iter().map(|&weight| {
            let weight = if sum == 0.0 { weight } else { weight / sum };
            let scaled = weight * f64::from(1 << FRACTION_BITS);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        }));
        each(first, &fixed);
    }
}

/// Input pixels that a kernel reaches to each side when nothing is scaled.
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
        // Never resampled by weights.
        Filter::Nearest => 0.0,
        Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear => (1.0 - distance).max(0.0),
        Filter::Hamming if distance >= 1.0 => 0.0,
        // Pillow writes these two constants in single precision.
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
            let mut next = 0;
            for_each_output(filter, input, output, 0..output, |first, weights| {
                assert!(first + weights.len() <= input, "{filter:?} {input} -> {output}");
                let sum: i64 = weights.iter().copied().map(i64::from).sum();
                let error = (sum - (1 << FRACTION_BITS)).unsigned_abs() as usize;
                assert!(error <= weights.len(), "{filter:?} {input} -> {output}: off by {error}");
                next += 1;
            });
            assert_eq!(next, output);
        };
        for filter in [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos] {
            for (input, output) in [(1, 1), (1, 9), (9, 1), (7, 48), (480, 48), (640, 224), (5000, 3), (3, 5000)] {
                check(filter, input, output);
            }
        }
    }
}
