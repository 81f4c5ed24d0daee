//! Quantisation of weights: 8 bits with one scale per output channel, or 4 bits with one scale per group of inputs.

/// Describes the storage by [`quantize`], for the manifest.
pub(crate) const RECIPE: &str = "int8 weights, symmetric, one scale per output channel (per row of the word \
                                 embeddings); float activations, biases, layer norms, position and token type \
                                 embeddings";

/// Describes the storage by [`quantize_groups`], for the manifest.
pub(crate) const RECIPE_INT4: &str = "int4 weights, one scale for 32 inputs of an output channel (32 values of a row of \
                                      the word embeddings), all scales of a channel multiples of one number; int8 patch \
                                      embeddings; float activations, biases, layer norms, position and token type \
                                      embeddings";

/// Number of 4-bit weights that share a scale.
pub(crate) const GROUP: usize = 32;

/// Quantised weights: the float is `values[row][i] * scales[row]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantized {
    /// Integers in the order of the floats, between -127 and 127.
    pub(crate) values: Vec<i8>,
    /// One scale above 0 per row, or per group.
    pub(crate) scales: Vec<f32>,
}

/// Quantises a matrix with rows of `width` finite values to 8 bits. A row holds all weights of one output channel.
///
/// The scale is the row's largest magnitude divided by 127, and values are rounded half to even. No weight is off by
/// more than half a step, and -128 does not occur.
pub(crate) fn quantize(rows: &[f32], width: usize) -> Quantized {
    let mut quantized = Quantized { values: Vec::with_capacity(rows.len()), scales: Vec::new() };
    for row in rows.chunks(width) {
        let largest = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        // A row of zeros, or of values too small for a reciprocal, becomes zero with any scale.
        let scale = if largest > f32::MIN_POSITIVE * 127.0 { largest / 127.0 } else { 1.0 };
        quantized.scales.push(scale);
        // The values are in range by the choice of the scale.
        quantized.values.extend(row.iter().map(|w| (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
    }
    quantized
}

/// The scales of a channel are at most this multiple of a common unit. -8 times this fits a signed byte, so the weights
/// can be converted to bytes without loss.
const MULTIPLE_MAX: f32 = 15.0;

/// Shares of a channel's largest magnitude that are tried as the end of its range. Clipping the largest weight makes
/// all others more precise.
const RANGES: [f32; 5] = [1.0, 0.92, 0.84, 0.76, 0.68];

/// Quantises a matrix with rows of `width` finite values, a multiple of [`GROUP`], to integers between -8 and 7 with
/// one scale per group: `scales` is [rows, groups].
///
/// Within a row, all scales are integer multiples, 1 to 15, of a common unit, so that the row can also be stored
/// exactly as bytes with one scale. Of several units and multiples, those with the least square error are chosen.
pub(crate) fn quantize_groups(rows: &[f32], width: usize) -> Quantized {
    let mut quantized = Quantized { values: Vec::with_capacity(rows.len()), scales: Vec::new() };
    for row in rows.chunks(width) {
        let largest = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        if largest <= f32::MIN_POSITIVE * 127.0 {
            quantized.scales.extend(row.chunks(GROUP).map(|_| 1.0));
            quantized.values.extend(row.iter().map(|_| 0));
            continue;
        }
        let (mut least, mut best) = (f32::INFINITY, Vec::new());
        for range in RANGES {
            let unit = largest * range / (7.5 * MULTIPLE_MAX);
            let groups: Vec<(f32, f32)> = row.chunks(GROUP).map(|group| group_scale(group, unit)).collect();
            let error = groups.iter().map(|(_, error)| error).sum::<f32>();
            if error < least {
                (least, best) = (error, groups);
            }
        }
        for (group, (scale, _)) in row.chunks(GROUP).zip(best) {
            quantized.scales.push(scale);
            quantized.values.extend(group.iter().map(|w| to_4_bits(*w, 1.0 / scale) as i8));
        }
    }
    quantized
}

/// The multiple of `unit` that is the best scale for `group`, and its square error.
fn group_scale(group: &[f32], unit: f32) -> (f32, f32) {
    let largest = group.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    // From the range that ends at 7 steps down to one that clips a third.
    let widest = (largest / (7.0 * unit)).ceil().clamp(1.0, MULTIPLE_MAX);
    let mut multiple = (widest * 0.65).floor().max(1.0);
    let mut best = (unit, f32::INFINITY);
    while multiple <= widest {
        let (scale, inverse) = (multiple * unit, 1.0 / (multiple * unit));
        let error = group.iter().map(|w| (w - to_4_bits(*w, inverse) * scale).powi(2)).sum::<f32>();
        if error < best.1 {
            best = (scale, error);
        }
        multiple += 1.0;
    }
    best
}

fn to_4_bits(w: f32, inverse: f32) -> f32 {
    (w * inverse).round_ties_even().clamp(-8.0, 7.0)
}

/// Transposes a matrix with rows of `width` values.
pub(crate) fn transpose<T: Copy>(matrix: &[T], width: usize) -> Vec<T> {
    let height = matrix.len().checked_div(width).unwrap_or(0);
    (0..width).flat_map(|column| (0..height).map(move |row| matrix[row * width + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::{GROUP, quantize, quantize_groups, transpose};

    #[test]
    fn rows_to_integers_and_scales() {
        let check = |row: &[f32], scale: f32, values: &[i8]| {
            let found = quantize(row, row.len());
            assert_eq!((found.scales[0], &found.values[..]), (scale, values), "{row:?}");
        };
        check(&[127.0, -127.0, 0.5, 1.5, -2.5], 1.0, &[127, -127, 0, 2, -2]);
        check(&[-254.0, 1.0, 3.0], 2.0, &[-127, 0, 2]);
        check(&[0.0, 0.0], 1.0, &[0, 0]);
        check(&[1e-40, -1e-40], 1.0, &[0, 0]);
        let two = quantize(&[1.0, 2.0, 0.1, -0.05], 2);
        assert_eq!(two.values, [64, 127, 127, -64]);
        assert_eq!(two.scales, [2.0 / 127.0, 0.1 / 127.0]);
    }

    #[test]
    fn rows_become_columns() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 3), [1, 4, 2, 5, 3, 6]);
    }

    /// Pseudorandom values between -1 and 1.
    fn noise(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    #[test]
    fn groups_of_4_bits_are_exact_as_bytes() {
        let mut rows = noise(8 * GROUP);
        rows[4 * GROUP..].iter_mut().for_each(|w| *w *= 0.01);
        rows[5 * GROUP] = 3.0;
        rows[7 * GROUP..].fill(0.0);
        let width = 4 * GROUP;
        let found = quantize_groups(&rows, width);
        assert!(found.values.iter().all(|q| (-8..=7).contains(q)));
        for (row, scales) in found.scales.chunks(4).enumerate() {
            let multiples = |unit: f32| scales.iter().all(|s| (s / unit - (s / unit).round()).abs() < 1e-4);
            let largest = scales.iter().copied().fold(0.0, f32::max);
            assert!((1..=15).any(|k| multiples(largest / k as f32)), "row {row}: {scales:?}");
        }
        let error = |range: std::ops::Range<usize>| {
            range.map(|i| (rows[i] - f32::from(found.values[i]) * found.scales[i / GROUP]).powi(2)).sum::<f32>()
        };
        // Uniform noise between -1 and 1 in 15 or 16 steps, with a mean square error of a twelfth of the squared step.
        assert!((error(0..width) / width as f32).sqrt() < 0.15 / 3.4, "{}", error(0..width));
        // Zeros stay zero with any scale.
        assert_eq!(error(7 * GROUP..8 * GROUP), 0.0);
    }
}
