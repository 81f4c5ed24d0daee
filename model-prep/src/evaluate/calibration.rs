//! Calibration of probabilities: whether they match the frequency of right labels.

use serde::Serialize;

use super::ranking::share;

/// Number of bins of equal width between 0 and 1, as in the paper of [`FORMULA`].
pub const BINS: usize = 15;

/// How [`Calibration::ece`] is computed.
pub const FORMULA: &str = "expected calibration error of the best label's probability, 15 bins (k/15, (k+1)/15]: \
                           sum over bins of pictures in bin / pictures * |accuracy in bin - mean probability in bin| \
                           (Guo et al. 2017, arXiv:1706.04599, equation 3)";

/// The reliability diagram of the top-1 labels, as numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Expected calibration error, from 0 (perfectly calibrated) to 1.
    pub ece: f64,
    /// [`FORMULA`].
    pub formula: &'static str,
    /// The [`BINS`] bins, lowest first.
    pub bins: Vec<Bin>,
}

/// Images whose top-1 label has a probability within a range.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// Lower bound of the probabilities, exclusive; inclusive in the first bin.
    pub from: f64,
    /// Upper bound of the probabilities, inclusive.
    pub to: f64,
    /// Number of images.
    pub pictures: usize,
    /// Mean probability; `None` without images.
    pub probability: Option<f64>,
    /// Share of right labels; `None` without images.
    pub accuracy: Option<f64>,
}

impl Calibration {
    /// Computes the diagram from the probability of each image's top-1 label, 0 to 1, and whether that label is right.
    pub fn of(answers: impl IntoIterator<Item = (f32, bool)>) -> Self {
        let (mut counts, mut rights, mut sums) = ([0; BINS], [0; BINS], [0.0; BINS]);
        let edge = |index: usize| index as f64 / BINS as f64;
        for (probability, is_right) in answers {
            let probability = f64::from(probability);
            let bin = (0..BINS).find(|bin| probability <= edge(bin + 1)).unwrap_or(BINS - 1);
            counts[bin] += 1;
            rights[bin] += usize::from(is_right);
            sums[bin] += probability;
        }
        let whole: usize = counts.iter().sum();
        let bins: Vec<Bin> = (0..BINS)
            .map(|bin| Bin {
                from: edge(bin),
                to: edge(bin + 1),
                pictures: counts[bin],
                probability: (counts[bin] > 0).then(|| sums[bin] / counts[bin] as f64),
                accuracy: (counts[bin] > 0).then(|| share(rights[bin], counts[bin])),
            })
            .collect();
        let error = |bin: usize| (rights[bin] as f64 - sums[bin]).abs();
        let ece = if whole == 0 { 0.0 } else { (0..BINS).map(error).sum::<f64>() / whole as f64 };
        Self { ece, formula: FORMULA, bins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_worked_out_by_hand() {
        let check = |answers: &[(f32, bool)], expected: f64| {
            let found = Calibration::of(answers.iter().copied());
            assert!((found.ece - expected).abs() < 1e-7, "{answers:?}: {found:?}");
        };
        check(&[], 0.0);
        check(&[(1.0, true)], 0.0);
        check(&[(1.0, false)], 1.0);
        check(&[(0.5, true), (0.5, false)], 0.0);
        // One bin: accuracy 1/2, mean probability 0.69.
        check(&[(0.68, true), (0.7, false)], 0.19);
        // Two bins: |1 - 0.9| and |0 - 0.3|, each with half of the images.
        check(&[(0.9, true), (0.3, false)], 0.2);
        // Over- and under-confidence in different bins do not cancel.
        check(&[(0.9, false), (0.1, true)], 0.9);
    }

    #[test]
    fn edges_belong_to_the_bin_below() {
        let bin_of =
            |probability: f32| Calibration::of([(probability, true)]).bins.iter().position(|bin| bin.pictures == 1);
        for (probability, bin) in [(0.0, 0), (0.066, 0), (0.067, 1), (0.2, 3), (0.5, 7), (1.0, 14), (1.000_000_1, 14)] {
            assert_eq!(bin_of(probability), Some(bin), "{probability}");
        }
        // Binary 0.2 is a little above 3/15, and 0.6 above 9/15.
        assert_eq!(bin_of(0.6), Some(9));
        assert_eq!(bin_of(f32::from_bits(0.6_f32.to_bits() - 1)), Some(8));
    }
}
