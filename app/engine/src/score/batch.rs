//! Batches of images against batches of texts.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::{Scoring, ScoringKind};

/// Why a loss cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("loss: expected as many texts as images, 1 or more; found {texts} and {images}")]
pub struct LossError {
    /// Rows of `logits_per_text`.
    pub texts: usize,
    /// Columns of `logits_per_text`.
    pub images: usize,
}

impl Scoring {
    /// `logits_per_image` [images, texts] of normalised embeddings [images, P] and [texts, P].
    ///
    /// # Panics
    /// If P differs.
    pub fn logits_per_image(&self, images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>) -> Array2<f32> {
        let (factor, bias) = self.factor_and_bias();
        let mut logits = images.dot(&texts.t());
        logits.mapv_inplace(|cosine| cosine * factor + bias);
        logits
    }

    /// `logits_per_text` [texts, images], the transpose of [`Self::logits_per_image`]. For callers that work with batches
    /// as transformers does.
    ///
    /// # Panics
    /// If P differs.
    pub fn logits_per_text(&self, texts: ArrayView2<'_, f32>, images: ArrayView2<'_, f32>) -> Array2<f32> {
        self.logits_per_image(texts, images)
    }

    /// Probabilities of the texts given each image: [images, texts], from finite logits of that shape. With softmax
    /// scoring, each row sums to 1.
    pub fn probabilities(&self, logits_per_image: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut probabilities = logits_per_image.as_standard_layout().into_owned();
        for mut row in probabilities.rows_mut() {
            if let Some(row) = row.as_slice_mut() {
                self.kind.fill(row, |logit| *logit, |logit| logit);
            }
        }
        probabilities
    }

    /// The loss of transformers for `return_loss=True`, from finite `logits_per_text` [n, n] whose diagonal has the
    /// matching pairs. For comparison with the reference.
    ///
    /// Softmax: the mean of the cross-entropies of rows and columns against the diagonal (`clip_loss`). Sigmoid: the
    /// mean over the rows of the sum of `-log(sigmoid(±logit))`, with plus on the diagonal and minus elsewhere
    /// (`SiglipModel`).
    ///
    /// # Errors
    /// There are no pairs, or the matrix is not square.
    pub fn loss(&self, logits_per_text: ArrayView2<'_, f32>) -> Result<f64, LossError> {
        let (texts, images) = logits_per_text.dim();
        if texts != images || texts == 0 {
            return Err(LossError { texts, images });
        }
        let mean = |of: &dyn Fn(usize) -> f64| (0..texts).map(of).sum::<f64>() / texts as f64;
        Ok(match self.kind {
            ScoringKind::Softmax => {
                let captions = mean(&|i| cross_entropy(logits_per_text.row(i), i));
                let pictures = mean(&|i| cross_entropy(logits_per_text.column(i), i));
                (captions + pictures) / 2.0
            }
            ScoringKind::Sigmoid => mean(&|i| {
                let signed = logits_per_text.row(i).into_iter().enumerate();
                signed.map(|(j, logit)| -log_sigmoid(f64::from(if i == j { *logit } else { -*logit }))).sum()
            }),
        })
    }
}

/// `log(sum(exp(logits))) - logits[target]`.
fn cross_entropy(logits: ArrayView1<'_, f32>, target: usize) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    largest - f64::from(logits[target]) + sum.ln()
}

/// `log(1 / (1 + exp(-x)))`, in a form whose exponential cannot overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn scoring(logit_scale: f32, kind: ScoringKind) -> Scoring {
        Scoring { logit_scale, logit_bias: None, kind }
    }

    #[test]
    fn losses_worked_out_by_hand() {
        let check = |kind, logits: Array2<f32>, expected: f64| {
            let found = scoring(0.0, kind).loss(logits.view()).expect("square");
            assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{kind:?} {logits}: {found}");
        };
        let (softmax, sigmoid) = (ScoringKind::Softmax, ScoringKind::Sigmoid);
        check(softmax, array![[7.0]], 0.0);
        check(softmax, array![[0.0, 0.0], [0.0, 0.0]], 2.0_f64.ln());
        // Rows: ln(1 + 1/3), ln(2); columns: ln(1 + 1/3), ln(2), with logits 0 and ln 3.
        let ln_3 = 3.0_f32.ln();
        let exact = (f64::from(-ln_3)).exp().ln_1p();
        check(softmax, array![[ln_3, 0.0], [0.0, 0.0]], (exact + 2.0_f64.ln()) / 2.0);
        check(softmax, array![[-1e38, 1e38], [1e38, -1e38]], 2.0 * f64::from(1e38_f32));
        check(sigmoid, array![[0.0]], 2.0_f64.ln());
        check(sigmoid, array![[0.0, 0.0], [0.0, 0.0]], 2.0 * 2.0_f64.ln());
        check(sigmoid, array![[1e38, -1e38], [-1e38, 1e38]], 0.0);
        check(sigmoid, array![[-1e38, 1e38], [1e38, -1e38]], 2.0 * f64::from(1e38_f32));
    }

    #[test]
    fn matrices_without_a_diagonal_have_no_loss() {
        for (texts, images) in [(0, 0), (0, 1), (1, 17), (5, 3)] {
            let error = scoring(0.0, ScoringKind::Softmax).loss(Array2::zeros((texts, images)).view());
            assert_eq!(error, Err(LossError { texts, images }));
        }
    }

    #[test]
    fn views_of_any_layout_give_the_same() {
        let images = array![[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]];
        let texts = array![[0.8, 0.6], [0.0, 1.0]];
        for kind in [ScoringKind::Softmax, ScoringKind::Sigmoid] {
            let scoring = Scoring { logit_scale: 1.5, logit_bias: Some(-0.5), kind };
            let per_image = scoring.logits_per_image(images.view(), texts.view());
            let per_text = scoring.logits_per_text(texts.view(), images.view());
            assert_eq!(per_image, per_text.t());
            assert_eq!(scoring.probabilities(per_image.view()), scoring.probabilities(per_text.t()));
        }
    }
}
