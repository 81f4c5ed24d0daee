//! Retrieval: which picture a caption is of, and which captions a picture has.

use ndarray::{ArrayView2, s};
use serde::Serialize;

use super::ranking::{Answer, share_within};

/// Queries whose cosines are in memory at the same time; large enough for the matrix product to be fast.
const ROWS: usize = 256;

/// What retrieval in both directions gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// Each caption among all pictures.
    pub text_to_image: Recall,
    /// Each picture that has captions, among all captions: the first of its own counts.
    pub image_to_text: Recall,
}

/// How early the right ones come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recall {
    /// How many questions were asked.
    pub queries: usize,
    /// Among how many candidates.
    pub candidates: usize,
    /// Share of questions whose first candidate is right, 0 to 1.
    pub at_1: f64,
    /// Share with a right one among the first five.
    pub at_5: f64,
    /// Share with a right one among the first ten.
    pub at_10: f64,
    /// Median place of the first right one, from 1; between two places, their mean.
    pub median_rank: f64,
}

impl Retrieval {
    /// Of normalised embeddings of pictures [images, P] and captions [texts, P]; `pictures[caption]` is the row of its
    /// picture. Gives the captions' answers too.
    pub fn of(images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>, pictures: &[usize]) -> (Self, Vec<Answer>) {
        let by_text = answers(texts, images, |caption, picture| pictures[caption] == picture);
        let by_image = answers(images, texts, |picture, caption| pictures[caption] == picture);
        let retrieval = Self {
            text_to_image: Recall::of(&by_text, images.nrows()),
            image_to_text: Recall::of(&by_image, texts.nrows()),
        };
        (retrieval, by_text)
    }
}

impl Recall {
    /// Of answers that were found among `candidates`.
    pub fn of(answers: &[Answer], candidates: usize) -> Self {
        let mut ranks: Vec<usize> = answers.iter().map(|answer| answer.rank).collect();
        ranks.sort_unstable();
        let middle = ranks.len() / 2;
        let median_rank = match ranks.len() {
            0 => 0.0,
            count if count % 2 == 1 => ranks[middle] as f64,
            _ => (ranks[middle - 1] + ranks[middle]) as f64 / 2.0,
        };
        Self {
            queries: answers.len(),
            candidates,
            at_1: share_within(answers, 1),
            at_5: share_within(answers, 5),
            at_10: share_within(answers, 10),
            median_rank,
        }
    }
}

/// Each query that has a right candidate, among all candidates by cosine.
fn answers(
    queries: ArrayView2<'_, f32>,
    candidates: ArrayView2<'_, f32>,
    is_right: impl Fn(usize, usize) -> bool,
) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(queries.nrows());
    for first in (0..queries.nrows()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(queries.nrows());
        let cosines = queries.slice(s![rows.clone(), ..]).dot(&candidates.t());
        for (query, cosines) in rows.zip(cosines.rows()) {
            answers.extend(Answer::of(cosines, |candidate| is_right(query, candidate)));
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn ranks_by_hand() {
        // Pictures are the axes, so that a caption's cosines are its coordinates.
        let images = Array2::eye(3);
        let texts = array![
            [0.9, 0.1, 0.0], // of picture 0: first
            [0.2, 0.5, 0.8], // of picture 0: third
            [0.0, 0.3, 0.7], // of picture 1: second
        ];
        let (found, answers) = Retrieval::of(images.view(), texts.view(), &[0, 0, 1]);
        assert_eq!(answers.iter().map(|a| (a.best, a.rank)).collect::<Vec<_>>(), [(0, 1), (2, 3), (2, 2)]);
        let Recall { queries, candidates, at_1, at_5, at_10, median_rank } = found.text_to_image;
        assert_eq!((queries, candidates, at_1, at_5, at_10, median_rank), (3, 3, 1.0 / 3.0, 1.0, 1.0, 2.0));
        // Picture 0 finds caption 0 first, picture 1 its caption second after 0.5, picture 2 has none.
        let Recall { queries, candidates, at_1, at_5, median_rank, .. } = found.image_to_text;
        assert_eq!((queries, candidates, at_1, at_5, median_rank), (2, 3, 0.5, 1.0, 1.5));
    }

    #[test]
    fn recalls_of_ranks() {
        let check = |ranks: &[usize], expected: [f64; 4]| {
            let answers: Vec<_> = ranks.iter().map(|rank| Answer { best: 0, rank: *rank }).collect();
            let Recall { at_1, at_5, at_10, median_rank, .. } = Recall::of(&answers, 100);
            assert_eq!([at_1, at_5, at_10, median_rank], expected, "{ranks:?}");
        };
        check(&[], [0.0, 0.0, 0.0, 0.0]);
        check(&[1], [1.0, 1.0, 1.0, 1.0]);
        check(&[11, 1, 5, 10], [0.25, 0.5, 0.75, 7.5]);
        check(&[100, 6, 2], [0.0, 1.0 / 3.0, 2.0 / 3.0, 6.0]);
    }
}
