//! Example pictures of labels, blended with the embeddings of their sentences.
//!
//! Embeddings of images and of texts lie in two separate cones: the cosine of two images is far above that of an image and
//! its caption, so a mean of both kinds would beat every label without pictures. What examples add is therefore a
//! difference between images: from the mean of what the label is told apart from to the mean of its examples. For the
//! sentences' embedding `t`, means `m` (examples) and `c` (contrast), and a strength `s`, the label becomes
//!
//! ```text
//! e = t + s ((m - c) - b g),   b = (m - c) (m + c) / 2 / k
//! ```
//!
//! where `g` is the direction that all these pictures have in common and `k` their mean cosine with it. The last term lets an
//! image half-way between both means keep the cosine that it has with the sentences alone; so `e` is not normalised again.
//!
//! The strength is chosen by leaving one picture out at a time: a picture is compared with means that it is no part of. A
//! strength of 0 ignores the pictures. [`blend`] chooses it for one label, which is told apart from any pictures that do not
//! show it; [`blend_set`] for all labels of a set together, which compete and are told apart from each other.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::normalize;

/// The strength where there are too few pictures to leave one out.
const STRENGTH_FEW: f32 = 0.5;

/// The strengths that are tried. From 2 on the pictures weigh more than any sentence.
const STRENGTHS: [f32; 14] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0];

/// A smaller strength is taken for one label if its loss is at most this much above the smallest, in nats: a difference that
/// a few dozen pictures cannot prove.
const LOSS_TOLERANCE: f64 = 0.02;

/// Smallest mean cosine of pictures with their common direction that is divided by; pictures of one model are far above.
const COMMON_MIN: f32 = 0.1;

/// A label's embedding, blended with its examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// As many values as the sentences' embedding.
    pub embedding: Vec<f32>,
    /// Weight of the pictures, 0 to 4; 0 where there is nothing to tell the examples apart from.
    pub strength: f32,
    /// How well examples are told from the contrast; `None` with fewer than two pictures of either.
    pub agreement: Option<Agreement>,
}

/// Shares of all pairs of an example and a contrast picture in which the example has the larger cosine, 0 to 1; 0.5 is chance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// By the sentences alone.
    pub sentences: f32,
    /// By the blend, with each picture left out of its mean.
    pub blend: f32,
}

/// The embeddings of a set of labels, blended with their examples.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendedSet {
    /// Embeddings [labels, projection_dim]. Labels without examples keep the embedding of their sentences.
    pub matrix: Array2<f32>,
    /// Weight of the pictures of all labels, 0 to 4; 0 if examples do not help.
    pub strength: f32,
    /// Share of the examples whose label has the highest score by the sentences alone, 0 to 1.
    pub before: f64,
    /// The same by the blends, with each picture left out of its mean.
    pub after: f64,
}

/// Blends the embedding `text` of a label's sentences with those of example pictures. `contrast` are pictures that do not show
/// the label; without any, examples say nothing. `factor` is the factor on cosines of the bundle's scoring.
///
/// # Panics
/// If the embeddings have different lengths.
pub fn blend(text: &[f32], examples: &[Vec<f32>], contrast: &[Vec<f32>], factor: f32) -> Blend {
    let same_length = |picture: &Vec<f32>| picture.len() == text.len();
    assert!(examples.iter().chain(contrast).all(same_length), "embeddings of one bundle");
    if examples.is_empty() || contrast.is_empty() {
        return Blend { embedding: text.to_vec(), strength: 0.0, agreement: None };
    }
    let (shown, other) = (Side::new(text, examples, contrast), Side::new(text, contrast, examples));
    let (strength, agreement) = if examples.len() < 2 || contrast.len() < 2 {
        (STRENGTH_FEW, None)
    } else {
        let strength = best_strength(&shown, &other, factor);
        (strength, Some(Agreement { sentences: ranked(&shown, &other, 0.0), blend: ranked(&shown, &other, strength) }))
    };
    let direction = direction(&mean(examples), &mean(contrast));
    let embedding = text.iter().zip(direction).map(|(t, d)| t + strength * d).collect();
    Blend { embedding, strength, agreement }
}

/// Blends the embeddings `texts` [labels, projection_dim] of the sentences of labels that compete with those of each label's
/// example pictures. A label is told apart from the examples of all others, where each label counts the same. `factor` is the
/// factor on cosines of the bundle's scoring.
///
/// All labels get the same strength: the one with which examples that are left out are most probable, if no fewer of them have
/// the highest score than by the sentences alone. One example of every label is left out at a time. That says nothing about
/// labels with a single example, so unless two labels have two examples or more, the strength is 0.
///
/// # Panics
/// If there is not one list of examples per label, or the embeddings have different lengths.
pub fn blend_set(texts: ArrayView2<'_, f32>, examples: &[Vec<Vec<f32>>], factor: f32) -> BlendedSet {
    assert_eq!(texts.nrows(), examples.len(), "one list of examples per label");
    assert!(examples.iter().flatten().all(|example| example.len() == texts.ncols()), "embeddings of one bundle");
    let found = left_out(texts, examples, factor);
    let before = found[0];
    let mut best = (0.0, before);
    if examples.iter().filter(|own| own.len() >= 2).count() >= 2 {
        for (strength, outcome) in STRENGTHS.into_iter().zip(found) {
            if outcome.loss < best.1.loss && outcome.right >= before.right {
                best = (strength, outcome);
            }
        }
    }
    let (strength, after) = best;
    let all: Vec<Vec<&[f32]>> = examples.iter().map(|own| own.iter().map(Vec::as_slice).collect()).collect();
    let matrix = texts.to_owned() + directions(&all, texts.ncols()) * strength;
    BlendedSet { matrix, strength, before: before.share(), after: after.share() }
}

/// What is added to the sentences' embedding at strength 1.
fn direction(shown: &[f32], other: &[f32]) -> Vec<f32> {
    let middle: Vec<f32> = shown.iter().zip(other).map(|(m, c)| (m + c) / 2.0).collect();
    let mut difference: Vec<f32> = shown.iter().zip(other).map(|(m, c)| m - c).collect();
    let mut common = middle.clone();
    if normalize(&mut common) {
        let share = dot(&difference, &middle) / dot(&middle, &common).max(COMMON_MIN);
        difference.iter_mut().zip(&common).for_each(|(d, g)| *d -= share * g);
    }
    difference
}

/// What is added to each label of a set at strength 1 [labels, projection_dim]: nothing to labels without examples, nor if no
/// other label has any.
fn directions(examples: &[Vec<&[f32]>], width: usize) -> Array2<f32> {
    let means: Vec<Vec<f32>> = examples.iter().map(|own| mean(own)).collect();
    let mut directions = Array2::zeros((examples.len(), width));
    let others = means.iter().filter(|mean| !mean.is_empty()).count().saturating_sub(1);
    if others == 0 {
        return directions;
    }
    let mut sum = vec![0.0; width];
    means.iter().for_each(|mean| sum.iter_mut().zip(mean).for_each(|(sum, value)| *sum += value));
    for (mut row, own) in directions.outer_iter_mut().zip(&means) {
        if !own.is_empty() {
            let rest: Vec<f32> = sum.iter().zip(own).map(|(sum, value)| (sum - value) / others as f32).collect();
            row.iter_mut().zip(direction(own, &rest)).for_each(|(value, new)| *value = new);
        }
    }
    directions
}

/// The pictures of one side, each with its cosine with the sentences and how much closer it is to the examples than to the
/// contrast.
struct Side(Vec<(f32, f32)>);

impl Side {
    /// Differences are to the mean of `own`, without the picture itself, less to the mean of `other`.
    fn new(text: &[f32], own: &[Vec<f32>], other: &[Vec<f32>]) -> Self {
        let (own_mean, other_mean) = (mean(own), mean(other));
        let count = own.len() as f32;
        let closer = |picture: &Vec<f32>| {
            let all = dot(&own_mean, picture);
            let left_out = if own.len() < 2 { all } else { (all * count - dot(picture, picture)) / (count - 1.0) };
            left_out - dot(&other_mean, picture)
        };
        Self(own.iter().map(|picture| (dot(text, picture), closer(picture))).collect())
    }
}

/// The smallest strength whose loss is near the smallest: the mean over all pairs of `log(1 + exp(-(difference of logits)))`.
fn best_strength(shown: &Side, other: &Side, factor: f32) -> f32 {
    let losses = STRENGTHS.map(|strength| {
        let pairs = pairs(shown, other, strength);
        let loss = |difference: f32| (-f64::from(difference * factor)).exp().ln_1p();
        pairs.map(loss).sum::<f64>() / (shown.0.len() * other.0.len()) as f64
    });
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let near = STRENGTHS.iter().zip(losses).find(|(_, loss)| *loss <= best + LOSS_TOLERANCE);
    near.map_or(STRENGTH_FEW, |(strength, _)| *strength)
}

/// The share of pairs that are ranked rightly; equal ones count half.
fn ranked(shown: &Side, other: &Side, strength: f32) -> f32 {
    let right = pairs(shown, other, strength).map(|difference| match difference.total_cmp(&0.0) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    });
    right.sum::<f32>() / (shown.0.len() * other.0.len()) as f32
}

/// For each pair, by how much the cosine of the example exceeds that of the contrast picture.
fn pairs(shown: &Side, other: &Side, strength: f32) -> impl Iterator<Item = f32> {
    shown.0.iter().flat_map(move |(a_text, a_closer)| {
        // A contrast picture is closer to the contrast, so its term is subtracted from its cosine.
        other.0.iter().map(move |(b_text, b_closer)| (a_text + strength * a_closer) - (b_text - strength * b_closer))
    })
}

/// What left-out examples of a set say about a strength.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// Examples whose label has the highest score.
    right: usize,
    /// Sum of the negative logarithms of the probabilities of the right labels.
    loss: f64,
    /// Number of examples.
    count: usize,
}

impl Outcome {
    /// Counts an example of `label` with these logits.
    fn add(&mut self, logits: &[f32], label: usize) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        self.loss += sum.ln() - f64::from(logits[label] - largest);
        // Of equal logits the first label counts.
        self.right += usize::from(logits.iter().position(|logit| *logit == largest) == Some(label));
        self.count += 1;
    }

    fn share(&self) -> f64 {
        self.right as f64 / self.count.max(1) as f64
    }
}

/// Leaves one example of every label out at a time, and scores it by labels that are blended with the others at each strength.
fn left_out(texts: ArrayView2<'_, f32>, examples: &[Vec<Vec<f32>>], factor: f32) -> [Outcome; STRENGTHS.len()] {
    let mut outcomes = [Outcome::default(); STRENGTHS.len()];
    let mut logits = vec![0.0; texts.nrows()];
    for round in 0..examples.iter().map(Vec::len).max().unwrap_or(0) {
        let rest: Vec<Vec<&[f32]>> = examples
            .iter()
            .map(|own| own.iter().enumerate().filter(|(index, _)| *index != round).map(|(_, e)| e.as_slice()).collect())
            .collect();
        let directions = directions(&rest, texts.ncols());
        for (label, own) in examples.iter().enumerate() {
            let Some(example) = own.get(round) else { continue };
            let image = ArrayView1::from(example.as_slice());
            let (cosines, changes) = (texts.dot(&image), directions.dot(&image));
            for (outcome, strength) in outcomes.iter_mut().zip(STRENGTHS) {
                for (logit, (cosine, change)) in logits.iter_mut().zip(cosines.iter().zip(&changes)) {
                    *logit = factor * (cosine + strength * change);
                }
                outcome.add(&logits, label);
            }
        }
    }
    outcomes
}

/// The mean of pictures; empty without any.
fn mean<P: AsRef<[f32]>>(pictures: &[P]) -> Vec<f32> {
    let mut mean = vec![0.0; pictures.first().map_or(0, |picture| picture.as_ref().len())];
    for picture in pictures {
        mean.iter_mut().zip(picture.as_ref()).for_each(|(m, p)| *m += p / pictures.len() as f32);
    }
    mean
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests;
