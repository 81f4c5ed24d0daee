//! Image embeddings against text embeddings: cosine, logit, probability, loss.
//!
//! As in `VisionTextDualEncoderModel` (transformers 4.56.2): `logits_per_text = T Iᵀ exp(logit_scale)`,
//! `logits_per_image` is its transpose, and probabilities are a softmax over the labels. With sigmoid scoring as in
//! `SiglipModel`: a bias is added to logits, and each label has its own probability.
//!
//! Label sets with questions, opposites or a background have a softmax for each question and label instead, as
//! [`Competition`] describes.

mod batch;
mod share;

pub use batch::LossError;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::embedding::Competition;
use crate::embedding::LabelEmbeddings;
use crate::fused::Kernels;

/// Largest logit scale, since `exp(88)` still fits into a 32-bit float. Larger values are clamped.
pub const LOGIT_SCALE_MAX: f32 = 88.0;

/// Largest magnitude of a logit bias: its sum with a logit of the largest scale still fits into a 32-bit float. Larger
/// values are clamped.
pub(crate) const LOGIT_BIAS_MAX: f32 = 1e38;

/// How cosines become logits and probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Natural logarithm of the factor on cosines.
    pub logit_scale: f32,
    /// Added to logits, if any.
    pub logit_bias: Option<f32>,
    /// How logits become probabilities.
    pub kind: ScoringKind,
}

/// How logits become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoringKind {
    /// A softmax over the labels: they compete, and their probabilities sum to 1.
    #[default]
    Softmax,
    /// A sigmoid for each label by itself, as in SigLIP: all may be likely, or none.
    Sigmoid,
}

/// The score of one label for an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Index of the label in the label set.
    pub label: usize,
    /// Cosine between image and label, -1 to 1.
    pub cosine: f32,
    /// Cosine times `exp(logit_scale)`, plus the bias where there is one.
    pub logit: f32,
    /// Probability of the label given the image. With softmax scoring, its share among what it competes with.
    pub probability: f32,
}

impl ScoringKind {
    /// True if a manifest can omit it.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Sets the probabilities of an image's scores, whose logits must be finite. A probability may replace its logit.
    fn fill<T>(self, scores: &mut [T], logit: impl Fn(&T) -> f32, probability: impl Fn(&mut T) -> &mut f32) {
        match self {
            Self::Softmax => {
                let best = scores.iter().map(&logit).fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for score in &mut *scores {
                    let term = (logit(score) - best).exp();
                    *probability(score) = term;
                    sum += term;
                }
                scores.iter_mut().for_each(|score| *probability(score) /= sum);
            }
            Self::Sigmoid => {
                for score in scores {
                    *probability(score) = sigmoid(logit(score));
                }
            }
        }
    }
}

impl Scoring {
    /// The factor on cosines, `exp(logit_scale)`.
    pub fn factor(&self) -> f32 {
        self.factor_and_bias().0
    }

    /// Factor and bias, clamped so that logits of cosines are finite.
    fn factor_and_bias(&self) -> (f32, f32) {
        let bias = self.logit_bias.unwrap_or(0.0).clamp(-LOGIT_BIAS_MAX, LOGIT_BIAS_MAX);
        (self.logit_scale.min(LOGIT_SCALE_MAX).exp(), bias)
    }
}

/// Scores one normalised image embedding against every label. The label with the highest logit comes first; equal ones keep
/// the order of the set.
///
/// `scores` is cleared first and allocates only when it grows.
///
/// # Panics
/// If `image` and the label embeddings have different lengths, which cannot happen with embeddings of one bundle.
pub fn score(image: &[f32], labels: &LabelEmbeddings, scoring: &Scoring, scores: &mut Vec<Score>) {
    assert_eq!(image.len(), labels.matrix().ncols(), "image and label embeddings share one space");
    scores.clear();
    let (factor, bias) = scoring.factor_and_bias();
    let matrix = labels.matrix();
    let rows = matrix.as_slice().expect("the matrix of a label set is contiguous");
    let (kernels, mut cosines) = (Kernels::best(), [0.0; BLOCK]);
    for (block, rows) in rows.chunks(BLOCK * image.len().max(1)).enumerate() {
        let cosines = &mut cosines[..rows.len() / image.len()];
        kernels.dots(rows, image, cosines);
        scores.extend(cosines.iter().enumerate().map(|(row, &cosine)| {
            let label = block * BLOCK + row;
            Score { label, cosine, logit: cosine * factor + bias, probability: 0.0 }
        }));
    }
    // A stable sort would allocate. Labels are in the order of the set, so they break ties as it would.
    let sort = |scores: &mut [Score]| scores.sort_unstable_by_key(rank);
    let competition = labels.competition();
    if scoring.kind == ScoringKind::Softmax && !competition.is_plain() {
        share::fill(scores, competition);
        scores.truncate(competition.labels());
        sort(scores);
    } else {
        scores.truncate(competition.labels());
        sort(scores);
        scoring.kind.fill(scores, |score| score.logit, |score| &mut score.probability);
    }
}

/// Larger logits have smaller numbers, and of equal ones the label that comes first in the set. One number is compared several
/// times faster than a logit and a label.
fn rank(score: &Score) -> u64 {
    let bits = score.logit.to_bits();
    // In the order of the numbers, as `f32::total_cmp` has it: negative ones have all bits inverted, others the sign.
    let ascending = bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
    u64::from(!ascending) << 32 | score.label as u64
}

/// Labels that are compared with an image at a time.
const BLOCK: usize = 64;

/// `1 / (1 + exp(-x))`, in a form whose exponential cannot overflow.
fn sigmoid(x: f32) -> f32 {
    let small = (-x.abs()).exp();
    if x < 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    fn labels(matrix: Array2<f32>) -> LabelEmbeddings {
        let names = (0..matrix.nrows()).map(|i| format!("label {i}")).collect();
        LabelEmbeddings::new(names, matrix)
    }

    fn softmax(logit_scale: f32) -> Scoring {
        Scoring { logit_scale, logit_bias: None, kind: ScoringKind::Softmax }
    }

    fn scores(image: &[f32], matrix: Array2<f32>, scoring: Scoring) -> Vec<Score> {
        let mut scores = Vec::new();
        score(image, &labels(matrix), &scoring, &mut scores);
        scores
    }

    #[test]
    fn scores_are_sorted_and_probabilities_are_a_softmax() {
        let scores = scores(&[0.6, 0.8], array![[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 1.0]], softmax(2.0));
        let order: Vec<_> = scores.iter().map(|s| s.label).collect();
        assert_eq!(order, [1, 2, 3, 0], "best first, equal ones in the set's order");
        let factor = 2.0_f32.exp();
        let exps: Vec<f32> = [1.0, 0.8, 0.8, 0.6].iter().map(|c| (c * factor).exp()).collect();
        for (score, exp) in scores.iter().zip(&exps) {
            assert!((score.probability - exp / exps.iter().sum::<f32>()).abs() < 1e-6, "{score:?}");
            assert!((score.logit - score.cosine * factor).abs() < 1e-6);
        }
    }

    #[test]
    fn ranks_are_in_the_order_of_logits_then_labels() {
        let logits = [f32::MAX, 100.0, 1.0, 1e-40, 0.0, 0.0, -0.0, -1e-40, -1.0, -1.0, -99.5, -100.0, f32::MIN];
        let score = |(label, &logit): (usize, &f32)| Score { label, cosine: 0.0, logit, probability: 0.0 };
        let ranks = Vec::from_iter(logits.iter().enumerate().map(|score_of| rank(&score(score_of))));
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }

    #[test]
    fn sigmoid_scores_are_independent() {
        let scoring = Scoring { logit_scale: 2.0, logit_bias: Some(-4.0), kind: ScoringKind::Sigmoid };
        let scores = scores(&[0.6, 0.8], array![[1.0, 0.0], [0.6, 0.8]], scoring);
        for (score, (label, cosine)) in scores.iter().zip([(1, 1.0_f32), (0, 0.6)]) {
            let logit = cosine * 2.0_f32.exp() - 4.0;
            assert_eq!(score.label, label);
            assert!((score.logit - logit).abs() < 1e-5, "{score:?}");
            assert!((score.probability - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{score:?}");
        }
    }

    #[test]
    fn extreme_scales_and_biases_give_finite_scores() {
        for logit_scale in [-1e9, -88.0, 87.9, 88.0, 1e9, f32::INFINITY, f32::NEG_INFINITY] {
            for logit_bias in [None, Some(0.0), Some(f32::MAX), Some(f32::MIN), Some(f32::INFINITY)] {
                for kind in [ScoringKind::Softmax, ScoringKind::Sigmoid] {
                    let scoring = Scoring { logit_scale, logit_bias, kind };
                    // Slightly more than 1, as rounding can give.
                    let found = scores(&[1.000_000_1, 0.0], array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], scoring);
                    for score in &found {
                        let probable = (0.0..=1.0).contains(&score.probability);
                        assert!(score.logit.is_finite() && probable, "{scoring:?}: {score:?}");
                    }
                }
            }
        }
        let certain = scores(&[1.0, 0.0], array![[1.0, 0.0], [0.0, 1.0]], softmax(87.9));
        assert_eq!(certain.iter().map(|s| s.probability).collect::<Vec<_>>(), [1.0, 0.0]);
    }

    #[test]
    fn no_labels_give_no_scores() {
        let mut scores = vec![Score { label: 0, cosine: 0.0, logit: 0.0, probability: 0.0 }];
        score(&[1.0, 0.0], &labels(Array2::zeros((0, 2))), &softmax(1.0), &mut scores);
        assert!(scores.is_empty());
    }
}
