//! Zero-shot classification: each picture against the names of all classes.

use ndarray::{ArrayView2, Axis, s};
use serde::Serialize;
use spotter_engine::score::{Scoring, ScoringKind};

use super::calibration::Calibration;
use super::ranking::{Answer, share, share_within};
use super::set::Class;

/// Pictures whose logits are in memory at the same time; large enough for the matrix product to be fast.
const ROWS: usize = 256;

/// The most confused pairs that are listed.
const CONFUSIONS_MAX: usize = 20;

/// What zero-shot classification of a set gave. Shares are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classification {
    /// Pictures that were classified.
    pub pictures: usize,
    /// Share of pictures whose best label is right.
    pub top_1: f64,
    /// Share of pictures whose right label is among the best five; `None` where there are no more than five classes.
    pub top_5: Option<f64>,
    /// Mean of the classes' accuracies, over the classes with pictures.
    pub mean_per_class: f64,
    /// Of what guessing would get right.
    pub chance: f64,
    /// How logits become probabilities.
    pub scoring: ScoringKind,
    /// One for each class, in the set's order.
    pub classes: Vec<ClassAccuracy>,
    /// `confusion[truth][answer]` counts pictures, in the order of `classes`.
    pub confusion: Vec<Vec<usize>>,
    /// The most frequent mistakes, most frequent first.
    pub most_confused: Vec<Confusion>,
    /// Classes in an order that puts those with similar names' embeddings side by side, for drawing.
    pub order: Vec<usize>,
    /// Whether probabilities mean what they say.
    pub calibration: Calibration,
}

/// How one class fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Name of the class.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// How many pictures of it there are.
    pub pictures: usize,
    /// How many of these were recognised.
    pub right: usize,
    /// Share of them that were recognised; `None` where there are no pictures.
    pub accuracy: Option<f64>,
}

/// Pictures of one class taken for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Name of the class that they are of.
    pub truth: String,
    /// Name of the class that they were taken for.
    pub answer: String,
    /// How many.
    pub count: usize,
    /// Pictures of the class that they are of.
    pub of: usize,
}

impl Classification {
    /// Classifies `images` [pictures, P] by `labels` [classes, P], both normalised; `truths` are the pictures' classes.
    /// Gives the answers too, in the order of pictures.
    ///
    /// # Panics
    /// If there are not as many labels as classes, or not as many truths as images.
    pub fn of(
        scoring: &Scoring,
        images: ArrayView2<'_, f32>,
        labels: ArrayView2<'_, f32>,
        classes: &[Class],
        truths: &[usize],
    ) -> (Self, Vec<Answer>) {
        assert_eq!((images.nrows(), labels.nrows()), (truths.len(), classes.len()), "pictures and classes");
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
            order: order_by_likeness(labels),
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
    // Stable, so that equal ones keep the set's order.
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

/// Rows of `labels` in an order in which each is followed by the one most like it of those that are left.
///
/// It starts at the row that is least like all others, so that the chain does not have to come back to it.
fn order_by_likeness(labels: ArrayView2<'_, f32>) -> Vec<usize> {
    let cosines = labels.dot(&labels.t());
    let likeness = cosines.sum_axis(Axis(1));
    let by = |values: ndarray::ArrayView1<'_, f32>, left: &[usize]| {
        (0..left.len()).max_by(|a, b| values[left[*a]].total_cmp(&values[left[*b]]).then(b.cmp(a)))
    };
    let mut left: Vec<usize> = (0..labels.nrows()).collect();
    let mut order = Vec::with_capacity(left.len());
    let mut next = by((-likeness).view(), &left);
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
        // Labels are the axes, so that a picture's cosines are its coordinates.
        let labels = Array2::eye(3);
        let images = array![
            [0.9, 0.1, 0.0], // 0 taken for 0
            [0.1, 0.9, 0.0], // 0 taken for 1
            [0.1, 0.8, 0.0], // 0 taken for 1
            [0.0, 0.9, 0.1], // 1 taken for 1
            [0.2, 0.1, 0.9], // 1 taken for 2
        ];
        let (found, answers) =
            Classification::of(&softmax(), images.view(), labels.view(), &classes(3), &[0, 0, 0, 1, 1]);
        assert_eq!(found.confusion, [[1, 2, 0], [0, 1, 1], [0, 0, 0]]);
        assert_eq!(
            answers.iter().map(|a| (a.best, a.rank)).collect::<Vec<_>>(),
            [(0, 1), (1, 2), (1, 2), (1, 1), (2, 3)]
        );
        assert_eq!((found.pictures, found.top_1, found.top_5), (5, 0.4, None));
        assert!(
            (found.mean_per_class - (1.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12,
            "classes without pictures do not count"
        );
        assert_eq!(found.classes.iter().map(|c| c.accuracy).collect::<Vec<_>>(), [Some(1.0 / 3.0), Some(0.5), None]);
        let pairs: Vec<_> = found.most_confused.iter().map(|c| (&*c.truth, &*c.answer, c.count, c.of)).collect();
        assert_eq!(pairs, [("n0", "n1", 2, 3), ("n1", "n2", 1, 2)]);
        // The best label's probability of the first picture: e^0.9 / (e^0.9 + e^0.1 + e^0).
        let exps = [0.9_f64, 0.1, 0.0].map(f64::exp);
        let bin = found.calibration.bins.iter().find(|bin| bin.to > exps[0] / exps.iter().sum::<f64>()).expect("a bin");
        assert!(bin.pictures > 0, "{:?}", found.calibration);
    }

    #[test]
    fn top_5_is_for_more_than_five_classes() {
        let labels = Array2::eye(6);
        // Descending scores: class i has rank i + 1 for every picture.
        let images = Array2::from_shape_fn((6, 6), |(_, class)| 0.6 - 0.1 * class as f32);
        let (found, _) = Classification::of(&softmax(), images.view(), labels.view(), &classes(6), &[0, 1, 2, 3, 4, 5]);
        assert_eq!((found.top_1, found.top_5), (1.0 / 6.0, Some(5.0 / 6.0)));
    }

    #[test]
    fn alike_classes_stand_side_by_side() {
        let labels = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.96, 0.28, 0.0], [0.0, 0.96, 0.28], [0.0, 0.0, 1.0]];
        let order = order_by_likeness(labels.view());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        let place = |class| order.iter().position(|c| *c == class).expect("in the order");
        assert!(place(0).abs_diff(place(2)) == 1 && place(1).abs_diff(place(3)) == 1, "{order:?}");
        assert!(order_by_likeness(Array2::zeros((0, 4)).view()).is_empty());
    }
}
