//! Rounds weights to 4 bits so that the outputs of a linear layer change least (GPTQ, arXiv 2210.17323).
//!
//! With `e` the errors of the weights of an output channel, its output is off by `e H e`, `H` being the mean products of
//! what the layer reads ([`Moments`]). Weights are rounded one after the other, and what one is off is made up for by all
//! that follow. In the words of lattices this is the nearest plane: with `H = L L^T`, the target of weight `i` is `w_i` plus
//! the sum over the weights `j` that were rounded before of `e_j L_ji / L_ii`. Then each weight is set to the best integer
//! for all others, in a few rounds.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::{GROUP, Groups, best_scales, scales, to_4_bits};
use crate::moments::Moments;

/// Share of the mean of the diagonal that is added to it, so that directions in which few rows point are not taken for
/// free. More for fewer rows. Other inputs differ from the generated ones: of shares from 0.001 to 0.5, those from 0.05 to
/// 0.2 lose least of a small trained model.
const DAMPING: f32 = 0.1;

/// Rounds in which single weights are improved.
const ROUNDS: usize = 2;

/// Output channels that one task rounds.
const CHANNELS: usize = 32;

/// Inputs that are rounded between two matrix products.
const BLOCK: usize = 32;

/// How the weights of one layer are rounded.
#[derive(Debug)]
pub(crate) struct Rounding {
    /// Inputs in the order in which they are rounded, the last first: those that matter most.
    order: Vec<usize>,
    /// Mean products [width, width], in that order.
    products: Array2<f32>,
    /// `L_ji / L_ii` at [i, j], in that order.
    shares: Array2<f32>,
    /// `L_ii` squared, by input.
    importance: Vec<f32>,
}

impl Rounding {
    /// Prepares the rounding of a layer that reads rows with these moments. The mean does not count if `centred`: what it
    /// changes goes into the layer's bias.
    pub(crate) fn new(moments: &Moments, centred: bool) -> Self {
        let width = moments.mean.len();
        let mean = |index: usize| if centred { moments.mean[index] } else { 0.0 };
        let product = |i: usize, j: usize| moments.products[i * width + j] - mean(i) * mean(j);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| product(*a, *a).total_cmp(&product(*b, *b)));
        let mut products = Array2::from_shape_fn((width, width), |(i, j)| product(order[i], order[j]));
        let few = width as f32 / moments.rows.max(1) as f32;
        let mean = products.diag().sum() / width.max(1) as f32;
        let damping = (mean * DAMPING * (1.0 + few)).max(f32::MIN_POSITIVE);
        products.diag_mut().iter_mut().for_each(|value| *value += damping);
        let lower = cholesky(products.clone(), 0.1 * damping);
        let mut importance = vec![0.0; width];
        order.iter().zip(lower.diag()).for_each(|(input, pivot)| importance[*input] = pivot * pivot);
        let mut shares = lower.reversed_axes();
        for mut row in shares.axis_iter_mut(Axis(0)).enumerate().map(|(i, row)| row.split_at(Axis(0), i).1) {
            let pivot = row[0];
            row.iter_mut().for_each(|value| *value /= pivot);
        }
        Self { order, products, shares: shares.as_standard_layout().into_owned(), importance }
    }

    /// Quantises a matrix with rows of finite values to 4-bit integers with one scale per [`GROUP`] of them.
    pub(crate) fn quantize(&self, rows: &[f32]) -> Groups {
        let width = self.order.len().max(1);
        let parts: Vec<Groups> = rows.par_chunks(CHANNELS * width).map(|rows| self.part(rows)).collect();
        let mut all = Groups::default();
        for part in parts {
            all.values.extend(part.values);
            all.multiples.extend(part.multiples);
            all.units.extend(part.units);
        }
        all
    }

    fn part(&self, rows: &[f32]) -> Groups {
        let width = self.order.len();
        let mut channels = Channels::new(rows, self);
        // From the last input to the first.
        for start in (0..width).step_by(BLOCK).rev() {
            let end = (start + BLOCK).min(width);
            let mut targets = channels.weights.slice(s![start..end, ..]).to_owned();
            let later = self.shares.slice(s![start..end, end..]);
            general_mat_mul(1.0, &later, &channels.errors.slice(s![end.., ..]), 1.0, &mut targets);
            for i in (start..end).rev() {
                let target = targets.row(i - start).to_vec();
                channels.round(i, &target);
                for above in start..i {
                    let (share, errors) = (self.shares[[above, i]], channels.errors.row(i));
                    targets.row_mut(above - start).scaled_add(share, &errors);
                }
            }
        }
        for _ in 0..ROUNDS {
            for start in (0..width).step_by(BLOCK) {
                channels.improve(start..(start + BLOCK).min(width), self.products.view());
            }
        }
        channels.groups(&self.order)
    }
}

/// Some output channels. Matrices are [inputs, channels], inputs in the order of rounding.
struct Channels {
    groups: Groups,
    scales: Array2<f32>,
    weights: Array2<f32>,
    values: Array2<f32>,
    /// Weights minus what their integers stand for; 0 of those that are not rounded yet.
    errors: Array2<f32>,
}

impl Channels {
    fn new(rows: &[f32], rounding: &Rounding) -> Self {
        let order = &rounding.order;
        let (width, count) = (order.len(), rows.len() / order.len().max(1));
        let mut groups = Groups::default();
        let mut by_group: Vec<Vec<f32>> = Vec::new();
        for row in rows.chunks_exact(width.max(1)) {
            let (unit, multiples) = best_scales(row, Some(&rounding.importance));
            by_group.push(scales(unit, &multiples));
            groups.units.push(unit);
            groups.multiples.extend(multiples);
        }
        let shape = (width, count);
        Self {
            groups,
            scales: Array2::from_shape_fn(shape, |(i, channel)| by_group[channel][order[i] / GROUP]),
            weights: Array2::from_shape_fn(shape, |(i, channel)| rows[channel * width + order[i]]),
            values: Array2::zeros(shape),
            errors: Array2::zeros(shape),
        }
    }

    /// Rounds the weights of input `i` to the integers next to `targets`.
    fn round(&mut self, i: usize, targets: &[f32]) {
        for (channel, target) in targets.iter().enumerate() {
            let (at, scale) = ([i, channel], self.scales[[i, channel]]);
            let value = to_4_bits(*target, 1.0 / scale);
            self.values[at] = value;
            self.errors[at] = self.weights[at] - value * scale;
        }
    }

    /// Sets the weights of some inputs to the best integers for all others, one input after the other.
    fn improve(&mut self, inputs: std::ops::Range<usize>, products: ArrayView2<'_, f32>) {
        let mut sums = products.slice(s![inputs.clone(), ..]).dot(&self.errors);
        for i in inputs.clone() {
            let (own, before) = (products[[i, i]], self.errors.row(i).to_owned());
            let others = &sums.row(i - inputs.start) - &(own * &before);
            let targets = &self.weights.row(i) + &(others / own);
            self.round(i, &targets.to_vec());
            let change = &self.errors.row(i) - &before;
            for other in i + 1..inputs.end {
                sums.row_mut(other - inputs.start).scaled_add(products[[other, i]], &change);
            }
        }
    }

    /// The integers by channel, inputs in the order of the layer.
    fn groups(mut self, order: &[usize]) -> Groups {
        let mut values = vec![0; self.values.len()];
        for ((i, channel), value) in self.values.indexed_iter() {
            values[channel * order.len() + order[i]] = *value as i8;
        }
        self.groups.values = values;
        self.groups
    }
}

/// The lower triangle `L` of a symmetric matrix `L L^T`, with zeros above. Squared pivots below `least` are rounding errors
/// of a positive matrix.
fn cholesky(mut matrix: Array2<f32>, least: f32) -> Array2<f32> {
    let width = matrix.nrows();
    for start in (0..width).step_by(BLOCK) {
        let end = (start + BLOCK).min(width);
        let (done, mut rest) = matrix.view_mut().split_at(Axis(1), start);
        let done = done.slice(s![start.., ..]);
        let mut panel = rest.slice_mut(s![start.., ..end - start]);
        general_mat_mul(-1.0, &done, &done.slice(s![..end - start, ..]).t(), 1.0, &mut panel);
        for j in 0..end - start {
            let pivot = panel[[j, j]].max(least).sqrt();
            panel.slice_mut(s![j.., j]).mapv_inplace(|value| value / pivot);
            panel[[j, j]] = pivot;
            for k in j + 1..end - start {
                let (factor, column) = (panel[[k, j]], panel.slice(s![k.., j]).to_owned());
                panel.slice_mut(s![k.., k]).scaled_add(-factor, &column);
            }
        }
    }
    for (i, mut row) in matrix.axis_iter_mut(Axis(0)).enumerate() {
        row.slice_mut(s![i + 1..]).fill(0.0);
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::quantize_groups;

    /// Pseudorandom values between -1 and 1.
    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Rows whose channels go together, around a mean.
    fn rows(count: usize, width: usize, seed: u32) -> Vec<Vec<f32>> {
        let mix = noise(6 * width, 5);
        let row = |index: usize| {
            let (shares, own) = (noise(6, seed + 31 * index as u32), noise(width, seed + 97 * index as u32));
            let value = |i: usize| 2.0 + 0.2 * own[i] + (0..6).map(|k| shares[k] * mix[k * width + i]).sum::<f32>();
            (0..width).map(value).collect()
        };
        (0..count).map(row).collect()
    }

    /// Mean square error of the outputs, without what is the same for all rows if `centred`.
    fn error(rows: &[Vec<f32>], weights: &[f32], rounded: &Groups, centred: bool) -> f32 {
        let width = rows[0].len();
        let off: Vec<f32> = weights.iter().zip(rounded.floats(width)).map(|(w, q)| w - q).collect();
        let of_channel = |off: &[f32]| {
            let dot = |row: &Vec<f32>| row.iter().zip(off).map(|(x, off)| x * off).sum::<f32>();
            let outputs: Vec<f32> = rows.iter().map(dot).collect();
            let mean = if centred { outputs.iter().sum::<f32>() / outputs.len() as f32 } else { 0.0 };
            outputs.iter().map(|output| (output - mean).powi(2)).sum::<f32>() / outputs.len() as f32
        };
        off.chunks(width).map(of_channel).sum()
    }

    #[test]
    fn outputs_change_less_than_with_the_nearest_integers() {
        for width in [64, 72] {
            let (seen, others) = (rows(256, width, 1), rows(256, width, 1_000_003));
            let weights = noise(24 * width, 9);
            let moments = Moments::of(&seen);
            for centred in [false, true] {
                let found = Rounding::new(&moments, centred).quantize(&weights);
                assert_eq!(found.multiples.len(), 24 * width.div_ceil(GROUP));
                assert!(found.values.iter().all(|value| (-8..=7).contains(value)));
                let nearest = error(&others, &weights, &quantize_groups(&weights, width), centred);
                let rounded = error(&others, &weights, &found, centred);
                println!("width {width}, centred {centred}: {rounded}, nearest {nearest}");
                assert!(rounded < 0.25 * nearest, "width {width}, centred {centred}: {rounded}, nearest {nearest}");
            }
        }
    }

    #[test]
    fn a_matrix_is_the_square_of_its_lower_triangle() {
        let width = 70;
        let rows = Array2::from_shape_vec((width, 2 * width), noise(2 * width * width, 3)).unwrap();
        let matrix = rows.dot(&rows.t());
        let lower = cholesky(matrix.clone(), 1e-6);
        assert!(lower.indexed_iter().all(|((i, j), value)| j <= i || *value == 0.0));
        let worst = (lower.dot(&lower.t()) - &matrix).iter().fold(0.0f32, |most, off| most.max(off.abs()));
        assert!(worst < 1e-3, "{worst}");
    }

    #[test]
    fn channels_that_are_never_seen_do_no_harm() {
        let mut seen = rows(3, 64, 1);
        seen.iter_mut().for_each(|row| row[7] = 0.0);
        let weights = noise(4 * 64, 9);
        let found = Rounding::new(&Moments::of(&seen), true).quantize(&weights);
        assert!(found.floats(64).iter().all(|value| value.is_finite()));
        // Few rows say little, so weights stay near their values.
        let far = weights.iter().zip(found.floats(64)).map(|(w, q)| (w - q).abs()).fold(0.0, f32::max);
        assert!(far < 0.6, "{far}");
    }
}
