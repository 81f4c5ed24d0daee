//! The loss of a batch, and the gradients of all embeddings.

use std::collections::HashMap;

use super::error::TuneError;
use super::ops::{exp, tensor, to_vec};

/// The loss of a batch, with its gradients.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    /// The loss.
    pub(super) value: f64,
    /// Gradient of the image embeddings [batch, width].
    pub(super) images: Vec<f32>,
    /// Gradient of the text embeddings [batch, width].
    pub(super) texts: Vec<f32>,
    /// Gradient of the logit scale.
    pub(super) scale: f32,
    /// Gradient of the logit bias, where there is one.
    pub(super) bias: Option<f32>,
}

/// A batch of embeddings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embedded<'a> {
    /// Normalised embeddings of images [batch, width].
    pub(super) images: &'a [f32],
    /// Normalised embeddings of texts [batch, width]; text `i` belongs to image `i`.
    pub(super) texts: &'a [f32],
    /// What each pair is about: a text fits all images of the same number. If all numbers differ, the loss is the
    /// reference's.
    pub(super) groups: &'a [u64],
}

impl Embedded<'_> {
    /// The loss of `VisionTextDualEncoderModel` and `CLIPModel`: the mean of both cross-entropies, of each text among the
    /// images and of each image among the texts. If several fit, each is to get the same share.
    pub(super) fn contrastive(&self, logit_scale: f32) -> Result<Loss, TuneError> {
        let count = self.groups.len();
        let logits = self.logits(logit_scale.exp(), 0.0)?;
        let fitting = self.fitting();
        let mut grad = vec![0.0_f32; logits.len()];
        let mut value = 0.0;
        let mut line = vec![0.0_f32; count];
        // Rows are texts, columns images.
        for (step, stride) in [(count, 1), (1, count)] {
            for (index, fitting) in fitting.iter().enumerate() {
                let at = |other: usize| index * step + other * stride;
                line.iter_mut().enumerate().for_each(|(other, logit)| *logit = logits[at(other)]);
                let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = line.iter().map(|logit| f64::from(exp(logit - largest))).sum();
                let log_sum = f64::from(largest) + sum.ln();
                let share = 1.0 / fitting.len() as f64;
                value += fitting.iter().map(|other| share * (log_sum - f64::from(line[*other]))).sum::<f64>();
                for (other, logit) in line.iter().enumerate() {
                    grad[at(other)] += (f64::from(exp(logit - largest)) / sum) as f32;
                }
                fitting.iter().for_each(|other| grad[at(*other)] -= share as f32);
            }
        }
        let mean = 0.5 / count as f64;
        grad.iter_mut().for_each(|value| *value *= mean as f32);
        self.finish(value * mean, &logits, grad, logit_scale.exp(), None)
    }

    /// The loss of `SiglipModel`: every pair of a text and an image is judged by itself.
    pub(super) fn sigmoid(&self, logit_scale: f32, logit_bias: f32) -> Result<Loss, TuneError> {
        let count = self.groups.len();
        let logits = self.logits(logit_scale.exp(), logit_bias)?;
        let mut value = 0.0;
        let mut grad = vec![0.0_f32; logits.len()];
        for (index, (logit, grad)) in logits.iter().zip(&mut grad).enumerate() {
            let sign = if self.groups[index / count] == self.groups[index % count] { 1.0 } else { -1.0 };
            let signed = sign * f64::from(*logit);
            // -ln sigmoid(x), in a form that does not overflow.
            value += (-signed).max(0.0) + (-signed.abs()).exp().ln_1p();
            *grad = (-sign / (1.0 + signed.exp()) / count as f64) as f32;
        }
        self.finish(value / count as f64, &logits, grad, logit_scale.exp(), Some(logit_bias))
    }

    /// Logits [texts, images].
    fn logits(&self, factor: f32, bias: f32) -> Result<Vec<f32>, TuneError> {
        let [images, texts] = [self.images, self.texts].map(|values| self.matrix(values));
        let mut logits = to_vec(&texts?.matmul(&images?.t()?)?)?;
        logits.iter_mut().for_each(|value| *value = *value * factor + bias);
        Ok(logits)
    }

    fn matrix(&self, values: &[f32]) -> candle_core::Result<candle_core::Tensor> {
        tensor(values.to_vec(), &[self.groups.len(), values.len() / self.groups.len().max(1)])
    }

    /// For each pair, those of the same group.
    fn fitting(&self) -> Vec<Vec<usize>> {
        let mut members: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, group) in self.groups.iter().enumerate() {
            members.entry(*group).or_default().push(index);
        }
        self.groups.iter().map(|group| members[group].clone()).collect()
    }

    /// The gradients of embeddings, scale and bias, from those of the logits.
    fn finish(
        &self,
        value: f64,
        logits: &[f32],
        grad: Vec<f32>,
        factor: f32,
        bias: Option<f32>,
    ) -> Result<Loss, TuneError> {
        let without_bias = |logit: &f32| f64::from(logit - bias.unwrap_or(0.0));
        let scale = grad.iter().zip(logits).map(|(grad, logit)| f64::from(*grad) * without_bias(logit)).sum::<f64>();
        let of_bias = bias.map(|_| grad.iter().map(|value| f64::from(*value)).sum::<f64>() as f32);
        let count = self.groups.len();
        let grad = (tensor(grad, &[count, count])? * f64::from(factor))?;
        let [images, texts] = [self.images, self.texts].map(|values| self.matrix(values));
        let texts_grad = to_vec(&grad.matmul(&images?)?)?;
        let images_grad = to_vec(&grad.t()?.matmul(&texts?)?)?;
        Ok(Loss { value, images: images_grad, texts: texts_grad, scale: scale as f32, bias: of_bias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::random::Random;

    /// Compares all gradients with differences of the loss.
    #[test]
    fn gradients_are_slopes() {
        const WIDTH: usize = 3;
        let check = |groups: &[u64], sigmoid: bool| {
            let mut random = Random::new(&[groups.len() as u64]);
            let mut draw = || (0..groups.len() * WIDTH).map(|_| random.between(-0.7, 0.7) as f32).collect::<Vec<_>>();
            let (images, texts) = (draw(), draw());
            let loss = |images: &[f32], texts: &[f32], scale: f32, bias: f32| {
                let embedded = Embedded { images, texts, groups };
                let loss = if sigmoid { embedded.sigmoid(scale, bias) } else { embedded.contrastive(scale) };
                loss.expect("a loss")
            };
            let found = loss(&images, &texts, 1.2, -0.5);
            let slope = |of: &dyn Fn(f32) -> f64| (of(1e-2) - of(-1e-2)) / 2e-2;
            let same = |found: f32, expected: f64, what: &str| {
                assert!((f64::from(found) - expected).abs() < 2e-3, "{groups:?}, {what}: {found} for {expected}");
            };
            for index in 0..images.len() {
                let moved = |values: &[f32], by: f32| {
                    let mut values = values.to_vec();
                    values[index] += by;
                    values
                };
                same(found.images[index], slope(&|by| loss(&moved(&images, by), &texts, 1.2, -0.5).value), "image");
                same(found.texts[index], slope(&|by| loss(&images, &moved(&texts, by), 1.2, -0.5).value), "text");
            }
            same(found.scale, slope(&|by| loss(&images, &texts, 1.2 + by, -0.5).value), "scale");
            assert_eq!(found.bias.is_some(), sigmoid);
            if let Some(bias) = found.bias {
                same(bias, slope(&|by| loss(&images, &texts, 1.2, -0.5 + by).value), "bias");
            }
        };
        for groups in [&[1, 2, 3, 4][..], &[1, 2, 1, 1, 3], &[5]] {
            check(groups, false);
            check(groups, true);
        }
    }

    /// One image and its text have no alternative, so nothing can be lost.
    #[test]
    fn a_batch_of_one_has_no_loss() {
        let loss = Embedded { images: &[0.6, 0.8], texts: &[1.0, 0.0], groups: &[9] }.contrastive(2.0).expect("a loss");
        assert_eq!((loss.value, loss.scale, loss.images), (0.0, 0.0, vec![0.0, 0.0]));
    }
}
