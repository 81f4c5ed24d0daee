//! Labels that the model can hardly tell apart, by the cosine of their embeddings.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis};

use super::Note;
use crate::labels::label_file::LabelFile;

/// Cosine from which on two labels count as nearly equal. Different things of one kind stay below it ("red circle" and "red
/// square" of the demo, dog breeds with CLIP); wordings of one thing are above.
pub(super) const NEAR: f32 = 0.985;

/// Maximum number of rows that are compared with each other: more would take a board minutes.
const ROWS_MAX: usize = 2000;

/// Finds labels with nearly the embedding of another one that they compete with or stand beside, of an opposite of their own,
/// or of the background; `embeddings` has a row for each of the file. Rows of `known` are noted otherwise.
pub(super) fn notes(file: &LabelFile, embeddings: ArrayView2<'_, f32>, known: &[bool]) -> Vec<Note> {
    let competition = &file.competition;
    if embeddings.nrows() != file.rows.len() {
        return Vec::new();
    }
    let unit = normalized(embeddings);
    let mut notes = Vec::new();
    let groups = competition.questions().iter().map(|question| question.labels.clone()).chain([competition.lone()]);
    for group in groups.filter(|group| group.len() <= ROWS_MAX) {
        let cosines = cosines(&unit, group.clone(), group.clone());
        for row in group.clone().filter(|row| !known[*row]) {
            let index = row - group.start;
            let before =
                (0..index).filter(|other| !known[group.start + other]).map(|other| (other, cosines[[index, other]]));
            if let Some((other, cosine)) = nearest(before) {
                notes.push(Note { row, message: message(file, group.start + other, cosine) });
            }
        }
    }
    for row in 0..competition.labels() {
        let rivals = [
            competition.opposites(row),
            if competition.lone().contains(&row) { competition.background() } else { 0..0 },
        ];
        for range in rivals.into_iter().filter(|range| !range.is_empty() && range.len() <= ROWS_MAX) {
            let cosines = cosines(&unit, row..row + 1, range.clone());
            if let Some((other, cosine)) = nearest(cosines.row(0).iter().copied().enumerate()) {
                notes.push(Note { row, message: message(file, range.start + other, cosine) });
            }
        }
    }
    notes
}

fn message(file: &LabelFile, other: usize, cosine: f32) -> String {
    let (what, line) = (file.describe(other), file.positions[other].line);
    format!(
        "has nearly the embedding of the {what} in line {line} (cosine {cosine:.3}, from {NEAR} on the model can hardly tell them \
         apart): say more clearly what differs, or make them one label"
    )
}

/// The largest cosine that is too large, and where.
fn nearest(cosines: impl Iterator<Item = (usize, f32)>) -> Option<(usize, f32)> {
    cosines.filter(|(_, cosine)| *cosine >= NEAR).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn cosines(unit: &Array2<f32>, rows: Range<usize>, columns: Range<usize>) -> Array2<f32> {
    let of = |range: Range<usize>| unit.slice_axis(Axis(0), range.into());
    of(rows).dot(&of(columns).t())
}

/// Rows of length 1; those that are blended with examples have another length.
fn normalized(embeddings: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut unit = embeddings.to_owned();
    for mut row in unit.outer_iter_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    unit
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::labels::label_file;

    /// Rows near the first axis differ by the angle that is given in degrees.
    fn notes_for(text: &str, degrees: &[f32], known: &[usize]) -> Vec<(usize, String)> {
        let file = label_file::parse("l", text, &["{}".to_owned()]).expect("labels");
        let mut matrix = Array2::zeros((degrees.len(), 2));
        for (mut row, angle) in matrix.outer_iter_mut().zip(degrees) {
            // Lengths do not count.
            row.assign(&(array![angle.to_radians().cos(), angle.to_radians().sin()] * (1.0 + angle / 100.0)));
        }
        let known: Vec<bool> = (0..degrees.len()).map(|row| known.contains(&row)).collect();
        notes(&file, matrix.view(), &known).into_iter().map(|note| (note.row, note.message)).collect()
    }

    #[test]
    fn nearly_equal_rivals_are_named_with_their_cosine() {
        let cats = "[[label]]\nname = 'cat'\n[[label]]\nname = 'kitten'\n[[label]]\nname = 'dog'\n";
        assert_eq!(notes_for(cats, &[0.0, 20.0, 40.0], &[]), []);
        let found = notes_for(cats, &[0.0, 5.0, 40.0], &[]);
        assert!(found.len() == 1 && found[0].0 == 1, "{found:?}");
        assert!(found[0].1.contains("of the label `cat` in line 2 (cosine 0.996, from 0.985 on"), "{found:?}");
        assert_eq!(notes_for(cats, &[0.0, 5.0, 40.0], &[1]), [], "it is noted as the same");

        let question = |name: &str| {
            format!("[[question]]\nname = '{name}'\n[[question.label]]\nname = 'a'\n[[question.label]]\nname = 'b'\n")
        };
        let two = format!("{}{}", question("one"), question("two"));
        assert_eq!(notes_for(&two, &[0.0, 40.0, 0.0, 40.0], &[]), [], "answers of different questions may be equal");
        assert_eq!(notes_for(&two, &[0.0, 40.0, 0.0, 1.0], &[]).len(), 1);

        let porch = "[[label]]\nname = 'visitor'\nopposites = ['porch', 'door']\n[[background]]\nprompts = ['street']";
        let found = notes_for(porch, &[0.0, 40.0, 2.0, 60.0], &[]);
        assert!(found.len() == 1 && found[0].1.contains("the opposite `door` of label `visitor`"), "{found:?}");
        let found = notes_for(porch, &[0.0, 40.0, 50.0, 3.0], &[]);
        assert!(found.len() == 1 && found[0].1.contains("the background `street`"), "{found:?}");
    }
}
