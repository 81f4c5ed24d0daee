//! Embeddings: their normalisation, the matrix of a label set and how its rows compete, and the blend with examples.

mod competition;
mod examples;

pub use competition::{Competition, Question};
pub use examples::{Agreement, Blend, BlendedSet, blend, blend_set};

use ndarray::{Array2, ArrayView2};

/// The embeddings of a label set: one row per label, then those of what else the labels compete with.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelEmbeddings {
    names: Vec<String>,
    matrix: Array2<f32>,
    competition: Competition,
}

impl LabelEmbeddings {
    /// Takes label names and their embeddings [labels, projection_dim], normalised or blended with examples. All labels
    /// compete with each other.
    ///
    /// # Panics
    /// If the number of rows differs from the number of names.
    pub fn new(names: Vec<String>, matrix: Array2<f32>) -> Self {
        assert_eq!(names.len(), matrix.nrows(), "one row per label");
        let competition = Competition::among(names.len());
        // Rows are read as slices.
        let matrix = if matrix.is_standard_layout() { matrix } else { matrix.as_standard_layout().into_owned() };
        Self { names, matrix, competition }
    }

    /// The same rows, which compete as `competition` says; those that are no labels lose their names.
    ///
    /// # Panics
    /// If the number of rows differs.
    pub fn with_competition(mut self, competition: Competition) -> Self {
        assert_eq!(competition.rows(), self.matrix.nrows(), "the rows of one label set");
        self.names.truncate(competition.labels());
        Self { competition, ..self }
    }

    /// Names of the labels, in the order of the label set.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How the rows compete.
    pub fn competition(&self) -> &Competition {
        &self.competition
    }

    /// Name of the question that a label belongs to, if any.
    pub fn question(&self, label: usize) -> Option<&str> {
        self.competition.question_of(label).map(|question| question.name.as_str())
    }

    /// Embeddings [rows, projection_dim]; the first rows are the labels. Each row has L2 norm 1, except those blended with examples, whose norm differs.
    pub fn matrix(&self) -> ArrayView2<'_, f32> {
        self.matrix.view()
    }
}

/// Divides `embedding` by its L2 norm. Returns false and changes nothing if the norm is zero or not finite.
pub fn normalize(embedding: &mut [f32]) -> bool {
    let norm = embedding.iter().map(|v| v * v).sum::<f32>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return false;
    }
    embedding.iter_mut().for_each(|v| *v /= norm);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_without_a_direction_are_not_normalized() {
        for (embedding, expected) in [
            ([3.0, -4.0], Some([0.6, -0.8])),
            ([0.0, 0.0], None),
            ([f32::NAN, 1.0], None),
            ([f32::INFINITY, 1.0], None),
            ([f32::MAX, f32::MAX], None),
        ] {
            let mut found = embedding;
            let is_normalized = normalize(&mut found);
            assert_eq!(is_normalized, expected.is_some(), "{embedding:?}");
            let expected = expected.unwrap_or(embedding);
            assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{embedding:?}");
        }
    }
}
