//! Compares two bundles on the same images.

use ndarray::ArrayView2;
use serde::Serialize;

use super::ranking::{Answer, share};
use crate::compare::cosine;

/// Comparison of two bundles.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Cosines between the two embeddings of each image; `None` if the bundles' embeddings differ in length.
    pub pictures: Option<Cosines>,
    /// Cosines between the two embeddings of each class or caption.
    pub texts: Option<Cosines>,
    /// Top-1 answers: labels of images, or images of captions.
    pub top_1: Paired,
}

/// Cosines between pairs of embeddings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cosines {
    /// The smallest cosine.
    pub min: f64,
    /// The mean cosine.
    pub mean: f64,
    /// Name of the input with the smallest cosine.
    pub worst: String,
}

/// Answers of two models to the same questions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// Share of questions with the same answer from both, right or wrong; 0 to 1.
    pub agreement: f64,
    /// Number of questions that both answer right.
    pub both_right: usize,
    /// Number of questions that only the first answers right.
    pub only_first_right: usize,
    /// Number of questions that only the second answers right.
    pub only_second_right: usize,
    /// Number of questions that both answer wrong.
    pub both_wrong: usize,
    /// p-value of McNemar's exact two-sided test: the probability that the questions that only one answers right are
    /// split at least this unevenly, if both models are equally good.
    pub p_value: f64,
}

impl Cosines {
    /// Compares the rows of two matrices [n, P]; `name` names a row. `None` if the shapes differ or there are no rows.
    pub fn of(first: ArrayView2<'_, f32>, second: ArrayView2<'_, f32>, name: impl Fn(usize) -> String) -> Option<Self> {
        if first.dim() != second.dim() {
            return None;
        }
        let rows = first.rows().into_iter().zip(second.rows());
        let cosines: Vec<f64> = rows.map(|(a, b)| cosine(a, b)).collect();
        let (worst, min) = cosines.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Self { min, mean: cosines.iter().sum::<f64>() / cosines.len() as f64, worst: name(worst) })
    }
}

impl Paired {
    /// Compares answers to the same questions, in the same order.
    pub fn of(first: &[Answer], second: &[Answer]) -> Self {
        let pairs = || first.iter().zip(second);
        let count = |a, b| pairs().filter(|(first, second)| (first.is_right(), second.is_right()) == (a, b)).count();
        let same = pairs().filter(|(first, second)| first.best == second.best).count();
        let (only_first_right, only_second_right) = (count(true, false), count(false, true));
        Self {
            agreement: share(same, first.len()),
            both_right: count(true, true),
            only_first_right,
            only_second_right,
            both_wrong: count(false, false),
            p_value: mcnemar(only_first_right, only_second_right),
        }
    }
}

/// Twice the probability of at most `min(won, lost)` heads among `won + lost` fair coins, limited to 1.
fn mcnemar(won: usize, lost: usize) -> f64 {
    let (coins, fewer) = ((won + lost) as f64, won.min(lost));
    // The logarithm of C(coins, heads) / 2^coins, since the number itself may underflow.
    let mut log = -coins * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for heads in 0..=fewer {
        sum += log.exp();
        log += ((coins - heads as f64) / (heads as f64 + 1.0)).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn exact_p_values() {
        let check = |won, lost, expected: f64| {
            let found = mcnemar(won, lost);
            assert!((found - expected).abs() <= 1e-9 * expected, "{won}, {lost}: {found}");
        };
        check(0, 0, 1.0);
        check(3, 3, 1.0);
        check(0, 1, 1.0);
        check(0, 5, 2.0 / 32.0);
        check(5, 0, 2.0 / 32.0);
        check(1, 9, 2.0 * 11.0 / 1024.0);
        check(2, 8, 2.0 * 56.0 / 1024.0);
    }

    #[test]
    fn pairs_by_hand() {
        let answers = |pairs: &[(usize, usize)]| -> Vec<Answer> {
            pairs.iter().map(|(best, rank)| Answer { best: *best, rank: *rank }).collect()
        };
        let found =
            Paired::of(&answers(&[(0, 1), (1, 1), (2, 2), (3, 4)]), &answers(&[(0, 1), (4, 3), (5, 1), (3, 2)]));
        let counts = [found.both_right, found.only_first_right, found.only_second_right, found.both_wrong];
        assert_eq!((found.agreement, counts, found.p_value), (0.5, [1, 1, 1, 1], 1.0));
    }

    #[test]
    fn cosines_by_hand() {
        let (first, second) = (array![[1.0, 0.0], [0.6, 0.8]], array![[2.0, 0.0], [0.8, 0.6]]);
        let found = Cosines::of(first.view(), second.view(), |row| format!("row {row}")).expect("equal widths");
        assert!((found.min - 0.96).abs() < 1e-6 && (found.mean - 0.98).abs() < 1e-6, "{found:?}");
        assert_eq!(found.worst, "row 1");
        assert_eq!(Cosines::of(first.view(), array![[1.0], [1.0]].view(), |_| String::new()), None);
    }
}
