//! Labels learned from a few example images: a closed-form head on frozen embeddings.
//!
//! A label's embedding moves from its text towards its images: `t + s (p - m)`, normalised, where `t` is the text
//! embedding, `p` the normalised mean of the label's examples, `m` the mean of all labels' `p`, and `s` the strength. `m` is
//! what all images share and texts do not have, so that labels with and without examples stay comparable. The strength is
//! the one with which examples that were left out are most probable.

use ndarray::{Array2, ArrayView2};

use crate::embedding::normalize;
use crate::score::Scoring;

/// Strengths that are tried, besides 0.
const STRENGTHS: [f32; 12] = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0];

/// Label embeddings that were adapted to examples, with what that changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapted {
    /// Embeddings [labels, projection_dim], each row of L2 norm 1. Labels without examples keep their text embedding.
    pub matrix: Array2<f32>,
    /// How far labels move towards their examples; 0 if examples do not help.
    pub strength: f32,
    /// Share of the left-out examples whose label had the highest score with text embeddings, 0 to 1.
    pub before: f64,
    /// The same with adapted embeddings.
    pub after: f64,
}

/// What left-out examples say about a strength.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Examples whose label had the highest score.
    right: usize,
    /// Sum of the negative logarithms of the probabilities of the right labels.
    surprise: f64,
    /// Number of examples that were left out.
    count: usize,
}

/// Adapts the text embeddings `texts` [labels, projection_dim] to `examples`, the normalised embeddings of each label's
/// images.
///
/// To choose the strength, one example of every label is left out at a time and scored by the others. Labels with a single
/// example cannot be judged that way, so at least two labels need two examples or more; else the strength is 0.
///
/// # Panics
/// If the number of lists of examples is not that of the labels, or an example has another length than a label.
pub fn adapt(texts: ArrayView2<'_, f32>, examples: &[Vec<Vec<f32>>], scoring: &Scoring) -> Adapted {
    assert_eq!(texts.nrows(), examples.len(), "one list of examples per label");
    assert!(examples.iter().flatten().all(|example| example.len() == texts.ncols()), "embeddings of one space");
    let before = outcome(texts, examples, 0.0, scoring);
    let judged = examples.iter().filter(|examples| examples.len() >= 2).count();
    let mut best = (0.0, before);
    if judged >= 2 {
        for strength in STRENGTHS {
            let found = outcome(texts, examples, strength, scoring);
            if found.surprise < best.1.surprise && found.right >= before.right {
                best = (strength, found);
            }
        }
    }
    let (strength, after) = best;
    let share = |outcome: Outcome| outcome.right as f64 / outcome.count.max(1) as f64;
    let all: Vec<Vec<&[f32]>> = examples.iter().map(|own| own.iter().map(Vec::as_slice).collect()).collect();
    Adapted { matrix: moved(texts, &all, strength), strength, before: share(before), after: share(after) }
}

/// The label embeddings with this strength.
fn moved(texts: ArrayView2<'_, f32>, examples: &[Vec<&[f32]>], strength: f32) -> Array2<f32> {
    let width = texts.ncols();
    let prototype = |examples: &Vec<&[f32]>| {
        let mut sum = vec![0.0; width];
        for example in examples {
            sum.iter_mut().zip(*example).for_each(|(sum, value)| *sum += value);
        }
        normalize(&mut sum).then_some(sum)
    };
    let prototypes: Vec<Option<Vec<f32>>> = examples.iter().map(prototype).collect();
    let count = prototypes.iter().flatten().count().max(1) as f32;
    let mut mean = vec![0.0; width];
    for prototype in prototypes.iter().flatten() {
        mean.iter_mut().zip(prototype).for_each(|(mean, value)| *mean += value / count);
    }
    let mut matrix = texts.to_owned();
    for (mut row, prototype) in matrix.outer_iter_mut().zip(&prototypes) {
        let Some(prototype) = prototype.as_ref().filter(|_| strength > 0.0) else { continue };
        let mut sum: Vec<f32> =
            row.iter().zip(prototype).zip(&mean).map(|((t, p), m)| t + strength * (p - m)).collect();
        // A sum without a direction leaves the text embedding.
        if normalize(&mut sum) {
            row.iter_mut().zip(sum).for_each(|(value, new)| *value = new);
        }
    }
    matrix
}

/// Leaves one example of every label out at a time, and scores it by labels that are adapted to the others.
fn outcome(texts: ArrayView2<'_, f32>, examples: &[Vec<Vec<f32>>], strength: f32, scoring: &Scoring) -> Outcome {
    let rounds = examples.iter().map(Vec::len).max().unwrap_or(0);
    let mut outcome = Outcome { right: 0, surprise: 0.0, count: 0 };
    for round in 0..rounds {
        let rest: Vec<Vec<&[f32]>> = examples
            .iter()
            .map(|own| own.iter().enumerate().filter(|(index, _)| *index != round).map(|(_, e)| e.as_slice()).collect())
            .collect();
        let labels = moved(texts, &rest, strength);
        for (label, own) in examples.iter().enumerate() {
            let Some(example) = own.get(round) else { continue };
            let image = ArrayView2::from_shape((1, example.len()), example).expect("one row");
            let logits = scoring.logits_per_image(image, labels.view());
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            let own = logits[[0, label]];
            outcome.surprise += sum.ln() - f64::from(own - largest);
            // Of equal scores the first label counts.
            let first = logits.iter().position(|logit| *logit == largest);
            outcome.right += usize::from(first == Some(label));
            outcome.count += 1;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::score::ScoringKind;

    const SCORING: Scoring = Scoring { logit_scale: 2.0, logit_bias: None, kind: ScoringKind::Softmax };

    /// A direction near `of`, by a little arithmetic that is as good as chance.
    fn near(of: &[f32], seed: u64, spread: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        };
        let mut values: Vec<f32> = of.iter().map(|value| value + spread * draw()).collect();
        normalize(&mut values);
        values
    }

    #[test]
    fn a_label_moves_towards_its_images_and_away_from_what_all_share() {
        let texts = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]];
        let (one, two) = ([0.6, 0.0, 0.8], [0.0, 0.6, 0.8]);
        let found = moved(texts.view(), &[vec![&one[..]], vec![&two[..], &two[..]], Vec::new()], 0.5);
        // The mean of both prototypes is (0.3, 0.3, 0.8).
        let mut first = vec![1.0 + 0.15, -0.15, 0.0];
        normalize(&mut first);
        let mut second = vec![-0.15, 1.0 + 0.15, 0.0];
        normalize(&mut second);
        for (row, expected) in found.outer_iter().zip([first, second, vec![0.6, 0.8, 0.0]]) {
            assert!(row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row} for {expected:?}");
        }
        assert_eq!(moved(texts.view(), &[vec![&one[..]], vec![&two[..]], Vec::new()], 0.0), texts);
    }

    /// Texts that say little about the images, and examples that say much.
    #[test]
    fn good_examples_help() {
        let centers = Array2::<f32>::eye(8);
        let texts = Array2::from_shape_vec(
            (8, 8),
            (0..8).flat_map(|label| near(&centers.row(label).to_vec(), label as u64 + 1, 3.0)).collect(),
        )
        .expect("eight rows");
        let examples: Vec<Vec<Vec<f32>>> = (0..8)
            .map(|label| (0..5).map(|n| near(&centers.row(label).to_vec(), 100 + label as u64 * 10 + n, 1.0)).collect())
            .collect();
        let found = adapt(texts.view(), &examples, &SCORING);
        assert!(found.strength > 0.0 && found.after > found.before, "{found:?}");
        let unseen = |matrix: &Array2<f32>| {
            let right = (0..8).flat_map(|label| (0..50).map(move |n| (label, n))).filter(|(label, n)| {
                let image = near(&centers.row(*label).to_vec(), 10_000 + *label as u64 * 100 + n, 1.0);
                let scores = matrix.dot(&ndarray::ArrayView1::from(&image));
                let best = (0..8).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
                best == Some(*label)
            });
            right.count()
        };
        assert!(unseen(&found.matrix) > unseen(&texts), "{} and {}", unseen(&found.matrix), unseen(&texts));
    }

    #[test]
    fn examples_that_do_not_help_change_nothing() {
        let texts = Array2::<f32>::eye(6);
        let right: Vec<Vec<f32>> = (0..6).map(|label| texts.row(label).to_vec()).collect();
        let check = |what: &str, examples: &[Vec<Vec<f32>>]| {
            let found = adapt(texts.view(), examples, &SCORING);
            assert_eq!((found.strength, &found.matrix), (0.0, &texts), "{what}");
            assert_eq!(found.before, found.after, "{what}");
        };
        check("no examples", &<[Vec<Vec<f32>>; 6]>::default());
        check("one each", &right.iter().map(|row| vec![row.clone()]).collect::<Vec<_>>());
        let mut only = <[Vec<Vec<f32>>; 6]>::default();
        only[2] = vec![right[2].clone(); 5];
        check("one label", &only);
        // Half of each label's images are those of the next one.
        let wrong: Vec<Vec<Vec<f32>>> =
            (0..6).map(|label| vec![right[label].clone(), right[(label + 1) % 6].clone()]).collect();
        check("wrong images", &wrong);
    }
}
