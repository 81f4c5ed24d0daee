//! Which labels of a set compete for probability, and with what else.

use std::ops::Range;

/// A question: labels that exclude each other, such as "open" and "closed" of "garage door".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its name.
    pub name: String,
    /// Its labels, as rows of the set.
    pub labels: Range<usize>,
}

/// How the rows of a label set compete. The rows are, in this order: labels outside of questions, the labels of each question,
/// the opposites of each label, the background. Opposites and background take probability away and are never reported.
///
/// - The labels of a question compete with each other and with the opposites of any of them.
/// - A label outside of questions competes with its opposites and the background.
/// - Without opposites and background it competes with all labels outside of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Competition {
    /// Number of labels outside of questions.
    lone: usize,
    questions: Vec<Question>,
    /// The rows of each label's opposites.
    opposites: Vec<Range<usize>>,
    background: Range<usize>,
}

impl Competition {
    /// All `labels` compete with each other.
    pub fn among(labels: usize) -> Self {
        Self::new(labels, Vec::new(), &vec![0; labels], 0)
    }

    /// Takes the number of labels outside of questions, name and number of labels of each question, the number of opposites
    /// of each label, and the number of rows of the background.
    ///
    /// # Panics
    /// If `opposites` has not one number per label.
    pub fn new(lone: usize, questions: Vec<(String, usize)>, opposites: &[usize], background: usize) -> Self {
        let mut end = lone;
        let mut next = |count: usize| {
            let start = end;
            end += count;
            start..end
        };
        let questions: Vec<Question> =
            questions.into_iter().map(|(name, labels)| Question { name, labels: next(labels) }).collect();
        let labels = questions.last().map_or(lone, |question| question.labels.end);
        assert_eq!(labels, opposites.len(), "one number of opposites per label");
        let opposites = opposites.iter().map(|count| next(*count)).collect();
        let background = next(background);
        Self { lone, questions, opposites, background }
    }

    /// Number of labels, which are the first rows.
    pub fn labels(&self) -> usize {
        self.opposites.len()
    }

    /// Number of rows: labels, opposites and background.
    pub fn rows(&self) -> usize {
        self.background.end
    }

    /// The labels outside of questions.
    pub fn lone(&self) -> Range<usize> {
        0..self.lone
    }

    /// The questions, in the order of their labels.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// The question of a label, if it has one.
    pub fn question_of(&self, label: usize) -> Option<&Question> {
        let index = self.questions.partition_point(|question| question.labels.end <= label);
        self.questions.get(index).filter(|question| question.labels.contains(&label))
    }

    /// The opposites of a label.
    ///
    /// # Panics
    /// If there is no such label.
    pub fn opposites(&self, label: usize) -> Range<usize> {
        self.opposites[label].clone()
    }

    /// The background.
    pub fn background(&self) -> Range<usize> {
        self.background.clone()
    }

    /// Returns whether all rows are labels that compete with each other.
    pub fn is_plain(&self) -> bool {
        self.lone == self.rows()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_each_other() {
        let questions = vec![("door".to_owned(), 2), ("gate".to_owned(), 3)];
        let found = Competition::new(2, questions, &[1, 0, 0, 2, 0, 0, 1], 3);
        assert_eq!((found.labels(), found.rows(), found.lone(), found.is_plain()), (7, 14, 0..2, false));
        let names: Vec<_> =
            (0..8).map(|label| found.question_of(label).map_or("", |question| &question.name)).collect();
        assert_eq!(names, ["", "", "door", "door", "gate", "gate", "gate", ""]);
        let opposites: Vec<_> = (0..7).map(|label| found.opposites(label)).collect();
        assert_eq!(opposites, [7..8, 8..8, 8..8, 8..10, 10..10, 10..10, 10..11]);
        assert_eq!(found.background(), 11..14);
        let plain = Competition::among(3);
        assert_eq!((plain.labels(), plain.rows(), plain.is_plain()), (3, 3, true));
    }
}
