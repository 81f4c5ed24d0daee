//! Retrieval: ranks images for each caption and captions for each image.

use ndarray::{ArrayView2, s};
use serde::Serialize;

use super::ranking::{Answer, share_within};

/// Queries per block: their cosines are in memory together, and the matrix product is large enough to be fast.
const ROWS: usize = 256;

/// Results of retrieval in both directions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// Each caption against all images.
    pub text_to_image: Recall,
    /// Each image with captions against all captions; its best-ranked caption counts.
    pub image_to_text: Recall,
}

/// Recall of one direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recall {
    /// Number of queries.
    pub queries: usize,
    /// Number of candidates.
    pub candidates: usize,
    /// Share of queries with a right candidate at rank 1, 0 to 1.
    pub at_1: f64,
    /// Share of queries with a right candidate among the first five.
    pub at_5: f64,
    /// Share of queries with a right candidate among the first ten.
    pub at_10: f64,
    /// Median rank of the first right candidate, from 1; for an even number of queries, the mean of the two middle
    /// ranks.
    pub median_rank: f64,
}

impl Retrieval {
    /// Computes the results from normalised embeddings of images [images, P] and captions [texts, P];
    /// `image_of[caption]` is the row of its image. Also returns the captions' answers.
    pub fn of(images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>, image_of: &[usize]) -> (Self, Vec<Answer>) {
        let by_text = answers(texts, images, |caption, image| image_of[caption] == image);
        let by_image = answers(images, texts, |image, caption| image_of[caption] == image);
        let retrieval = Self {
            text_to_image: Recall::of(&by_text, images.nrows()),
            image_to_text: Recall::of(&by_image, texts.nrows()),
        };
        (retrieval, by_text)
    }
}

impl Recall {
    /// Computes recall from answers among `candidates` candidates.
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

/// Ranks all candidates by cosine for each query that has a right candidate.
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
        // Images are the axes, so a caption's cosines are its coordinates.
        let images = Array2::eye(3);
        let texts = array![
            [0.9, 0.1, 0.0], // of image 0: rank 1
            [0.2, 0.5, 0.8], // of image 0: rank 3
            [0.0, 0.3, 0.7], // of image 1: rank 2
        ];
        let (found, answers) = Retrieval::of(images.view(), texts.view(), &[0, 0, 1]);
        assert_eq!(answers.iter().map(|a| (a.best, a.rank)).collect::<Vec<_>>(), [(0, 1), (2, 3), (2, 2)]);
        let Recall { queries, candidates, at_1, at_5, at_10, median_rank } = found.text_to_image;
        assert_eq!((queries, candidates, at_1, at_5, at_10, median_rank), (3, 3, 1.0 / 3.0, 1.0, 1.0, 2.0));
        // Image 0 finds caption 0 at rank 1, image 1 its caption at rank 2, and image 2 has no captions.
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
