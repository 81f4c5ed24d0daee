//! Ranks of the right answers among candidates ordered by score.

use ndarray::ArrayView1;
use serde::Serialize;

/// The answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The candidate with the highest score.
    pub best: usize,
    /// Rank of the first right candidate, from 1; equal scores keep their order.
    pub rank: usize,
}

impl Answer {
    /// Orders candidates by `scores`, highest first, and finds the first right one; `None` if there is none.
    pub fn of(scores: ArrayView1<'_, f32>, is_right: impl Fn(usize) -> bool) -> Option<Self> {
        let best_of = |candidates: &mut dyn Iterator<Item = (usize, &f32)>| {
            candidates.fold(None, |best: Option<(usize, f32)>, (candidate, score)| match best {
                Some((_, highest)) if *score <= highest => best,
                _ => Some((candidate, *score)),
            })
        };
        let (best, _) = best_of(&mut scores.iter().enumerate())?;
        let (right, highest) = best_of(&mut scores.iter().enumerate().filter(|(candidate, _)| is_right(*candidate)))?;
        let before =
            |(candidate, score): &(usize, &f32)| **score > highest || (**score == highest && *candidate < right);
        Some(Self { best, rank: 1 + scores.iter().enumerate().filter(before).count() })
    }

    /// Returns whether the candidate with the highest score is right.
    pub fn is_right(&self) -> bool {
        self.rank == 1
    }
}

/// Share of answers whose rank is at most `rank_max`; 0 without answers.
pub(super) fn share_within(answers: &[Answer], rank_max: usize) -> f64 {
    share(answers.iter().filter(|answer| answer.rank <= rank_max).count(), answers.len())
}

/// `part / whole`; 0 if `whole` is 0.
pub(crate) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_right_candidates() {
        let check = |scores: &[f32], right: &[usize], expected: Option<(usize, usize)>| {
            let found = Answer::of(ArrayView1::from(scores), |candidate| right.contains(&candidate));
            assert_eq!(found.map(|answer| (answer.best, answer.rank)), expected, "{scores:?}, right: {right:?}");
        };
        check(&[], &[0], None);
        check(&[0.5], &[], None);
        check(&[0.5], &[0], Some((0, 1)));
        check(&[0.1, 0.9, 0.5], &[0], Some((1, 3)));
        check(&[0.1, 0.9, 0.5], &[2], Some((1, 2)));
        check(&[0.1, 0.9, 0.5], &[0, 2], Some((1, 2)));
        check(&[0.1, 0.9, 0.5], &[2, 1], Some((1, 1)));
        // Equal scores keep their order.
        check(&[0.5, 0.5, 0.5], &[2], Some((0, 3)));
        check(&[0.5, 0.5, 0.5], &[1, 2], Some((0, 2)));
        check(&[-1.0, -2.0], &[1], Some((0, 2)));
    }

    #[test]
    fn shares() {
        let answers: Vec<_> = [1, 2, 5, 6].map(|rank| Answer { best: 0, rank }).into();
        assert_eq!([1, 2, 4, 5, 6].map(|rank_max| share_within(&answers, rank_max)), [0.25, 0.5, 0.5, 0.75, 1.0]);
        assert_eq!(share_within(&[], 1), 0.0);
    }
}
