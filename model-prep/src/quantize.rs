//! Symmetric 8-bit weights with one scale per output channel.

/// How [`quantize`] stores weights, in words, for the bundle's manifest.
pub const RECIPE: &str = "int8 weights, symmetric, one scale per output channel (per row of the word embeddings); \
                          float activations, biases, layer norms, position and token type embeddings";

/// Weights as integers: `values[row][i] * scales[row]` stands for the float.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Between -127 and 127, in the order of the floats.
    pub values: Vec<i8>,
    /// One for each row, above 0.
    pub scales: Vec<f32>,
}

/// Quantises a matrix of rows of `width` finite values, a row being all weights of one output channel.
///
/// The scale is the row's largest magnitude divided by 127, and values are rounded half to even, so that no weight is
/// further off than half a step and -128 never occurs.
pub fn quantize(rows: &[f32], width: usize) -> Quantized {
    let mut quantized = Quantized { values: Vec::with_capacity(rows.len()), scales: Vec::new() };
    for row in rows.chunks(width) {
        let largest = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        // A row of zeros, or one too small to have a reciprocal, stays zero whatever its scale.
        let scale = if largest > f32::MIN_POSITIVE * 127.0 { largest / 127.0 } else { 1.0 };
        quantized.scales.push(scale);
        // In range by the choice of scale; the cast saturates besides.
        quantized.values.extend(row.iter().map(|w| (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
    }
    quantized
}

/// The transpose of a matrix of rows of `width` values.
pub fn transpose<T: Copy>(matrix: &[T], width: usize) -> Vec<T> {
    let height = matrix.len().checked_div(width).unwrap_or(0);
    (0..width).flat_map(|column| (0..height).map(move |row| matrix[row * width + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::{quantize, transpose};

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
}
