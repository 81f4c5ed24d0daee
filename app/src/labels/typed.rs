//! Sentences that were typed on the command line, as labels.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::label_file::{self, ParsedLabels};
use crate::config::all_of;

/// What each sentence competes with beside the others: common scenes and things, so that a sentence about something that is
/// not there loses, even if it is the only one.
pub(crate) const AGAINST: [&str; 7] = [
    "an empty room",
    "a wall with furniture",
    "an empty street",
    "trees and grass",
    "an object on a table",
    "a blurred picture",
    "something else",
];

/// Most sentences: each competes with all others, so work grows with their square.
const SENTENCES_MAX: usize = 50;

/// Labels of which each is one of these sentences, as typed. Each competes with the others and with [`AGAINST`].
pub(crate) fn parse(sentences: &[String]) -> Result<ParsedLabels> {
    if sentences.len() > SENTENCES_MAX {
        let found = sentences.len();
        bail!(
            "expected up to {SENTENCES_MAX} sentences, found {found}: write a label file for more, `spotter init` begins one"
        );
    }
    let mut text = String::from("templates = [\"{}\"]\n");
    for (index, sentence) in sentences.iter().enumerate() {
        if sentence.trim().is_empty() {
            bail!("sentence {}: expected words, found nothing", index + 1);
        }
        if sentence.chars().any(char::is_control) {
            bail!("sentence {}: expected one line of text, found a control character", index + 1);
        }
        if sentences[..index].contains(sentence) {
            bail!("the sentence \"{sentence}\" is given twice; give it once");
        }
        let others = sentences.iter().map(String::as_str).filter(|other| other != sentence);
        // A sentence that is one of these cannot compete with itself.
        let against = AGAINST.into_iter().filter(|against| !sentences.iter().any(|typed| typed == against));
        let opposites: Vec<String> = others.chain(against).map(quoted).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "[[label]]\nname = {}\nopposites = [{}]\n", quoted(sentence), opposites.join(", "));
    }
    label_file::parse_text("sentences on the command line", &text).map_err(|problems| all_of(&problems))
}

/// A string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn strings(sentences: &[&str]) -> Vec<String> {
        sentences.iter().map(|sentence| (*sentence).to_owned()).collect()
    }

    #[test]
    fn sentences_compete_with_each_other_and_with_common_scenes() {
        for (sentences, opposites) in [
            (&["a cat"][..], AGAINST.len()),
            (&["a cat", "a \"big\" dog \\ {}"], AGAINST.len() + 1),
            (&["a cat", "an empty room", "ein Gürteltier"], AGAINST.len() + 1),
        ] {
            let file = parse(&strings(sentences)).unwrap().resolve(&["a photo of {}".to_owned()]).unwrap();
            let names: Vec<&str> = file.labels().iter().map(|label| label.name.as_str()).collect();
            assert_eq!(names, sentences);
            assert!(
                file.labels().iter().all(|label| label.templates == ["{}"] && label.prompts == [label.name.as_str()])
            );
            for (label, name) in names.iter().enumerate() {
                let rows = file.competition.opposites(label);
                assert_eq!(rows.len(), opposites, "{name}");
                assert!(file.rows[rows].iter().all(|row| row.name != *name), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_sentence_is_refused() {
        let many: Vec<String> = (0..51).map(|number| format!("{number} cats")).collect();
        for (sentences, expected) in [
            (strings(&["a cat", " "]), "sentence 2: expected words"),
            (strings(&["a\ncat"]), "sentence 1: expected one line of text"),
            (strings(&["a cat", "a dog", "a cat"]), "\"a cat\" is given twice"),
            (many, "up to 50 sentences, found 51"),
        ] {
            let error = parse(&sentences).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn quoted_strings_are_read_again() {
        for text in ["plain", "a \"b\" \\c", "tab\tline\n\u{7f}\u{85}", "Größe 红"] {
            let file = format!("key = {}", quoted(text));
            let table = toml::de::DeTable::parse(&file).unwrap();
            assert_eq!(table.get_ref()["key"].get_ref().as_str(), Some(text));
        }
    }
}
