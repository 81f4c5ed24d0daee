//! Image embedding against label embeddings: cosine, logit, probability.
//!
//! As in `VisionTextDualEncoderModel` (transformers 4.56.2): `logits_per_text = T Iᵀ exp(logit_scale)`,
//! `logits_per_image` its transpose, and probabilities are a softmax over the labels.

use ndarray::{Array2, ArrayView2};

use crate::labels::LabelEmbeddings;

/// How well one label fits a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Index of the label in its set.
    pub label: usize,
    /// Cosine between picture and label, -1 to 1.
    pub cosine: f32,
    /// Cosine times `exp(logit_scale)`.
    pub logit: f32,
    /// Softmax of the logits over the label set; these sum to 1.
    pub probability: f32,
}

/// Scores one normalised image embedding against every label, best first; equal ones keep the set's order.
///
/// `scores` is cleared first; it allocates only while it grows.
///
/// # Panics
/// If `image` has another length than the label embeddings, which one bundle cannot cause.
pub fn score(image: &[f32], labels: &LabelEmbeddings, logit_scale: f32, scores: &mut Vec<Score>) {
    assert_eq!(image.len(), labels.matrix().ncols(), "image and label embeddings share one space");
    scores.clear();
    let factor = logit_scale.exp();
    for (label, embedding) in labels.matrix().rows().into_iter().enumerate() {
        let cosine = embedding.iter().zip(image).map(|(a, b)| a * b).sum::<f32>();
        scores.push(Score { label, cosine, logit: cosine * factor, probability: 0.0 });
    }
    scores.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    let Some(best) = scores.first().map(|s| s.logit) else { return };
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        score.probability = (score.logit - best).exp();
        sum += score.probability;
    }
    for score in scores.iter_mut() {
        score.probability /= sum;
    }
}

/// `logits_per_image` [images, texts] of normalised embeddings [images, P] and [texts, P]; its transpose is
/// `logits_per_text`.
///
/// # Panics
/// If the two have different P.
pub fn logits_per_image(images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>, logit_scale: f32) -> Array2<f32> {
    images.dot(&texts.t()) * logit_scale.exp()
}

/// Divides `embedding` by its L2 norm; false where that is zero or not finite.
pub fn normalize(embedding: &mut [f32]) -> bool {
    let norm = embedding.iter().map(|v| v * v).sum::<f32>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return false;
    }
    embedding.iter_mut().for_each(|v| *v /= norm);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn labels(matrix: Array2<f32>) -> LabelEmbeddings {
        let names = (0..matrix.nrows()).map(|i| format!("label {i}")).collect();
        LabelEmbeddings::new(names, matrix)
    }

    #[test]
    fn scores_are_sorted_and_probabilities_are_a_softmax() {
        let set = labels(array![[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 1.0]]);
        let mut scores = Vec::new();
        score(&[0.6, 0.8], &set, 2.0, &mut scores);
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
    fn a_scale_near_the_limit_gives_finite_probabilities() {
        let set = labels(array![[1.0, 0.0], [0.0, 1.0]]);
        let mut scores = Vec::new();
        score(&[1.0, 0.0], &set, 87.9, &mut scores);
        assert_eq!(scores[0].probability, 1.0);
        assert_eq!(scores[1].probability, 0.0);
    }

    #[test]
    fn no_labels_give_no_scores() {
        let mut scores = vec![Score { label: 0, cosine: 0.0, logit: 0.0, probability: 0.0 }];
        score(&[1.0, 0.0], &labels(Array2::zeros((0, 2))), 1.0, &mut scores);
        assert!(scores.is_empty());
    }
}
