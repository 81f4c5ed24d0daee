//! Example pictures that say nothing, or something else than the prompts.

use spotter_engine::embedding::Agreement;

use super::Note;
use crate::labels::examples::Blended;

/// Share of pairs in order that chance gives.
const CHANCE: f32 = 0.5;

/// What is doubtful about the examples of a label, if anything.
pub(super) fn note(blended: &Blended) -> Option<Note> {
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
        let blended = |others, agreement: Option<(f32, f32)>| Blended {
            row: 3,
            shown: 8,
            others,
            strength: 0.5,
            agreement: agreement.map(|(sentences, blend)| Agreement { sentences, blend }),
        };
        for (blended, expected) in [
            (blended(0, None), Some("has 8 example pictures and none to tell them apart from")),
            (blended(1, None), None),
            (blended(9, Some((0.5, 0.9))), None),
            (blended(9, Some((0.31, 0.87))), Some("its 8 examples with 9 others, 31 % are in the right order")),
        ] {
            let found = note(&blended);
            assert_eq!(found.as_ref().map(|note| note.row), expected.map(|_| 3), "{found:?}");
            assert!(expected.is_none_or(|expected| found.is_some_and(|note| note.message.contains(expected))));
        }
    }
}
