//! Softmax probabilities where not all labels compete with each other.

use super::Score;
use crate::embedding::Competition;

/// The terms of a softmax that were added so far: the sum of `exp(logit - best)`.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    best: f32,
    sum: f32,
}

impl Softmax {
    fn of(scores: &[Score]) -> Self {
        let best = scores.iter().map(|score| score.logit).fold(f32::NEG_INFINITY, f32::max);
        Self { best, sum: scores.iter().map(|score| (score.logit - best).exp()).sum() }
    }

    /// The terms of both.
    fn with(self, other: Self) -> Self {
        let best = self.best.max(other.best);
        // Nothing is added for an empty one, whose best minus another is NaN or minus infinity.
        let scaled = |part: Self| if part.sum > 0.0 { part.sum * (part.best - best).exp() } else { 0.0 };
        Self { best, sum: scaled(self) + scaled(other) }
    }

    /// The share of a term that was added.
    fn share(self, logit: f32) -> f32 {
        (logit - self.best).exp() / self.sum
    }
}

/// Sets the probabilities of the labels among `scores`, which are in the order of the set's rows. Logits must be finite.
pub(super) fn fill(scores: &mut [Score], competition: &Competition) {
    for question in competition.questions() {
        let labels = question.labels.clone();
        // Opposites are in the order of the labels, so those of a question lie together.
        let opposites = match labels.clone().last() {
            Some(last) => competition.opposites(labels.start).start..competition.opposites(last).end,
            None => 0..0,
        };
        let all = Softmax::of(&scores[labels.clone()]).with(Softmax::of(&scores[opposites]));
        scores[labels].iter_mut().for_each(|score| score.probability = all.share(score.logit));
    }
    let lone = competition.lone();
    let (background, among_lone) = (Softmax::of(&scores[competition.background()]), Softmax::of(&scores[lone.clone()]));
    for label in lone {
        let own = &scores[competition.opposites(label)];
        let all = if own.is_empty() && background.sum == 0.0 {
            among_lone
        } else {
            let itself = Softmax { best: scores[label].logit, sum: 1.0 };
            itself.with(Softmax::of(own)).with(background)
        };
        scores[label].probability = all.share(scores[label].logit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probabilities of the labels with these logits of all rows.
    fn probabilities(logits: &[f32], competition: &Competition) -> Vec<f32> {
        let score = |(label, &logit): (usize, &f32)| Score { label, cosine: 0.0, logit, probability: 0.0 };
        let mut scores: Vec<Score> = logits.iter().enumerate().map(score).collect();
        fill(&mut scores, competition);
        scores[..competition.labels()].iter().map(|score| score.probability).collect()
    }

    /// The share of `logit` among `others` and itself.
    fn share(logit: f32, others: &[f32]) -> f32 {
        1.0 / (1.0 + others.iter().map(|other| (other - logit).exp()).sum::<f32>())
    }

    #[test]
    fn labels_compete_with_what_they_are_judged_against() {
        let question = |labels| vec![("door".to_owned(), labels)];
        for (what, competition, logits, expected) in [
            (
                "a question beside labels",
                Competition::new(2, question(2), &[0; 4], 0),
                &[1.0, 3.0, 2.0, 2.5][..],
                vec![share(1.0, &[3.0]), share(3.0, &[1.0]), share(2.0, &[2.5]), share(2.5, &[2.0])],
            ),
            (
                "opposites in a question",
                Competition::new(0, question(2), &[1, 2], 0),
                &[1.0, 2.0, 0.0, 3.0, 0.5],
                vec![share(1.0, &[2.0, 0.0, 3.0, 0.5]), share(2.0, &[1.0, 0.0, 3.0, 0.5])],
            ),
            (
                "opposites and none",
                Competition::new(2, vec![], &[1, 0], 0),
                &[1.0, 2.0, 3.0],
                vec![share(1.0, &[3.0]), share(2.0, &[1.0])],
            ),
            (
                "opposites and background; not for the question",
                Competition::new(2, question(2), &[1, 0, 0, 0], 2),
                &[1.0, 2.0, 4.0, 5.0, 3.0, 0.5, -1.0],
                vec![share(1.0, &[3.0, 0.5, -1.0]), share(2.0, &[0.5, -1.0]), share(4.0, &[5.0]), share(5.0, &[4.0])],
            ),
            ("one alone", Competition::new(1, question(2), &[0; 3], 0), &[1.0, 0.0, 0.0], vec![1.0, 0.5, 0.5]),
        ] {
            let found = probabilities(logits, &competition);
            assert_eq!(found.len(), expected.len(), "{what}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6, "{what}: {found} and {expected}");
            }
        }
    }

    #[test]
    fn extreme_logits_give_probabilities() {
        let competition = Competition::new(2, vec![("door".to_owned(), 2)], &[1, 0, 0, 1], 1);
        for logit in [0.0, 1e38, -1e38, 88.0] {
            let found = probabilities(&[logit, -logit, logit, -logit, 1.0, -logit, logit], &competition);
            assert!(found.iter().all(|probability| (0.0..=1.0).contains(probability)), "{logit}: {found:?}");
        }
    }
}
