//! Depthwise convolutions against the sum that defines them.

use crate::fused::kernels::{DepthwiseRow, Kernels};

/// Numbers from -1 to 1 that differ from each other.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2001) as f32 / 1000.0 - 1.0).collect()
}

#[test]
fn every_window_gives_its_sum() {
    let sizes: [(usize, usize); 8] = [(1, 1), (7, 3), (14, 5), (9, 7), (5, 5), (33, 3), (4, 2), (2, 5)];
    for kernels in Kernels::available() {
        for ((width, kernel_width), channels) in
            sizes.into_iter().flat_map(|size| [1, 8, 16, 27, 40].map(|c| (size, c)))
        {
            for (stride, rows) in [(1, 3), (2, 2), (3, 1), (2, 5)] {
                for before in 0..kernel_width {
                    let Some(room) = (width + 2 * before).checked_sub(kernel_width) else { continue };
                    let count = room / stride + 1;
                    let input = numbers(rows * width * channels, 1);
                    let weights = numbers(rows * kernel_width * channels, 2);
                    let bias = numbers(channels, 3);
                    let row = DepthwiseRow {
                        input: &input,
                        width,
                        channels,
                        weights: &weights,
                        kernel_width,
                        bias: &bias,
                        stride,
                        before,
                    };
                    let mut out = vec![f32::NAN; count * channels];
                    kernels.depthwise(&row, &mut out);
                    for (index, found) in out.iter().enumerate() {
                        let (x, channel) = (index / channels, index % channels);
                        let mut expected = f64::from(bias[channel]);
                        for (i, j) in (0..rows).flat_map(|i| (0..kernel_width).map(move |j| (i, j))) {
                            let column = (x * stride + j).checked_sub(before).filter(|column| *column < width);
                            if let Some(column) = column {
                                let weight = weights[(i * kernel_width + j) * channels + channel];
                                let value = input[(i * width + column) * channels + channel];
                                expected += f64::from(weight) * f64::from(value);
                            }
                        }
                        let case =
                            format!("{kernels:?}, {width} x {channels}, window {kernel_width}, {stride}, {before}");
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{case}, result {x}: {found}, {expected}");
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "assertion")]
fn wrong_lengths_are_refused() {
    let values = [0.0; 8];
    let row = DepthwiseRow {
        input: &values,
        width: 2,
        channels: 2,
        weights: &values[..6],
        kernel_width: 3,
        bias: &values[..2],
        stride: 1,
        before: 0,
    };
    Kernels::best().depthwise(&row, &mut [0.0; 2]);
}
