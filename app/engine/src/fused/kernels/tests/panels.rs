//! Panel kernels against a naive matrix product.

use super::super::{Kernels, PackedF32, PackedI8, QuantizedRows};
use super::Random;

const INPUTS: [usize; 13] = [1, 3, 4, 7, 8, 15, 16, 17, 31, 64, 65, 192, 768];

/// Content of the output before a kernel runs.
const BEFORE: f32 = 3.0;

/// Numbers of output channels around the edges of a panel.
fn widths(columns: usize) -> [usize; 5] {
    [1, columns - 1, columns, columns + 1, 2 * columns + 1]
}

/// How activations, weights and zero points of an int8 product are generated, from the index of the input.
struct Pattern {
    name: &'static str,
    activation: fn(&mut Random, usize) -> u8,
    weight: fn(&mut Random, usize) -> i8,
    zero_point: fn(&mut Random) -> u8,
}

/// Among them the extremes, at which 16 bits would overflow.
const PATTERNS: [Pattern; 9] = [
    Pattern { name: "any", activation: byte, weight, zero_point: |r| byte(r, 0) },
    Pattern { name: "largest", activation: |_, _| 255, weight: |_, _| 127, zero_point: |_| 0 },
    Pattern { name: "smallest", activation: |_, _| 255, weight: |_, _| -127, zero_point: |_| 255 },
    Pattern { name: "no activation", activation: |_, _| 0, weight: |_, _| 127, zero_point: |_| 255 },
    Pattern {
        name: "alternating",
        activation: |_, i| if i % 2 == 0 { 255 } else { 0 },
        weight: |_, i| if i % 2 == 0 { 127 } else { -127 },
        zero_point: |_| 128,
    },
    Pattern { name: "zero rows", activation: |_, _| 77, weight, zero_point: |_| 77 },
    // Pairs of weights whose products saturate 16 bits are few.
    Pattern { name: "mostly small", activation: byte, weight: mostly_small, zero_point: |r| byte(r, 0) },
    Pattern { name: "largest, mostly small", activation: |_, _| 255, weight: mostly_small, zero_point: |_| 0 },
    Pattern { name: "no zero point", activation: byte, weight, zero_point: |_| 0 },
];

fn byte(random: &mut Random, _: usize) -> u8 {
    random.bits() as u8
}

fn weight(random: &mut Random, _: usize) -> i8 {
    random.weight()
}

fn mostly_small(random: &mut Random, input: usize) -> i8 {
    match (input % 10, random.weight()) {
        (4 | 5, w) => {
            if w > 0 {
                127
            } else {
                -127
            }
        }
        (_, w) => w / 2,
    }
}

/// Runs every panel, the last one first, so that no panel can hide that an earlier one wrote too far.
fn all_panels(panels: usize, rows: usize, stride: usize, panel: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut out = vec![BEFORE; rows * stride];
    (0..panels).rev().for_each(|p| panel(p, &mut out));
    out
}

#[track_caller]
fn check_i8(kernels: &Kernels, rows: usize, inputs: usize, outputs: usize, pattern: &Pattern, random: &mut Random) {
    let q: Vec<u8> = (0..rows * inputs).map(|i| (pattern.activation)(random, i % inputs)).collect();
    let w: Vec<i8> = (0..inputs * outputs).map(|i| (pattern.weight)(random, i / outputs)).collect();
    let z: Vec<u8> = (0..rows).map(|_| (pattern.zero_point)(random)).collect();
    // Scales of 1 and no bias show the integer. Pairs are limited in two of four cases.
    for (exact, accumulate) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut floats = |count| if exact { vec![1.0; count] } else { random.floats(count, 0.01) };
        let (scales, weight_scales) = (floats(rows), floats(outputs));
        let bias = if exact { vec![0.0; outputs] } else { floats(outputs) };
        let mut packed = PackedI8::new(kernels.layout_i8, inputs, outputs);
        packed.set(0, &w, &weight_scales, Some(&bias));
        #[cfg(target_arch = "x86_64")]
        if rows.is_multiple_of(2) == accumulate {
            kernels.limit_pairs(&mut packed);
        }
        // The padding of a row must not count, whatever its content.
        let stride = inputs.next_multiple_of(16) + 16;
        let mut values = vec![0xa5; rows * stride];
        let flip = if kernels.signed { 128 } else { 0 };
        for (values, q) in values.chunks_mut(stride).zip(q.chunks(inputs)) {
            values.iter_mut().zip(q).for_each(|(value, q)| *value = q ^ flip);
        }
        let zero_points: Vec<i32> = z.iter().map(|z| i32::from(*z) - i32::from(flip)).collect();
        let a = QuantizedRows { values: &values, stride, scales: &scales, zero_points: &zero_points };
        let width = outputs + 3;
        let out = all_panels(packed.panels(), rows, width, |panel, out| {
            kernels.panel_i8(&a, &packed, panel, out, width, accumulate);
        });
        for (i, got) in out.into_iter().enumerate() {
            let (row, column) = (i / width, i % width);
            let case = || format!("{kernels:?} {rows}x{inputs}x{outputs} {}, {row} {column}", pattern.name);
            if column >= outputs {
                assert_eq!(got, BEFORE, "after a row: {}", case());
                continue;
            }
            let products = q[row * inputs..][..inputs].iter().zip(w[column..].iter().step_by(outputs));
            let sum: i32 = products.map(|(q, w)| (i32::from(*q) - i32::from(z[row])) * i32::from(*w)).sum();
            let before = if accumulate { BEFORE } else { 0.0 };
            if exact {
                assert_eq!(got, sum as f32 + before, "{}", case());
                continue;
            }
            let value = f64::from(sum) * f64::from(scales[row]) * f64::from(weight_scales[column]);
            let (bias, before) = (f64::from(bias[column]), f64::from(before));
            let error = (f64::from(got) - (value + bias + before)).abs();
            assert!(error <= 1e-6 * (value.abs() + bias.abs() + before), "off by {error}: {}", case());
        }
    }
}

#[test]
fn int8_panels_are_exact() {
    for kernels in Kernels::available() {
        let (mut random, mut patterns) = (Random(1), PATTERNS.iter().cycle());
        for rows in 1..=33 {
            for inputs in INPUTS {
                for outputs in widths(kernels.layout_i8.nr) {
                    check_i8(kernels, rows, inputs, outputs, patterns.next().unwrap(), &mut random);
                }
            }
        }
        // More inputs than any kernel handles in one block, for every pattern.
        for pattern in &PATTERNS {
            check_i8(kernels, 7, 3077, kernels.layout_i8.nr + 1, pattern, &mut random);
        }
    }
}

#[track_caller]
fn check_f32(kernels: &Kernels, rows: usize, inputs: usize, outputs: usize, random: &mut Random) {
    let stride = inputs + 5;
    // The last row ends with the slice.
    let a = random.floats((rows - 1) * stride + inputs, 1.0);
    let w = random.floats(inputs * outputs, 1.0);
    let bias = random.floats(outputs, 1.0);
    let mut packed = PackedF32::new(kernels.layout_f32, inputs, outputs);
    packed.set(0, &w, outputs, Some(&bias));
    for accumulate in [false, true] {
        let width = outputs + 3;
        let out = all_panels(packed.panels(), rows, width, |panel, out| {
            kernels.panel_f32(&a, stride, rows, &packed, panel, out, width, accumulate);
        });
        for (i, got) in out.into_iter().enumerate() {
            let (row, column) = (i / width, i % width);
            let case = || format!("{kernels:?} {rows}x{inputs}x{outputs}, {row} {column}");
            if column >= outputs {
                assert_eq!(got, BEFORE, "after a row: {}", case());
                continue;
            }
            let before = if accumulate { f64::from(BEFORE) } else { 0.0 };
            let (mut sum, mut magnitude) = (f64::from(bias[column]) + before, f64::from(bias[column].abs()) + before);
            for (a, w) in a[row * stride..][..inputs].iter().zip(w[column..].iter().step_by(outputs)) {
                let product = f64::from(*a) * f64::from(*w);
                sum += product;
                magnitude += product.abs();
            }
            let error = (f64::from(got) - sum).abs();
            assert!(error <= 1e-5 * magnitude, "off by {error}: {}", case());
        }
    }
}

#[test]
fn float_panels_are_close_to_double_precision() {
    for kernels in Kernels::available() {
        let mut random = Random(2);
        for rows in 1..=33 {
            for inputs in INPUTS {
                // Rows and inputs meet every edge in turn.
                let outputs = widths(kernels.layout_f32.nr)[(rows + inputs) % 5];
                check_f32(kernels, rows, inputs, outputs, &mut random);
            }
        }
    }
}

#[test]
fn setting_ranges_of_channels_equals_setting_single_ones() {
    for kernels in Kernels::available() {
        for (inputs, outputs) in [(1, 1), (3, 17), (4, 33), (7, 64), (18, 65), (33, 70)] {
            for part in [1, 2, 3, 5, 7, 16, 31, 33, outputs] {
                let mut random = Random(3);
                let columns: Vec<Vec<i8>> =
                    (0..outputs).map(|_| (0..inputs).map(|_| random.weight()).collect()).collect();
                let scales = random.floats(outputs, 1.0);
                let mut parts = PackedI8::new(kernels.layout_i8, inputs, outputs);
                let mut single = PackedI8::new(kernels.layout_i8, inputs, outputs);
                for first in (0..outputs).step_by(part) {
                    let part = first..(first + part).min(outputs);
                    let matrix: Vec<i8> =
                        (0..inputs).flat_map(|i| columns[part.clone()].iter().map(move |column| column[i])).collect();
                    parts.set(first, &matrix, &scales[part.clone()], None);
                }
                for (column, weights) in columns.iter().enumerate() {
                    // Twice, since it replaces what was there.
                    single.set_channel(column, &vec![1; inputs], 2.0);
                    single.set_channel(column, weights, scales[column]);
                }
                let case = format!("{kernels:?} {inputs}x{outputs} by {part}");
                for panel in 0..parts.panels() {
                    assert_eq!(parts.panel(panel), single.panel(panel), "{case}");
                }
                assert_eq!((&parts.sums, &parts.scales), (&single.sums, &single.scales), "{case}");
                let sum = |column: &Vec<i8>| column.iter().map(|w| i32::from(*w)).sum::<i32>();
                assert_eq!(parts.sums[..outputs], columns.iter().map(sum).collect::<Vec<_>>(), "{case}");
            }
        }
    }
}
