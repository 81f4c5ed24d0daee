//! Quantisation of weights: 8 bits with one scale per output channel, or 4 bits with one scale per group of inputs.

mod rounding;

pub(crate) use self::rounding::Rounding;

/// Describes the storage by [`quantize`], for the manifest.
pub(crate) const RECIPE: &str = "int8 weights, symmetric, one scale per output channel (per row of the word \
                                 embeddings); float activations, biases, layer norms, position and token type \
                                 embeddings";

/// Describes the storage by [`quantize_groups`], for the manifest.
pub(crate) const RECIPE_INT4: &str = "int4 weights, one scale for 32 inputs of an output channel (32 values of a row of \
                                      the word embeddings), all scales of a channel 1 to 15 times one number, rounded \
                                      so that the outputs of the layer change least; int8 patch embeddings; float \
                                      activations, biases, layer norms, position and token type embeddings";

/// Number of 4-bit weights that share a scale.
pub(crate) const GROUP: usize = 32;

/// Quantised weights: the float is `values[row][i] * scales[row]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantized {
    /// Integers in the order of the floats, between -127 and 127.
    pub(crate) values: Vec<i8>,
    /// One scale above 0 per row.
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

/// Weights of 4 bits: the float is `values[row][i] * multiples[row][i / GROUP] * units[row]`. Thus a row can also be stored
/// exactly as bytes with one scale.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Groups {
    /// Integers between -8 and 7, in the order of the floats.
    pub(crate) values: Vec<i8>,
    /// Integers between 1 and 15 [rows, groups].
    pub(crate) multiples: Vec<i8>,
    /// One number above 0 per row.
    pub(crate) units: Vec<f32>,
}

impl Groups {
    /// The floats that the integers stand for.
    pub(crate) fn floats(&self, width: usize) -> Vec<f32> {
        let groups = width.div_ceil(GROUP);
        let row = |(row, values): (usize, &[i8])| -> Vec<f32> {
            let scales = scales(self.units[row], &self.multiples[row * groups..][..groups]);
            values.iter().enumerate().map(|(i, value)| f32::from(*value) * scales[i / GROUP]).collect()
        };
        self.values.chunks(width).enumerate().flat_map(row).collect()
    }
}

/// Quantises a matrix with rows of `width` finite values to 4-bit integers with one scale per [`GROUP`] of them; the last
/// group of a row may be shorter. Every value is rounded to the nearest.
pub(crate) fn quantize_groups(rows: &[f32], width: usize) -> Groups {
    let mut quantized = Groups::default();
    for row in rows.chunks(width) {
        let (unit, multiples) = best_scales(row, None);
        let scales = scales(unit, &multiples);
        quantized.values.extend(row.iter().enumerate().map(|(i, w)| to_4_bits(*w, 1.0 / scales[i / GROUP]) as i8));
        quantized.multiples.extend(multiples);
        quantized.units.push(unit);
    }
    quantized
}

/// The scale of each group.
fn scales(unit: f32, multiples: &[i8]) -> Vec<f32> {
    multiples.iter().map(|multiple| f32::from(*multiple) * unit).collect()
}

/// The unit of a row and the multiples of its groups with the least square error. The error of each value counts as often
/// as `importance` says.
fn best_scales(row: &[f32], importance: Option<&[f32]>) -> (f32, Vec<i8>) {
    let largest = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    if largest <= f32::MIN_POSITIVE * 127.0 {
        return (1.0, vec![1; row.len().div_ceil(GROUP)]);
    }
    let (mut least, mut best) = (f32::INFINITY, (largest, vec![1; row.len().div_ceil(GROUP)]));
    for range in RANGES {
        let unit = largest * range / (7.5 * MULTIPLE_MAX);
        let importance = |start: usize| importance.map(|values| &values[start * GROUP..]);
        let groups =
            row.chunks(GROUP).enumerate().map(|(group, values)| best_multiple(values, importance(group), unit));
        let groups: Vec<(i8, f32)> = groups.collect();
        let error = groups.iter().map(|(_, error)| error).sum::<f32>();
        if error < least {
            (least, best) = (error, (unit, groups.into_iter().map(|(multiple, _)| multiple).collect()));
        }
    }
    best
}

/// The multiple of `unit` that is the best scale for `group`, and its square error.
fn best_multiple(group: &[f32], importance: Option<&[f32]>, unit: f32) -> (i8, f32) {
    let largest = group.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    // From the range that ends at 7 steps down to one that clips a third.
    let widest = (largest / (7.0 * unit)).ceil().clamp(1.0, MULTIPLE_MAX);
    let mut multiple = (widest * 0.65).floor().max(1.0);
    let mut best = (1, f32::INFINITY);
    while multiple <= widest {
        let (scale, inverse) = (multiple * unit, 1.0 / (multiple * unit));
        let square = |w: &f32| (w - to_4_bits(*w, inverse) * scale).powi(2);
        let error = match importance {
            None => group.iter().map(square).sum::<f32>(),
            Some(importance) => group.iter().zip(importance).map(|(w, times)| square(w) * times).sum::<f32>(),
        };
        if error < best.1 {
            best = (multiple as i8, error);
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
    fn groups_of_4_bits() {
        let mut rows = noise(8 * GROUP);
        rows[4 * GROUP..].iter_mut().for_each(|w| *w *= 0.01);
        rows[5 * GROUP] = 3.0;
        rows[7 * GROUP..].fill(0.0);
        let width = 4 * GROUP;
        let found = quantize_groups(&rows, width);
        assert!(found.values.iter().all(|q| (-8..=7).contains(q)));
        assert!(found.multiples.iter().all(|multiple| (1..=15).contains(multiple)), "{:?}", found.multiples);
        let floats = found.floats(width);
        let error = |range: std::ops::Range<usize>| range.map(|i| (rows[i] - floats[i]).powi(2)).sum::<f32>();
        // Uniform noise between -1 and 1 in 15 or 16 steps, with a mean square error of a twelfth of the squared step.
        assert!((error(0..width) / width as f32).sqrt() < 0.15 / 3.4, "{}", error(0..width));
        // Zeros stay zero with any scale.
        assert_eq!(error(7 * GROUP..8 * GROUP), 0.0);
    }

    #[test]
    fn the_last_group_of_a_row_may_be_shorter() {
        let width = 2 * GROUP + 8;
        let mut rows = noise(2 * width);
        // As one of a whole row, this value would spoil the others.
        rows[2 * GROUP + 3] = 40.0;
        let found = quantize_groups(&rows, width);
        assert_eq!((found.values.len(), found.multiples.len(), found.units.len()), (2 * width, 6, 2));
        let floats = found.floats(width);
        let worst = |range: std::ops::Range<usize>| range.map(|i| (rows[i] - floats[i]).abs()).fold(0.0, f32::max);
        assert!(worst(0..2 * GROUP) < 0.4 && worst(width..2 * width) < 0.15, "{floats:?}");
        assert_eq!(quantize_groups(&[0.0; 5], 5).floats(5), [0.0; 5]);
    }
}
