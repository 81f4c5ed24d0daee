//! Converts 4-bit weights, which have one scale per group of inputs, to int8 weights with one scale per channel.
//!
//! A weight is `q s[g]`, with `q` from -8 to 7 and `s[g]` the scale of its group. As int8 it is `round(q s[g] / u) u` with
//! one step `u` for the channel. If all scales of a channel are small integer multiples of one number, as model-prep
//! chooses them, that number is `u` and the conversion is exact. Otherwise `u` is the channel's largest magnitude divided
//! by 127, and rounding adds an error of at most half of `u`, 1/36 of the step of the coarsest group.

/// `7 * 18` is the largest multiple of 7 that fits into a signed byte, `-8 * 15` the corresponding one of -8.
const MULTIPLE_MAX: usize = 18;

/// Relative deviation of a scale from a multiple: each scale is rounded to a 32-bit float.
const TOLERANCE: f32 = 1e-4;

/// The 4-bit integer at `index`; two are packed in each byte, the first in the lower half.
pub(crate) fn at(packed: &[u8], index: usize) -> i8 {
    let byte = packed[index / 2];
    let half = if index.is_multiple_of(2) { byte << 4 } else { byte & 0xf0 };
    half.cast_signed() >> 4
}

/// Converts a matrix [inputs, outputs] of 4-bit integers with scales [groups, outputs] to `bytes`. Returns the scale of each
/// channel.
///
/// # Panics
/// When the lengths do not agree.
pub(crate) fn expand(
    packed: &[u8],
    scales: &[f32],
    group: usize,
    [inputs, outputs]: [usize; 2],
    bytes: &mut Vec<i8>,
) -> Vec<f32> {
    assert!(packed.len() == (inputs * outputs).div_ceil(2) && scales.len() == inputs.div_ceil(group) * outputs);
    let mut largest = vec![0.0f32; scales.len()];
    for input in 0..inputs {
        for (output, largest) in largest[input / group * outputs..][..outputs].iter_mut().enumerate() {
            *largest = largest.max(f32::from(at(packed, input * outputs + output)).abs());
        }
    }
    let channel =
        |values: &[f32], output: usize| -> Vec<f32> { values.iter().skip(output).step_by(outputs).copied().collect() };
    let steps: Vec<f32> =
        (0..outputs).map(|output| step(&channel(scales, output), &channel(&largest, output))).collect();
    bytes.clear();
    bytes.reserve_exact(inputs * outputs);
    for input in 0..inputs {
        let scales = &scales[input / group * outputs..][..outputs];
        for (output, (scale, step)) in scales.iter().zip(&steps).enumerate() {
            let value = f32::from(at(packed, input * outputs + output)) * (scale / step);
            // In range by the choice of the step.
            bytes.push(value.round_ties_even() as i8);
        }
    }
    steps
}

/// The step of a channel whose groups have these scales and largest magnitudes of integers.
fn step(scales: &[f32], largest: &[f32]) -> f32 {
    let top = scales.iter().fold(0.0f32, |most, scale| most.max(scale.abs()));
    let reach = scales.iter().zip(largest).fold(0.0f32, |most, (scale, q)| most.max(scale.abs() * q));
    if !scales.iter().all(|scale| scale.is_finite()) {
        // Makes the embedding NaN, which is reported.
        return f32::NAN;
    }
    if reach <= f32::MIN_POSITIVE * 127.0 {
        return 1.0;
    }
    let whole = |step: f32| {
        let near = |scale: &f32| (scale / step - (scale / step).round()).abs() <= TOLERANCE * (scale / step).abs();
        reach / step < 127.5 && scales.iter().all(near)
    };
    let exact = (1..=MULTIPLE_MAX).map(|multiple| top / multiple as f32).find(|step| whole(*step));
    exact.unwrap_or(reach / 127.0)
}

#[cfg(test)]
mod tests {
    use super::{at, expand};

    fn pack(values: &[i8]) -> Vec<u8> {
        values.chunks(2).map(|pair| (pair[0] & 15).cast_unsigned() | pair[1].cast_unsigned() << 4).collect()
    }

    #[test]
    fn two_integers_in_a_byte() {
        let values: Vec<i8> = (-8..8).collect();
        let packed = pack(&values);
        assert!(values.iter().enumerate().all(|(index, value)| at(&packed, index) == *value), "{packed:?}");
    }

    #[test]
    fn groups_become_channels() {
        // Two channels, four inputs in groups of two.
        let values = pack(&[1, 7, -8, 2, 3, -1, 7, 0]);
        let check = |scales: &[f32], expected: &[f32]| {
            let mut bytes = Vec::new();
            let steps = expand(&values, scales, 2, [4, 2], &mut bytes);
            let found: Vec<f32> = bytes.iter().enumerate().map(|(i, w)| f32::from(*w) * steps[i % 2]).collect();
            let fits = |(i, (a, b)): (usize, (&f32, &f32))| (a - b).abs() <= 0.51 * steps[i % 2];
            assert!(found.iter().zip(expected).enumerate().all(fits), "{found:?} {expected:?}");
            (steps, found)
        };
        // Multiples of 0.5 and 0.25: exact.
        let expected = [1.5, 1.75, -12.0, 0.5, 1.5, -0.75, 3.5, 0.0];
        let (steps, found) = check(&[1.5, 0.25, 0.5, 0.75], &expected);
        assert_eq!((steps, found), (vec![0.5, 0.25], expected.to_vec()));
        // Scales that have nothing in common, and a group of no weight.
        check(&[1.0, 0.1, 0.731, 0.0], &[1.0, 0.7, -8.0, 0.2, 2.193, 0.0, 5.117, 0.0]);
        assert!(expand(&values, &[f32::NAN; 4], 2, [4, 2], &mut Vec::new())[0].is_nan());
        assert_eq!(expand(&values, &[0.0; 4], 2, [4, 2], &mut Vec::new()), [1.0, 1.0]);
    }
}
