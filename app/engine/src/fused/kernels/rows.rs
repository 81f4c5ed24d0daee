//! Functions of one row of floats: layer norm, quantisation, softmax, activations; and dot products of rows.
//!
//! Written in plain Rust, in loops that compile to vector instructions, and compiled for each instruction set by
//! [`row_functions`]. `FMA` tells whether the instruction set has a fused multiply-add; all that have one give the same
//! bits. NaN propagates.

use super::fma::fma;

/// Independent accumulators: four registers of 128 bits, one of 512.
const LANES: usize = 16;

/// Elementwise activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `x`, or a hundredth of it where it is negative.
    LeakyRelu,
    /// `tanh x`.
    Tanh,
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// GELU, at most 10.
    Gelu10,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `1 / (1 + exp -x)`.
    Sigmoid,
    /// `x / (1 + exp -x)`.
    Silu,
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid,
    /// `x` times the hard sigmoid.
    HardSwish,
    /// `x tanh(ln(1 + exp x))`.
    Mish,
    /// `(1 + erf((x - 0.707107) / (0.282095 sqrt 2))) / 2`, the squared ReLU's smooth and bounded relative.
    Laplace,
}

/// The functions of [`super::Kernels`] that work on rows, compiled with the given CPU features.
macro_rules! row_functions {
    ($fma:literal, $signed:literal $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        fn quantize(row: &[f32], out: &mut [u8]) -> (f32, i32) {
            $crate::fused::kernels::rows::quantize::<$signed>(row, out)
        }

        $(#[target_feature(enable = $features)])?
        fn layer_norm(row: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
            $crate::fused::kernels::rows::layer_norm::<$fma>(row, gamma, beta, epsilon, out);
        }

        $(#[target_feature(enable = $features)])?
        fn softmax(row: &mut [f32]) -> f32 {
            $crate::fused::kernels::rows::softmax::<$fma>(row)
        }

        $(#[target_feature(enable = $features)])?
        fn softmax_u8(row: &mut [f32], out: &mut [u8]) -> f32 {
            $crate::fused::kernels::rows::softmax_bytes::<$fma, $signed>(row, out)
        }

        $(#[target_feature(enable = $features)])?
        fn dots(rows: &[f32], vector: &[f32], out: &mut [f32]) {
            $crate::fused::kernels::rows::dots::<$fma>(rows, vector, out);
        }

        $(#[target_feature(enable = $features)])?
        fn activate(
            activation: $crate::fused::kernels::Activation,
            values: &mut [f32],
            width: usize,
            stride: usize,
        ) {
            $crate::fused::kernels::rows::activate::<$fma>(activation, values, width, stride);
        }

        $(#[target_feature(enable = $features)])?
        unsafe fn depthwise(row: &$crate::fused::kernels::DepthwiseRow<'_>, out: &mut [f32]) {
            // SAFETY: the contract of `DepthwiseRow`, handed on.
            unsafe { $crate::fused::kernels::depthwise::row::<$fma>(row, out) }
        }
    };
}
pub(super) use row_functions;

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, half to even. The lowest bits of the sum are that
/// integer.
const ROUND: f32 = 12_582_912.0;

/// Replaces each value by `f` of it.
#[inline(always)]
fn map(row: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in row {
        *x = f(*x);
    }
}

/// Folds a row with `add` in 4 × [`LANES`] independent accumulators, so that additions do not wait for each other. The
/// accumulators are combined in the same order on every CPU.
#[inline(always)]
fn total(row: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let (fours, chunks) = chunks.as_chunks::<4>();
    let step = |sums: &mut [f32; LANES], chunk: &[f32; LANES]| {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = add(*sum, *x);
        }
    };
    let [mut a, mut b, mut c, mut d] = [[0.0; LANES]; 4];
    for [p, q, r, s] in fours {
        step(&mut a, p);
        step(&mut b, q);
        step(&mut c, r);
        step(&mut d, s);
    }
    let mut sums = combined([a, b, c, d]);
    for chunk in chunks {
        step(&mut sums, chunk);
    }
    rest.iter().fold(sum_of_lanes(sums), |sum, x| add(sum, *x))
}

#[inline(always)]
fn combined([mut a, b, c, d]: [[f32; LANES]; 4]) -> [f32; LANES] {
    for i in 0..LANES {
        a[i] = (a[i] + b[i]) + (c[i] + d[i]);
    }
    a
}

#[inline(always)]
fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    // Hides the lanes from the compiler, which would otherwise arrange them for the few additions that follow and not for
    // the many before.
    let mut lanes = std::hint::black_box(lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
pub(super) fn quantize<const SIGNED: bool>(row: &[f32], out: &mut [u8]) -> (f32, i32) {
    // The bits of positive floats are ordered as signed integers, those of negative floats by magnitude as unsigned ones.
    // Integer maxima are associative, so these loops compile to vector instructions.
    let (mut high, mut low) = (0i32, 0u32);
    for x in row {
        high = high.max(x.to_bits().cast_signed());
        low = low.max(x.to_bits());
    }
    let low = if low >> 31 == 1 { f32::from_bits(low) } else { 0.0 };
    let range = f32::from_bits(high.cast_unsigned()) - low;
    // Not finite if a value is not.
    let range = if range.is_finite() { range } else { f32::NAN };
    let scale = if range < f32::MIN_POSITIVE * 255.0 { 1.0 } else { range / 255.0 };
    let inverse = 1.0 / scale;
    let zero_point = (-low * inverse).round_ties_even();
    // Not fused, so that the lowest value becomes exactly 0 and needs no clamp. The lowest byte of the sum is the rounded
    // value, to which the zero point is added.
    let most = ROUND + 255.0 - zero_point;
    let shift = zero_point as i32 as u8 ^ if SIGNED { 0x80 } else { 0 };
    let (out, padding) = out.split_at_mut(row.len());
    for (out, x) in out.iter_mut().zip(row) {
        *out = (smaller(x * inverse + ROUND, most).to_bits() as u8).wrapping_add(shift);
    }
    padding.fill(0);
    (scale, zero_point as i32)
}

#[inline(always)]
pub(super) fn layer_norm<const FMA: bool>(row: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
    let share = 1.0 / row.len() as f32;
    let mean = total(row, |sum, x| sum + x) * share;
    let squares = total(row, |sum, x| {
        let d = x - mean;
        fma::<FMA>(d, d, sum)
    });
    let variance = squares * share;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for (((out, x), gamma), beta) in out.iter_mut().zip(row).zip(gamma).zip(beta) {
        *out = fma::<FMA>((x - mean) * factor, *gamma, *beta);
    }
}

/// The dot product of each row with `vector`. Sums are folded as in [`total`].
#[inline(always)]
pub(super) fn dots<const FMA: bool>(rows: &[f32], vector: &[f32], out: &mut [f32]) {
    let (parts, rest) = vector.as_chunks::<LANES>();
    for (row, out) in rows.chunks_exact(vector.len()).zip(out) {
        let (chunks, row_rest) = row.as_chunks::<LANES>();
        let mut sums = [[0.0; LANES]; 4];
        let (fours, chunks) = chunks.as_chunks::<4>();
        let (four_parts, parts) = parts.as_chunks::<4>();
        for (chunks, parts) in fours.iter().zip(four_parts) {
            for ((sums, chunk), part) in sums.iter_mut().zip(chunks).zip(parts) {
                add_products::<FMA>(sums, chunk, part);
            }
        }
        let mut sums = combined(sums);
        for (chunk, part) in chunks.iter().zip(parts) {
            add_products::<FMA>(&mut sums, chunk, part);
        }
        let sum = sum_of_lanes(sums);
        *out = row_rest.iter().zip(rest).fold(sum, |sum, (a, b)| fma::<FMA>(*a, *b, sum));
    }
}

#[inline(always)]
fn add_products<const FMA: bool>(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = fma::<FMA>(*a, *b, *sum);
    }
}

/// `exp x`, and 0 below -87; `x` must be at most 88. The polynomial has an error below 2e-9, so the relative error is that
/// of rounding: below 2e-7.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 is split in two, so that the first product is exact.
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let p = polynomial::<FMA, 7>(r, [1.0, 1.0, 0.499_999_9, 0.166_664_2, 0.041_668_225, 8.374_816e-3, 1.383_684_6e-3]);
    let power = times_power(p, shifted);
    if x < -87.0 { 0.0 } else { power }
}

/// `x` times 2^n, where n is the integer in the lowest bits of `shifted`, a sum with [`ROUND`].
#[inline(always)]
fn times_power(x: f32, shifted: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `c[0] + c[1] x + c[2] x^2 ...`.
#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for c in c[..N - 1].iter().rev() {
        sum = fma::<FMA>(sum, x, *c);
    }
    sum
}

/// The largest value, by integer comparison as in [`quantize`]. If all are negative, the smallest magnitude is the largest.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (mut high, mut low) = (i32::MIN, u32::MAX);
    for x in row {
        high = high.max(x.to_bits().cast_signed());
        low = low.min(x.to_bits());
    }
    f32::from_bits(if high < 0 { low } else { high.cast_unsigned() })
}

#[inline(always)]
pub(super) fn softmax<const FMA: bool>(row: &mut [f32]) -> f32 {
    let high = largest(row);
    map(row, |x| exp::<FMA>(x - high));
    total(row, |sum, x| sum + x)
}

#[inline(always)]
pub(super) fn softmax_bytes<const FMA: bool, const SIGNED: bool>(row: &[f32], out: &mut [u8]) -> f32 {
    let high = largest(row);
    let (out, padding) = out.split_at_mut(row.len());
    padding.fill(0);
    // Integer sums are associative, and the bits of NaN are larger than those of `ROUND` plus a byte.
    let (mut sum, mut most) = (0u32, 0u32);
    for (out, x) in out.iter_mut().zip(row) {
        let bits = byte_exp::<FMA>(x - high).to_bits();
        *out = bits as u8 ^ if SIGNED { 0x80 } else { 0 };
        sum = sum.wrapping_add(bits & 0xff);
        most = most.max(bits);
    }
    if most > ROUND.to_bits() + 255 { f32::NAN } else { sum as f32 / 255.0 }
}

/// `round(255 exp x) + ROUND`, whose lowest byte is the integer. The error before rounding is at most 0.001. `x` must not be
/// positive.
#[inline(always)]
fn byte_exp<const FMA: bool>(x: f32) -> f32 {
    const LOG2_255: f32 = 7.994_353_4;
    // Clamped before the exponent overflows; NaN propagates.
    let t = larger(-64.0, fma::<FMA>(x, std::f32::consts::LOG2_E, LOG2_255));
    let shifted = t + ROUND;
    let fraction = t - (shifted - ROUND);
    let p = [0.999_999_3, 0.693_121_8, 0.240_247_44, 0.055_917_863, 0.009_570_102];
    times_power(polynomial::<FMA, 5>(fraction, p), shifted) + ROUND
}

/// `max(x, 0)`, without a branch, which would compile to conditional stores. NaN propagates.
#[inline(always)]
fn relu(x: f32) -> f32 {
    x - smaller(x, 0.0)
}

/// GELU as `max(x, 0) - |x| p(|x|)^4`. The fourth root of the difference to ReLU is so smooth that a polynomial `p` is
/// enough, while the difference itself would need a division. Beyond `end` the difference is 0.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32, end: f32, root: [f32; 10]) -> f32 {
    let a = smaller(x.abs(), end);
    let p = polynomial::<FMA, 10>(a, root);
    let square = p * p;
    fma::<FMA>(square * square, -a, larger(0.0, x))
}

/// Fitted for the smallest error of GELU up to 5.4: 2e-7.
const GELU: [f32; 10] = [
    0.840_896_37,
    -0.167_730_55,
    -0.050_225_586,
    4.735_128_5e-3,
    3.666_677_5e-3,
    7.189_453e-5,
    -3.585_454e-4,
    7.232_406e-5,
    -5.396_583e-6,
    1.168_468_7e-7,
];

/// Fitted for the smallest error of the tanh approximation of GELU up to 5.1: 4e-7.
const GELU_TANH: [f32; 10] = [
    0.840_896_55,
    -0.167_732_31,
    -0.050_241_034,
    5.024_961e-3,
    3.305_930_6e-3,
    6.609_961e-4,
    -8.625_859e-4,
    2.544_792_4e-4,
    -3.468_741e-5,
    1.872_526_9e-6,
];

/// Mean and standard deviation of the normal distribution whose share below `x` is [`Activation::Laplace`].
#[allow(clippy::approx_constant, reason = "the reference rounds both to six digits")]
pub(crate) const LAPLACE: [f32; 2] = [0.707_107, 0.282_095];

/// The share of a normal distribution below `x`, by the polynomial of [`GELU`].
#[inline(always)]
fn laplace<const FMA: bool>(x: f32) -> f32 {
    let [mean, deviation] = LAPLACE;
    let x = (x - mean) * (1.0 / deviation);
    // In this order, so that NaN propagates.
    let a = smaller(5.4, x.abs());
    let p = polynomial::<FMA, 10>(a, GELU);
    let square = p * p;
    let tail = square * square;
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Mish as `x n (n + 2) / (n (n + 2) + 2)` with `n = exp x`, in which nothing cancels.
#[inline(always)]
fn mish<const FMA: bool>(x: f32) -> f32 {
    // Beyond 20 the fraction is 1.
    let n = exp::<FMA>(smaller(20.0, x));
    let y = n * (n + 2.0);
    x * (y / (y + 2.0))
}

/// `1 + exp -x`, the denominator of a sigmoid.
#[inline(always)]
fn denominator<const FMA: bool>(x: f32) -> f32 {
    1.0 + exp::<FMA>(smaller(87.0, -x))
}

#[inline(always)]
fn hard_sigmoid<const FMA: bool>(x: f32) -> f32 {
    smaller(1.0, relu(fma::<FMA>(x, 1.0 / 6.0, 0.5)))
}

#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    // Near 0 the difference below loses digits, and the series is accurate enough.
    let y = x * x;
    let series = x * fma::<FMA>(y, fma::<FMA>(y, fma::<FMA>(y, -17.0 / 315.0, 2.0 / 15.0), -1.0 / 3.0), 1.0);
    let far = 2.0 / denominator::<FMA>(2.0 * x) - 1.0;
    if y < 0.04 { series } else { far }
}

#[inline(always)]
pub(super) fn activate<const FMA: bool>(activation: Activation, values: &mut [f32], width: usize, stride: usize) {
    let rows = values.chunks_mut(stride).map(|row| {
        let width = width.min(row.len());
        &mut row[..width]
    });
    match activation {
        Activation::Relu => rows.for_each(|row| map(row, relu)),
        Activation::Relu6 => rows.for_each(|row| map(row, |x| smaller(6.0, relu(x)))),
        Activation::ReluSquared => rows.for_each(|row| map(row, |x| relu(x) * relu(x))),
        Activation::LeakyRelu => rows.for_each(|row| map(row, |x| larger(0.01 * x, x))),
        Activation::Tanh => rows.for_each(|row| map(row, tanh::<FMA>)),
        Activation::Gelu => rows.for_each(|row| map(row, |x| gelu::<FMA>(x, 5.4, GELU))),
        Activation::Gelu10 => rows.for_each(|row| map(row, |x| smaller(10.0, gelu::<FMA>(x, 5.4, GELU)))),
        Activation::GeluTanh => rows.for_each(|row| map(row, |x| gelu::<FMA>(x, 5.1, GELU_TANH))),
        Activation::QuickGelu => rows.for_each(|row| map(row, |x| x / denominator::<FMA>(1.702 * x))),
        Activation::Sigmoid => rows.for_each(|row| map(row, |x| 1.0 / denominator::<FMA>(x))),
        Activation::Silu => rows.for_each(|row| map(row, |x| x / denominator::<FMA>(x))),
        Activation::HardSigmoid => rows.for_each(|row| map(row, hard_sigmoid::<FMA>)),
        Activation::HardSwish => rows.for_each(|row| map(row, |x| x * hard_sigmoid::<FMA>(x))),
        Activation::Mish => rows.for_each(|row| map(row, mish::<FMA>)),
        Activation::Laplace => rows.for_each(|row| map(row, laplace::<FMA>)),
    }
}
