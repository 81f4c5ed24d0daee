//! Zero-shot classification: each image against the names of all classes.

use ndarray::{ArrayView2, Axis, s};
use serde::Serialize;
use spotter_engine::score::{Scoring, ScoringKind};

use super::calibration::Calibration;
use super::ranking::{Answer, share, share_within};
use super::set::Class;

/// Images per block: their logits are in memory together, and the matrix product is large enough to be fast.
const ROWS: usize = 256;

/// Number of most confused pairs that are listed.
const CONFUSIONS_MAX: usize = 20;

/// Results of zero-shot classification. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classification {
    /// Number of images that were classified.
    pub pictures: usize,
    /// Share of images whose top-1 label is right.
    pub top_1: f64,
    /// Share of images whose right label is among the top five; `None` with five classes or fewer.
    pub top_5: Option<f64>,
    /// Mean of the per-class accuracies, over the classes with images.
    pub mean_per_class: f64,
    /// Expected accuracy of guessing.
    pub chance: f64,
    /// How logits become probabilities.
    pub scoring: ScoringKind,
    /// Accuracy of each class, in the set's order.
    pub classes: Vec<ClassAccuracy>,
    /// The confusion matrix: `confusion[truth][answer]` counts images, in the order of `classes`.
    pub confusion: Vec<Vec<usize>>,
    /// The most frequent confusions, most frequent first.
    pub most_confused: Vec<Confusion>,
    /// Classes in an order in which similar embeddings of their names are adjacent, for plotting.
    pub order: Vec<usize>,
    /// Calibration of the probabilities.
    pub calibration: Calibration,
}

/// Accuracy of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Name of the class.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Number of its images.
    pub pictures: usize,
    /// Number of its images with the right top-1 label.
    pub right: usize,
    /// `right / pictures`; `None` without images.
    pub accuracy: Option<f64>,
}

/// Images of one class with another class as top-1 label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Name of the true class.
    pub truth: String,
    /// Name of the predicted class.
    pub answer: String,
    /// Number of such images.
    pub count: usize,
    /// Number of images of the true class.
    pub of: usize,
}

impl Classification {
    /// Classifies `images` [images, P] by `labels` [classes, P], both normalised; `truths` are the classes of the
    /// images. Also returns the answers, in the order of images.
    ///
    /// # Panics
    /// If the numbers of labels and classes, or of truths and images, differ.
    pub fn of(
        scoring: &Scoring,
        images: ArrayView2<'_, f32>,
        labels: ArrayView2<'_, f32>,
        classes: &[Class],
        truths: &[usize],
    ) -> (Self, Vec<Answer>) {
        assert_eq!((images.nrows(), labels.nrows()), (truths.len(), classes.len()), "images and classes");
        let mut answers = Vec::with_capacity(truths.len());
        let mut probable = Vec::with_capacity(truths.len());
        let mut confusion = vec![vec![0; classes.len()]; classes.len()];
        for first in (0..truths.len()).step_by(ROWS) {
            let rows = first..(first + ROWS).min(truths.len());
            let logits = scoring.logits_per_image(images.slice(s![rows.clone(), ..]), labels);
            let probabilities = scoring.probabilities(logits.view());
            for ((logits, probabilities), truth) in
                logits.rows().into_iter().zip(probabilities.rows()).zip(&truths[rows])
            {
                let Some(answer) = Answer::of(logits, |class| class == *truth) else { continue };
                probable.push((probabilities[answer.best], answer.is_right()));
                confusion[*truth][answer.best] += 1;
                answers.push(answer);
            }
        }
        let per_class: Vec<ClassAccuracy> = classes.iter().zip(&confusion).enumerate().map(accuracy).collect();
        let accuracies: Vec<f64> = per_class.iter().filter_map(|class| class.accuracy).collect();
        let classification = Self {
            pictures: answers.len(),
            top_1: share_within(&answers, 1),
            top_5: (classes.len() > 5).then(|| share_within(&answers, 5)),
            mean_per_class: accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64,
            chance: share(1, classes.len()),
            scoring: scoring.kind,
            most_confused: most_confused(&per_class, &confusion),
            classes: per_class,
            confusion,
            order: order_by_similarity(labels),
            calibration: Calibration::of(probable),
        };
        (classification, answers)
    }
}

fn accuracy((index, (class, row)): (usize, (&Class, &Vec<usize>))) -> ClassAccuracy {
    let (pictures, right) = (row.iter().sum(), row[index]);
    ClassAccuracy {
        name: class.name.clone(),
        folder: class.folder.clone(),
        pictures,
        right,
        accuracy: (pictures > 0).then(|| share(right, pictures)),
    }
}

fn most_confused(classes: &[ClassAccuracy], confusion: &[Vec<usize>]) -> Vec<Confusion> {
    let mut pairs = Vec::new();
    for (truth, row) in confusion.iter().enumerate() {
        let wrong = row.iter().enumerate().filter(|(answer, count)| *answer != truth && **count > 0);
        pairs.extend(wrong.map(|(answer, count)| (truth, answer, *count)));
    }
    // A stable sort: equal counts keep the set's order.
    pairs.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    pairs.truncate(CONFUSIONS_MAX);
    let named = |(truth, answer, count): (usize, usize, usize)| Confusion {
        truth: classes[truth].name.clone(),
        answer: classes[answer].name.clone(),
        count,
        of: classes[truth].pictures,
    };
    pairs.into_iter().map(named).collect()
}

/// Orders the rows of `labels` greedily by similarity: each is followed by the most similar of the remaining ones.
///
/// The first row is the one least similar to all others, since no other row leads to it.
fn order_by_similarity(labels: ArrayView2<'_, f32>) -> Vec<usize> {
    let cosines = labels.dot(&labels.t());
    let similarity = cosines.sum_axis(Axis(1));
    let by = |values: ndarray::ArrayView1<'_, f32>, left: &[usize]| {
        (0..left.len()).max_by(|a, b| values[left[*a]].total_cmp(&values[left[*b]]).then(b.cmp(a)))
    };
    let mut left: Vec<usize> = (0..labels.nrows()).collect();
    let mut order = Vec::with_capacity(left.len());
    let mut next = by((-similarity).view(), &left);
    while let Some(at) = next {
        let class = left.remove(at);
        order.push(class);
        next = by(cosines.row(class), &left);
    }
    order
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    fn classes(count: usize) -> Vec<Class> {
        let class = |index| Class { folder: format!("f{index}"), name: format!("n{index}"), prompts: Vec::new() };
        (0..count).map(class).collect()
    }

    fn softmax() -> Scoring {
        Scoring { logit_scale: 0.0, logit_bias: None, kind: ScoringKind::Softmax }
    }

    #[test]
    fn a_confusion_by_hand() {
        // Labels are the axes, so an image's cosines are its coordinates.
        let labels = Array2::eye(3);
        let images = array![
            [0.9, 0.1, 0.0], // 0 predicted as 0
            [0.1, 0.9, 0.0], // 0 predicted as 1
            [0.1, 0.8, 0.0], // 0 predicted as 1
            [0.0, 0.9, 0.1], // 1 predicted as 1
            [0.2, 0.1, 0.9], // 1 predicted as 2
        ];
        let (found, answers) =
            Classification::of(&softmax(), images.view(), labels.view(), &classes(3), &[0, 0, 0, 1, 1]);
        assert_eq!(found.confusion, [[1, 2, 0], [0, 1, 1], [0, 0, 0]]);
        assert_eq!(
            answers.iter().map(|a| (a.best, a.rank)).collect::<Vec<_>>(),
            [(0, 1), (1, 2), (1, 2), (1, 1), (2, 3)]
        );
        assert_eq!((found.pictures, found.top_1, found.top_5), (5, 0.4, None));
        assert!((found.mean_per_class - (1.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12, "classes without images do not count");
        assert_eq!(found.classes.iter().map(|c| c.accuracy).collect::<Vec<_>>(), [Some(1.0 / 3.0), Some(0.5), None]);
        let pairs: Vec<_> = found.most_confused.iter().map(|c| (&*c.truth, &*c.answer, c.count, c.of)).collect();
        assert_eq!(pairs, [("n0", "n1", 2, 3), ("n1", "n2", 1, 2)]);
        // Probability of the first image's top-1 label: e^0.9 / (e^0.9 + e^0.1 + e^0).
        let exps = [0.9_f64, 0.1, 0.0].map(f64::exp);
        let bin = found.calibration.bins.iter().find(|bin| bin.to > exps[0] / exps.iter().sum::<f64>()).expect("a bin");
        assert!(bin.pictures > 0, "{:?}", found.calibration);
    }

    #[test]
    fn top_5_is_for_more_than_five_classes() {
        let labels = Array2::eye(6);
        // Descending scores: class i has rank i + 1 for every image.
        let images = Array2::from_shape_fn((6, 6), |(_, class)| 0.6 - 0.1 * class as f32);
        let (found, _) = Classification::of(&softmax(), images.view(), labels.view(), &classes(6), &[0, 1, 2, 3, 4, 5]);
        assert_eq!((found.top_1, found.top_5), (1.0 / 6.0, Some(5.0 / 6.0)));
    }

    #[test]
    fn similar_classes_are_adjacent() {
        let labels = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.96, 0.28, 0.0], [0.0, 0.96, 0.28], [0.0, 0.0, 1.0]];
        let order = order_by_similarity(labels.view());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        let place = |class| order.iter().position(|c| *c == class).expect("in the order");
        assert!(place(0).abs_diff(place(2)) == 1 && place(1).abs_diff(place(3)) == 1, "{order:?}");
        assert!(order_by_similarity(Array2::zeros((0, 4)).view()).is_empty());
    }
}
