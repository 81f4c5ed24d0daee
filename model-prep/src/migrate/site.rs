//! The factors of one site: candidates, and the error of the layers' outputs with each.

use spotter_engine::bundle::Weights;

use super::activations::Rows;
use crate::quantize::GROUP;

/// Shares of the activations' range that are moved into the weights. With 0 only the weights are made equal.
const STRENGTHS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Factors are taken only if they divide the mean square error by this. Less is lost in a tower that has no outliers, and
/// such towers stay as they are.
pub(super) const GAIN_MIN: f64 = 2.0;

/// Largest exponent of a factor. Channels that hold next to nothing would get any.
const EXPONENT_MAX: i32 = 16;

/// A linear layer that reads a site: weights [from, to] and their storage.
pub(super) struct Reader {
    pub(super) weights: Vec<f32>,
    pub(super) to: usize,
    pub(super) stored: Weights,
}

/// The factors with the least error, with the factor by which they reduce it; `None` if no factors reduce it enough.
pub(super) fn best_factors(rows: &Rows, readers: &[Reader]) -> Option<(Vec<f32>, f64)> {
    let from = rows.largest.len();
    let mut weights = vec![0.0f32; from];
    for reader in readers {
        for (most, row) in weights.iter_mut().zip(reader.weights.chunks_exact(reader.to)) {
            *most = row.iter().fold(*most, |most, w| most.max(w.abs()));
        }
    }
    let without = error(rows, readers, &vec![1.0; from]);
    let mut best: Option<(Vec<f32>, f64)> = None;
    for strength in STRENGTHS {
        let factors = factors(&rows.largest, &weights, strength);
        let gain = without / error(rows, readers, &factors).max(f64::MIN_POSITIVE);
        if gain >= GAIN_MIN && best.as_ref().is_none_or(|(_, most)| gain > *most) {
            best = Some((factors, gain));
        }
    }
    best
}

/// Powers of two next to `activation^strength / weight^(1 - strength)`, divided by their geometric mean.
fn factors(activations: &[f32], weights: &[f32], strength: f64) -> Vec<f32> {
    let wanted: Vec<Option<f64>> = activations
        .iter()
        .zip(weights)
        .map(|(a, w)| {
            let (a, w) = (f64::from(*a), f64::from(*w));
            (a > 0.0 && w > 0.0).then(|| strength * a.log2() - (1.0 - strength) * w.log2())
        })
        .collect();
    let known: Vec<f64> = wanted.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let exponent = |wanted: &Option<f64>| wanted.map_or(0, |wanted| (wanted - mean).round_ties_even() as i32);
    wanted.iter().map(|wanted| 2.0f32.powi(exponent(wanted).clamp(-EXPONENT_MAX, EXPONENT_MAX))).collect()
}

/// Sum over all outputs of the mean square error that integers cause. Errors of single products are taken as independent.
fn error(rows: &Rows, readers: &[Reader], factors: &[f32]) -> f64 {
    let from = factors.len();
    let (mut lost, mut power) = (vec![0.0f64; from], vec![0.0f64; from]);
    for row in &rows.kept {
        let (mut low, mut high) = (0.0f32, 0.0f32);
        for (x, factor) in row.iter().zip(factors) {
            let x = x / factor;
            (low, high) = (low.min(x), high.max(x));
        }
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        for (((x, factor), lost), power) in row.iter().zip(factors).zip(&mut lost).zip(&mut power) {
            let x = x / factor;
            let off = x - (x / scale).round_ties_even() * scale;
            *lost += f64::from(off * off);
            *power += f64::from(x * x);
        }
    }
    let mut sum = 0.0;
    for reader in readers {
        let steps = steps(reader, factors);
        for (input, row) in reader.weights.chunks_exact(reader.to).enumerate() {
            let steps =
                &steps[if reader.stored == Weights::Int4 { input / GROUP * reader.to } else { 0 }..][..reader.to];
            let (mut weight, mut off) = (0.0f32, 0.0f32);
            for (w, step) in row.iter().zip(steps) {
                let square = (w * factors[input]).powi(2);
                weight += square;
                // A weight below half a step becomes zero.
                off += square.min(step * step / 12.0);
            }
            sum += lost[input] * f64::from(weight) + power[input] * f64::from(off);
        }
    }
    sum / rows.kept.len().max(1) as f64
}

/// The step between two integers of each output channel, or of each group [groups, to].
fn steps(reader: &Reader, factors: &[f32]) -> Vec<f32> {
    let (group, levels) = if reader.stored == Weights::Int4 { (GROUP, 7.5) } else { (factors.len(), 127.0) };
    let mut steps = vec![0.0f32; factors.len().div_ceil(group.max(1)) * reader.to];
    for (input, row) in reader.weights.chunks_exact(reader.to).enumerate() {
        let steps = &mut steps[input / group * reader.to..][..reader.to];
        steps.iter_mut().zip(row).for_each(|(step, w)| *step = step.max((w * factors[input]).abs() / levels));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudorandom values between -1 and 1.
    fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    fn case(outlier: f32, stored: Weights) -> (Rows, Vec<Reader>) {
        let mut kept: Vec<Vec<f32>> = (0..32).map(|row| noise(64, row)).collect();
        let mut weights = noise(64 * 24, 99);
        kept.iter_mut().for_each(|row| row[5] *= outlier);
        weights[5 * 24..6 * 24].iter_mut().for_each(|w| *w /= outlier);
        let mut rows = Rows { largest: vec![0.0; 64], kept, seen: 32 };
        for row in &rows.kept {
            rows.largest.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(x.abs()));
        }
        (rows, vec![Reader { weights, to: 24, stored }])
    }

    #[test]
    fn outliers_are_moved_and_nothing_else() {
        for stored in [Weights::Int8, Weights::Int4] {
            let (rows, readers) = case(1.0, stored);
            assert_eq!(best_factors(&rows, &readers), None, "{stored:?}");
        }
        let (rows, readers) = case(100.0, Weights::Int8);
        let (factors, gain) = best_factors(&rows, &readers).unwrap();
        assert!(gain > 50.0, "{gain}");
        let others = factors.iter().enumerate().filter(|(index, _)| *index != 5).map(|(_, factor)| *factor);
        let largest = others.fold(0.0, f32::max);
        assert!((32.0..=256.0).contains(&(factors[5] / largest)), "{} {largest}", factors[5]);
        assert!(factors.iter().all(|factor| factor.log2().fract() == 0.0), "{factors:?}");
    }

    #[test]
    fn channels_without_values_have_some_factor() {
        let (mut rows, readers) = case(100.0, Weights::Int8);
        rows.largest[7] = 0.0;
        rows.kept.iter_mut().for_each(|row| row[7] = 0.0);
        let (factors, _) = best_factors(&rows, &readers).unwrap();
        assert!(factors.iter().all(|factor| factor.is_finite() && *factor > 0.0));
    }
}
