//! Prompts that say what is not there.

use super::{Note, shown};
use crate::labels::label_file::LabelFile;

/// English words that deny what follows them.
const DENYING: [&str; 6] = ["no", "not", "without", "never", "neither", "nor"];

/// Finds prompts with a negation: models of this kind mostly see the words that follow it.
pub(super) fn negations(file: &LabelFile) -> Vec<Note> {
    let mut notes = Vec::new();
    for (row, label) in file.rows.iter().enumerate() {
        let denying: Vec<&String> = label.prompts.iter().filter(|prompt| denies(prompt)).collect();
        let Some(first) = denying.first() else { continue };
        let more = match denying.len() - 1 {
            0 => String::new(),
            more => format!(" ({more} more of its {} prompts too)", label.prompts.len()),
        };
        let first = shown(first);
        let message = format!(
            "the prompt `{first}` says what is not there{more}, and models see mostly the words for it: say what is seen instead, \
             such as \"an empty room\", or give the label for the thing `opposites`"
        );
        notes.push(Note { row, message });
    }
    notes
}

/// Returns whether a prompt denies something. Signs such as "a no parking sign" do not.
fn denies(prompt: &str) -> bool {
    let prompt = prompt.to_lowercase().replace('\u{2019}', "'");
    let words = || prompt.split(|c: char| !c.is_alphanumeric() && c != '\'');
    let is_denial = |word: &str| DENYING.contains(&word) || word.ends_with("n't");
    words().any(is_denial) && !words().any(|word| word == "sign" || word == "signs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::label_file;

    #[test]
    fn negations_are_found() {
        for (prompt, expected) in [
            ("no person", true),
            ("a room without people", true),
            ("a door that is not open", true),
            ("a door that isn't open", true),
            ("a door that isn\u{2019}t open", true),
            ("No Person", true),
            ("an empty room", false),
            ("a porch with nobody there", false),
            ("a note on a notebook", false),
            ("a no parking sign", false),
            ("north of nowhere", false),
        ] {
            assert_eq!(denies(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn a_label_has_one_note_with_its_numbers() {
        let text = "[[label]]\nname = 'cat'\n[[label]]\nname = 'nobody'\nprompts = ['no person', 'no man', 'an empty room']\n\
                    opposites = ['not empty']";
        let file = label_file::parse("l", text, &["{}".to_owned()]).expect("labels");
        let found = negations(&file);
        assert_eq!(found.iter().map(|note| note.row).collect::<Vec<_>>(), [1, 2]);
        assert!(
            found[0].message.contains("`no person` says what is not there (1 more of its 3 prompts too)"),
            "{found:?}"
        );
    }
}
