//! Functions of one row against the same formulas in double precision.

use super::super::{Activation, Kernels};
use super::Random;

/// All kernels, with the mask that converts their stored bytes to unsigned.
fn tables() -> impl Iterator<Item = (&'static Kernels, u8)> {
    Kernels::available().into_iter().map(|kernels| (kernels, if kernels.signed { 0x80 } else { 0 }))
}

/// The result of [`Kernels::quantize`], with unsigned bytes. Checks that the bytes after the row are zeroed.
fn quantized(kernels: &Kernels, flip: u8, row: &[f32]) -> (f32, i32, Vec<u8>) {
    let mut out = vec![0x55; row.len() + 3];
    let (scale, zero_point) = kernels.quantize(row, &mut out);
    assert_eq!(out.split_off(row.len()), [0; 3], "{kernels:?}: bytes after the row");
    out.iter_mut().for_each(|byte| *byte ^= flip);
    (scale, zero_point + i32::from(flip), out)
}

/// Checks that all kernels quantise a row to within half a step, with equal results.
#[track_caller]
fn check_quantize(row: &[f32]) {
    let (mut low, mut high) = (0.0_f32, 0.0_f32);
    for x in row {
        (low, high) = (low.min(*x), high.max(*x));
    }
    let mut first = None;
    for (kernels, flip) in tables() {
        let result = quantized(kernels, flip, row);
        let (scale, zero_point, bytes) = &result;
        let step = f64::from(*scale);
        if high - low >= 255.0 * f32::MIN_POSITIVE {
            assert_eq!(*scale, (high - low) / 255.0, "{kernels:?} {row:?}");
        }
        assert!((f64::from(*zero_point) + f64::from(low) / step).abs() <= 0.5001, "{kernels:?} {row:?}");
        for (x, byte) in row.iter().zip(bytes) {
            let error = (f64::from(*x) / step - f64::from(i32::from(*byte) - zero_point)).abs();
            assert!(error <= 0.5001, "{kernels:?} {x} of {row:?} is off by {error} steps");
            assert!(*x != 0.0 || i32::from(*byte) == *zero_point, "{kernels:?}: zero is not exact in {row:?}");
        }
        let expected = first.get_or_insert_with(|| result.clone());
        assert_eq!(&result, expected, "{kernels:?} {row:?}");
    }
}

#[test]
fn quantised_rows_are_within_half_a_step() {
    let mut random = Random(4);
    for len in 0..=70 {
        for (middle, range) in
            [(0.0, 1.0), (0.9, 1.0), (5.0, 1.0), (-5.0, 1.0), (0.0, 1e30), (1.0, 1e-20), (0.0, 1e-33)]
        {
            let mut row = random.floats(len, range);
            row.iter_mut().for_each(|x| *x += middle);
            check_quantize(&row);
            row.iter_mut().step_by(3).for_each(|x| *x = 0.0);
            check_quantize(&row);
        }
        // Both ends are about half a step away from a byte.
        check_quantize(&[vec![0.25; len], vec![-1.0, 1.0]].concat());
        for value in [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, f32::MIN_POSITIVE, f32::MAX, f32::MIN] {
            check_quantize(&vec![value; len]);
        }
    }
}

#[test]
fn halves_are_quantised_to_even() {
    // From -3 to 252 a step is 1.
    let row = [-3.0, -2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 250.5, 251.5, 252.0];
    let even = [-3, -2, -2, 0, 0, 0, 2, 2, 250, 252, 252];
    for (kernels, flip) in tables() {
        let bytes: Vec<u8> = even.iter().map(|q| (q + 3) as u8).collect();
        assert_eq!(quantized(kernels, flip, &row), (1.0, 3, bytes), "{kernels:?}");
        assert_eq!(quantized(kernels, flip, &[-2.5, 252.5]), (1.0, 2, vec![0, 254]), "{kernels:?}: the zero point");
        assert_eq!(quantized(kernels, flip, &[-127.5, 127.5]), (1.0, 128, vec![0, 255]), "{kernels:?}: the last byte");
    }
}

#[test]
fn the_scale_of_a_row_that_is_not_finite_is_nan() {
    for (kernels, flip) in tables() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (len, at) in [(1, 0), (16, 15), (40, 3), (40, 39)] {
                let mut row = vec![0.5; len];
                row[at] = bad;
                assert!(quantized(kernels, flip, &row).0.is_nan(), "{kernels:?}: {bad} at {at} of {len}");
            }
        }
    }
}

#[test]
fn layer_norm_is_close_to_double_precision() {
    let epsilon = 1e-5_f32;
    for (kernels, _) in tables() {
        let mut random = Random(5);
        for len in (1..=50).chain([768, 3072]) {
            for (middle, range) in [(0.0, 1.0), (100.0, 1.0), (-3.0, 0.0), (0.0, 1e-4), (0.0, 1e4)] {
                let row: Vec<f32> = random.floats(len, range).iter().map(|x| x + middle).collect();
                let (gamma, beta) = (random.floats(len, 2.0), random.floats(len, 2.0));
                let mut out = vec![0.0; len];
                kernels.layer_norm(&row, &gamma, &beta, epsilon, &mut out);
                let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / len as f64;
                let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / len as f64;
                let deviation = (variance + f64::from(epsilon)).sqrt();
                for (((x, gamma), beta), out) in row.iter().zip(&gamma).zip(&beta).zip(&out) {
                    let (gamma, beta) = (f64::from(*gamma), f64::from(*beta));
                    let value = (f64::from(*x) - mean) / deviation * gamma;
                    // The mean has rounding errors of its own.
                    let bound = 5e-7 * (value.abs() + beta.abs()) + 3e-7 * (mean / deviation * gamma).abs() + 1e-30;
                    let error = (f64::from(*out) - (value + beta)).abs();
                    assert!(error <= bound, "{kernels:?} {len} around {middle}: {out} is off by {error} > {bound}");
                }
            }
        }
    }
}

/// Rows of scores: of usual size, far apart, all equal, and partly masked.
fn scores(random: &mut Random, len: usize) -> [Vec<f32>; 5] {
    let mut masked = random.floats(len, 5.0);
    masked[1..].iter_mut().step_by(2).for_each(|x| *x = f32::NEG_INFINITY);
    let mut lowest = random.floats(len, 5.0);
    lowest[1..].iter_mut().step_by(3).for_each(|x| *x = f32::MIN);
    [random.floats(len, 5.0), random.floats(len, 200.0), vec![-7.0; len], masked, lowest]
}

#[test]
fn softmax_is_close_to_double_precision() {
    for (kernels, flip) in tables() {
        let mut random = Random(6);
        for len in (1..=50).chain([197, 577]) {
            for row in scores(&mut random, len) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // The difference is rounded to a float first.
                let exact: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
                let mut floats = row.clone();
                let sum = f64::from(kernels.softmax_numerators(&mut floats));
                for (got, exact) in floats.iter().zip(&exact) {
                    let error = (f64::from(*got) - exact).abs();
                    assert!(error <= 2e-7 * exact + 2e-38, "{kernels:?} {len}: {got} is off by {error}");
                }
                let total = exact.iter().sum::<f64>();
                assert!((sum - total).abs() <= 1e-6 * total, "{kernels:?} {len}: {sum} not {total}");

                let (mut overwritten, mut bytes) = (row, vec![0x55; len + 3]);
                let sum = f64::from(kernels.softmax_bytes(&mut overwritten, &mut bytes));
                assert_eq!(bytes.split_off(len), [0; 3], "{kernels:?}: bytes after the row");
                let mut total = 0;
                for (byte, exact) in bytes.iter().zip(&exact) {
                    let byte = byte ^ flip;
                    total += i32::from(byte);
                    let error = (f64::from(byte) - 255.0 * exact).abs();
                    assert!(error <= 0.5001, "{kernels:?} {len}: {byte} is off by {error}");
                }
                assert!((sum * 255.0 - f64::from(total)).abs() <= 1e-6 * f64::from(total), "{kernels:?} {len}");
                assert_eq!(kernels.softmax_zero_point() + i32::from(flip), 0, "{kernels:?}");
            }
        }
    }
}

/// The error function by a series with positive terms only.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) / 2.0
}

/// An activation, its formula, and the allowed error: absolute for values up to 1, else relative.
type Formula = (Activation, fn(f64) -> f64, f64);

#[allow(clippy::approx_constant, reason = "the reference rounds both to six digits")]
fn laplace(x: f64) -> f64 {
    (1.0 + erf((x - 0.707107) / (0.282095 * std::f64::consts::SQRT_2))) / 2.0
}

const ACTIVATIONS: [Formula; 13] = [
    (Activation::Relu, |x| x.max(0.0), 0.0),
    (Activation::Relu6, |x| x.clamp(0.0, 6.0), 0.0),
    (Activation::ReluSquared, |x| x.max(0.0).powi(2), 1e-7),
    (Activation::LeakyRelu, |x| if x < 0.0 { 0.01 * x } else { x }, 1e-7),
    (Activation::Tanh, f64::tanh, 3e-7),
    (Activation::Gelu, gelu, 2.5e-7),
    (Activation::Gelu10, |x| gelu(x).min(10.0), 2.5e-7),
    (
        Activation::GeluTanh,
        |x| x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()) / 2.0,
        4e-7,
    ),
    (Activation::QuickGelu, |x| x * sigmoid(1.702 * x), 5e-7),
    (Activation::Sigmoid, sigmoid, 2e-7),
    (Activation::Silu, |x| x * sigmoid(x), 5e-7),
    (Activation::Mish, |x| x * x.exp().ln_1p().tanh(), 5e-7),
    (Activation::Laplace, laplace, 5e-7),
];

#[track_caller]
fn check_activation(kernels: &Kernels, case: usize, values: &[f32], width: usize, stride: usize) {
    let (activation, formula, bound) = ACTIVATIONS[case];
    let mut out = values.to_vec();
    kernels.activate(activation, &mut out, width, stride);
    for (i, (out, x)) in out.iter().zip(values).enumerate() {
        let exact = if i % stride < width { formula(f64::from(*x)) } else { f64::from(*x) };
        let error = (f64::from(*out) - exact).abs();
        let bound = match i % stride < width {
            // Small values keep their digits, where the function is 0 at 0.
            true if x.abs() < 0.25 && formula(0.0) == 0.0 => (2e-6 * exact.abs()).min(bound) + 1e-40,
            true => bound * exact.abs().max(1.0),
            false => 0.0,
        };
        assert!(error <= bound, "{kernels:?} {activation:?}({x}) is {out}, off by {error}; {width} of {stride}");
    }
}

#[test]
fn activations_are_close_to_double_precision() {
    for (kernels, _) in tables() {
        let mut random = Random(7);
        for case in 0..ACTIVATIONS.len() {
            for width in 1..=50 {
                // Values after a row do not change; the slice may end with the last row.
                let stride = width + 2;
                check_activation(kernels, case, &random.floats(3 * stride - 2, 12.0), width, stride);
            }
            let dense: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
            check_activation(kernels, case, &dense, dense.len(), dense.len());
            let extreme = [0.0, -0.0, 1e-45, -1e-30, 1e-10, 87.0, -87.0, 90.0, -90.0, 1e4, -1e4, 1e18, -1e18];
            check_activation(kernels, case, &extreme, extreme.len(), extreme.len());
        }
    }
}

#[test]
fn nan_propagates() {
    for (kernels, _) in tables() {
        for nan in [f32::NAN, -f32::NAN] {
            for (len, at) in [(1, 0), (16, 7), (37, 3), (37, 36), (70, 20)] {
                let mut row = vec![-0.5; len];
                row[at] = nan;
                let case = format!("{kernels:?} {nan} at {at} of {len}");
                let mut out = vec![0.0; len];
                kernels.layer_norm(&row, &row, &row, 1e-6, &mut out);
                assert!(out.iter().all(|x| x.is_nan()), "layer norm, {case}");
                assert!(kernels.softmax_numerators(&mut row.clone()).is_nan(), "softmax, {case}");
                assert!(kernels.softmax_bytes(&mut row.clone(), &mut vec![0; len]).is_nan(), "softmax, {case}");
                for (activation, _, _) in ACTIVATIONS {
                    let mut values = row.clone();
                    kernels.activate(activation, &mut values, len, len);
                    assert!(values[at].is_nan(), "{activation:?}, {case}");
                }
            }
        }
    }
}

#[test]
fn kernels_with_fused_multiply_add_give_the_same_bits() {
    let rows = |kernels: &Kernels, len: usize| {
        let mut random = Random(8);
        let (x, gamma, beta) = (random.floats(len, 9.0), random.floats(len, 1.0), random.floats(len, 1.0));
        let mut bits = Vec::new();
        let mut out = vec![0.0; len];
        kernels.layer_norm(&x, &gamma, &beta, 1e-6, &mut out);
        bits.append(&mut out);
        let (mut scores, mut bytes) = (x.clone(), vec![0; len]);
        bits.push(kernels.softmax_numerators(&mut scores));
        bits.append(&mut scores);
        bits.push(kernels.softmax_bytes(&mut x.clone(), &mut bytes));
        for (activation, _, _) in ACTIVATIONS {
            let mut values = x.clone();
            kernels.activate(activation, &mut values, len, len);
            bits.append(&mut values);
        }
        bits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let fused: Vec<_> = Kernels::available().into_iter().filter(|kernels| kernels.name != "scalar").collect();
    for len in [1, 15, 16, 17, 197, 768] {
        for kernels in &fused {
            assert!(rows(kernels, len) == rows(fused[0], len), "{kernels:?} and {:?}, {len} values", fused[0]);
        }
    }
}

#[test]
fn dot_products_are_those_of_double_precision() {
    for (kernels, _) in tables() {
        let mut random = Random(5);
        for width in (1..=70).chain([127, 128, 129, 512, 771]) {
            let (vector, rows) = (random.floats(width, 1.0), random.floats(3 * width, 1.0));
            let mut out = [f32::NAN; 3];
            kernels.dots(&rows, &vector, &mut out);
            for (row, found) in rows.chunks_exact(width).zip(out) {
                let products = || row.iter().zip(&vector).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 1e-6 * size, "{kernels:?}, {width}: {found} for {expected}");
            }
        }
        kernels.dots(&[], &[1.0], &mut []);
    }
}
