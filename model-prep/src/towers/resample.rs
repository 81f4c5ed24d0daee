//! Resamples tables of position embeddings and biases to another grid, as `torch.nn.functional.interpolate` does with
//! `align_corners=False`.

/// The interpolation mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// `bilinear`.
    Bilinear,
    /// `bicubic`.
    Bicubic,
    /// `bicubic` with `antialias=True`.
    BicubicAntialias,
}

/// The inputs of a value, as indexes and weights.
type Taps = Vec<(usize, f64)>;

/// Resamples `values` [rows, columns, channels] to a grid of another size.
pub(crate) fn resampled(values: &[f32], from: [usize; 2], to: [usize; 2], method: Method) -> Vec<f32> {
    let channels = values.len() / (from[0] * from[1]).max(1);
    let [down, across] = [0, 1].map(|axis| taps(from[axis], to[axis], method));
    let mut result = Vec::with_capacity(to[0] * to[1] * channels);
    let mut sum = vec![0.0_f64; channels];
    for row in &down {
        for column in &across {
            sum.fill(0.0);
            for (y, vertical) in row {
                for (x, horizontal) in column {
                    let at = (y * from[1] + x) * channels;
                    let factor = vertical * horizontal;
                    sum.iter_mut().zip(&values[at..at + channels]).for_each(|(s, v)| *s += factor * f64::from(*v));
                }
            }
            result.extend(sum.iter().map(|sum| *sum as f32));
        }
    }
    result
}

/// The inputs of each of `to` points along an axis of `from` points.
fn taps(from: usize, to: usize, method: Method) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|place| {
            let center = scale * (place as f64 + 0.5);
            match method {
                Method::Bilinear => bilinear(center - 0.5, from),
                Method::Bicubic => bicubic(center - 0.5, from),
                Method::BicubicAntialias => antialias(center, scale, from),
            }
        })
        .collect()
}

fn bilinear(place: f64, from: usize) -> Taps {
    let place = place.max(0.0);
    let first = (place.floor() as usize).min(from - 1);
    let share = (place - first as f64).min(1.0);
    vec![(first, 1.0 - share), ((first + 1).min(from - 1), share)]
}

/// Indexes beyond the ends are clamped.
fn bicubic(place: f64, from: usize) -> Taps {
    let first = place.floor();
    let tap = |offset: i32| {
        let at = first + f64::from(offset);
        (at.clamp(0.0, (from - 1) as f64) as usize, cubic(place - at, -0.75))
    };
    (-1..=2).map(tap).collect()
}

/// The filter is widened when the grid shrinks; points beyond the ends are left out.
fn antialias(center: f64, scale: f64, from: usize) -> Taps {
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(from);
    let weight = |at: usize| cubic((at as f64 - center + 0.5) / stretch, -0.5);
    let sum: f64 = (first..end).map(weight).sum();
    (first..end).map(|at| (at, weight(at) / sum)).collect()
}

/// The cubic convolution kernel; `a` is its slope at 1.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::Method::{Bicubic, BicubicAntialias, Bilinear};
    use super::{Method, resampled};

    /// Expected values are PyTorch's, for `x[i] = 7 i mod 11`.
    #[test]
    fn grids_are_resampled_as_in_pytorch() {
        let check = |from: [usize; 2], to: [usize; 2], method: Method, expected: &[f32]| {
            // A second channel, which is ten times the first.
            let values: Vec<f32> =
                (0..from[0] * from[1]).map(|i| (i * 7 % 11) as f32).flat_map(|x| [x, 10.0 * x]).collect();
            let found = resampled(&values, from, to, method);
            let expected: Vec<f32> = expected.iter().flat_map(|x| [*x, 10.0 * x]).collect();
            assert_eq!(found.len(), expected.len(), "{from:?} {to:?} {method:?}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 2e-5, "{from:?} {to:?} {method:?}: {found} for {expected}");
            }
        };
        check([3, 4], [2, 5], Bilinear, &[1.5, 4.475, 5.125, 5.775, 8.75, 2.25, 5.225, 5.875, 4.05, 1.25]);
        check(
            [3, 4],
            [2, 5],
            Bicubic,
            &[1.2848, 4.630065, 5.059448, 5.669235, 9.316818, 2.093394, 5.438659, 6.701904, 3.996255, 0.690538],
        );
        check(
            [3, 4],
            [2, 5],
            BicubicAntialias,
            &[2.182924, 4.228491, 5.127307, 6.205187, 8.58738, 2.873132, 4.9187, 6.292035, 4.764548, 1.35678],
        );
        check(
            [4, 4],
            [7, 2],
            Bilinear,
            &[
                3.5, 6.5, 3.678571, 6.678571, 3.964286, 6.964286, 4.25, 4.5, 4.535714, 2.428571, 4.821429, 5.857143,
                5.0, 8.0,
            ],
        );
        check(
            [4, 4],
            [7, 2],
            Bicubic,
            &[
                3.927709, 5.973075, 3.599812, 7.017672, 3.303415, 7.847232, 4.109375, 4.125, 4.915335, 1.748705,
                4.618938, 5.889489, 4.291041, 9.353866,
            ],
        );
        check(
            [4, 4],
            [7, 2],
            BicubicAntialias,
            &[
                3.090174, 6.830499, 3.608502, 6.83239, 4.498863, 6.567588, 4.610279, 4.281767, 4.652041, 2.855007,
                5.275395, 5.883283, 5.637705, 7.809411,
            ],
        );
        check([2, 3], [3, 3], Bilinear, &[0.0, 7.0, 3.0, 5.0, 6.5, 2.5, 10.0, 6.0, 2.0]);
        check([2, 3], [3, 3], Bicubic, &[-0.868056, 7.086806, 3.086806, 5.0, 6.5, 2.5, 10.868056, 5.913194, 1.913194]);
        check(
            [2, 3],
            [3, 3],
            BicubicAntialias,
            &[-0.657895, 7.065789, 3.065789, 5.0, 6.5, 2.5, 10.657895, 5.934211, 1.934211],
        );
        check([5, 1], [2, 3], Bilinear, &[5.25, 5.25, 5.25, 9.0, 9.0, 9.0]);
        check([5, 1], [2, 3], Bicubic, &[5.835937, 5.835938, 5.835938, 9.832031, 9.832031, 9.832031]);
        check([5, 1], [2, 3], BicubicAntialias, &[3.731432, 3.731432, 3.731432, 7.161098, 7.161098, 7.161098]);
    }
}
