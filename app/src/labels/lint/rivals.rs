//! Labels whose probability says nothing, for want of something to compete with.

use spotter_engine::decide::{FOR_S, HOLD_S, LabelRules, THRESHOLD};
use spotter_engine::score::{Scoring, ScoringKind};

use super::Note;
use crate::labels::label_file::LabelFile;

/// Finds labels that compete with nothing, or with nothing that is there when they are not.
pub(super) fn notes(file: &LabelFile, scoring: &Scoring) -> Vec<Note> {
    let competition = &file.competition;
    let lone = competition.lone();
    if scoring.kind == ScoringKind::Sigmoid {
        // Each label has a probability of its own.
        return Vec::new();
    }
    if let Some(row) = lone.clone().next()
        && lone.len() == 1
        && competition.opposites(row).is_empty()
        && competition.background().is_empty()
    {
        let message = "competes with nothing, so its probability is always 100 %: give it `opposites` (what it looks like \
                       without), or add a `[[background]]`";
        return vec![Note { row, message: message.to_owned() }];
    }
    let is_decided = decided(file);
    let bare: Vec<usize> = lone.clone().filter(|row| competition.opposites(*row).is_empty()).collect();
    match bare.first() {
        Some(first) if competition.background().is_empty() && bare.iter().any(|row| is_decided[*row]) => {
            let (count, among) = (bare.len(), lone.len());
            let message = format!(
                "{count} labels outside of questions have neither `opposites` nor a `[[background]]`: the {among} labels share all \
                 of the probability, so one of them seems to be there when nothing is; add a `[[background]]` with what the \
                 camera sees then"
            );
            vec![Note { row: *first, message }]
        }
        _ => Vec::new(),
    }
}

/// For each label, whether it is meant to start and end: labels that are only ranked need no background.
pub(super) fn decided(file: &LabelFile) -> Vec<bool> {
    let is_plain = file.competition.is_plain();
    file.rules.labels.iter().map(|rules| !is_plain || !is_default(rules)).collect()
}

/// Returns whether a label has the limits of one that was given none.
fn is_default(rules: &LabelRules) -> bool {
    (rules.threshold, rules.for_s, rules.hold_s) == (THRESHOLD, FOR_S, HOLD_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::label_file;

    #[test]
    fn labels_need_something_to_compete_with() {
        let softmax = Scoring { logit_scale: 4.6, logit_bias: None, kind: ScoringKind::Softmax };
        let cat = "[[label]]\nname = 'cat'\n";
        let dog = "[[label]]\nname = 'dog'\n";
        let question = "[[question]]\nname = 'q'\n[[question.label]]\nname = 'a'\n[[question.label]]\nname = 'b'\n";
        let background = "[[background]]\nprompts = ['wall']\n";
        for (text, expected) in [
            (cat.to_owned(), Some("always 100 %")),
            (format!("{question}{cat}"), Some("always 100 %")),
            (format!("{cat}opposites = ['x']"), None),
            (format!("{cat}{background}"), None),
            // Ranked only.
            (format!("{cat}{dog}"), None),
            (question.to_owned(), None),
            (format!("{cat}{dog}threshold = 0.8"), Some("2 labels outside of questions have neither")),
            (format!("{cat}{dog}for_s = 3"), Some("2 labels")),
            (format!("{question}{cat}{dog}"), Some("2 labels")),
            (format!("{question}{cat}{dog}{background}"), None),
            (format!("{cat}{dog}opposites = ['x']"), Some("1 labels")),
        ] {
            let file = label_file::parse("l", &text, &["{}".to_owned()]).expect("labels");
            let found = notes(&file, &softmax);
            assert_eq!(found.len(), usize::from(expected.is_some()), "{text}: {found:?}");
            let is_there = |expected| found[0].message.contains(expected);
            assert!(expected.is_none_or(is_there), "{text}: {found:?}");
            let sigmoid = Scoring { kind: ScoringKind::Sigmoid, ..softmax };
            assert_eq!(notes(&file, &sigmoid), [], "{text}");
        }
    }
}
