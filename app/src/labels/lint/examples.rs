//! Example pictures that say nothing, or something else than the prompts, or are below the label's threshold.

use spotter_engine::embedding::Agreement;

use super::Note;
use crate::labels::examples::Blended;

/// Share of pairs in order that chance gives.
const CHANCE: f32 = 0.5;

/// What is doubtful about the examples of a label, which starts from this threshold on unless it only ranks.
pub(super) fn notes(blended: &Blended, threshold: Option<f32>) -> impl Iterator<Item = Note> {
    agreement(blended).into_iter().chain(threshold.and_then(|threshold| unreached(blended, threshold)))
}

/// That even its own pictures, each by itself, are not enough for a label to start.
fn unreached(blended: &Blended, threshold: f32) -> Option<Note> {
    let Blended { row, shown, best, .. } = blended;
    let message = format!(
        "none of its {shown} example pictures reaches its threshold of {threshold}: the best has {best:.3}, so a camera \
         will hardly either; lower `threshold`, or find out with `spotter classify` what the pictures are taken for"
    );
    (*best < threshold).then_some(Note { row: *row, message })
}

/// Whether its examples and its prompts agree.
fn agreement(blended: &Blended) -> Option<Note> {
    let Blended { row, shown, others, agreement, .. } = blended;
    if *others == 0 {
        let message = format!(
            "has {shown} example pictures and none to tell them apart from, so they change nothing: add `not_examples`, or \
             `examples` of the other labels of its question"
        );
        return Some(Note { row: *row, message });
    }
    let Agreement { sentences, blend } = agreement.filter(|agreement| agreement.sentences < CHANCE)?;
    let percent = |share: f32| share * 100.0;
    let message = format!(
        "its examples disagree with its prompts, which fit the other pictures better: of all pairs of its {shown} examples with \
         {others} others, {:.0} % are in the right order by the prompts (50 % is chance), {:.0} % with the examples blended in; \
         make sure that the examples show it and the others do not, or describe what they show",
        percent(sentences),
        percent(blend)
    );
    Some(Note { row: *row, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_doubted_by_their_numbers() {
        let blended = |others, agreement: Option<(f32, f32)>, best| Blended {
            row: 3,
            shown: 8,
            others,
            strength: 0.5,
            agreement: agreement.map(|(sentences, blend)| Agreement { sentences, blend }),
            best,
        };
        let few = "none of its 8 example pictures reaches its threshold of 0.6: the best has 0.590";
        for (blended, expected) in [
            (blended(0, None, 0.6), &["has 8 example pictures and none to tell them apart from"][..]),
            (blended(1, None, 0.6), &[]),
            (blended(9, Some((0.5, 0.9)), 0.9), &[]),
            (blended(9, Some((0.5, 0.9)), 0.59), &[few]),
            (blended(9, Some((0.31, 0.87)), 0.59), &["its 8 examples with 9 others, 31 % are in the right order", few]),
        ] {
            let found = Vec::from_iter(notes(&blended, Some(0.6)));
            let is_as_expected = |(note, part): (&Note, &&str)| note.row == 3 && note.message.contains(part);
            assert!(found.len() == expected.len() && found.iter().zip(expected).all(is_as_expected), "{found:?}");
            let ranked = notes(&blended, None).count();
            assert_eq!(ranked, expected.iter().filter(|part| **part != few).count());
        }
    }
}
