//! Finds labels that the model cannot read as written, or cannot tell apart.

mod examples;
mod near;
mod rivals;
mod words;

use std::collections::{BTreeMap, HashMap};

use ndarray::ArrayView2;
use spotter_engine::labels::Label;
use spotter_engine::score::Scoring;
use spotter_engine::tokenize::TokenizeError;
use spotter_engine::vocabulary::{Tokenization, Vocabulary};

use super::examples::Blended;
use super::label_file::LabelFile;
use crate::config::Problem;

/// Maximum number of warnings that are shown; the others are counted.
const WARNINGS_MAX: usize = 50;

/// Fewest single letters of a prompt that are worth a warning: abbreviations and names have some.
const SPELT_MIN: usize = 3;

/// Smallest share of single letters that is worth a warning. English prompts stay below a tenth with every vocabulary in use.
const SPELT_SHARE: f64 = 0.5;

/// Maximum number of characters of a prompt or sentence in a message.
const SHOWN_CHARS: usize = 60;

/// What a label set is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model<'a> {
    /// The model's tokenizer.
    pub(crate) vocabulary: &'a Vocabulary,
    /// How its cosines become probabilities.
    pub(crate) scoring: Scoring,
    /// The rows of the label set, if they were embedded.
    pub(crate) embeddings: Option<ArrayView2<'a, f32>>,
    /// What the example pictures of labels say, if they were embedded.
    pub(crate) blended: &'a [Blended],
}

/// Finds what is doubtful about the labels of `file`, in the file's order: unknown words, cut sentences, negations, labels that
/// the model can hardly tell apart, and labels whose probability says nothing.
pub(crate) fn warnings(file: &LabelFile, model: &Model<'_>) -> Result<Vec<Problem>, TokenizeError> {
    let Tokens { mut notes, known } = tokens(file, model.vocabulary)?;
    notes.extend(words::negations(file));
    notes.extend(rivals::notes(file, &model.scoring));
    let decided = rivals::decided(file);
    notes.extend(model.blended.iter().flat_map(|blended| {
        let row = blended.row;
        examples::notes(blended, decided[row].then(|| file.rules.labels[row].threshold))
    }));
    if let Some(embeddings) = model.embeddings {
        notes.extend(near::notes(file, embeddings, &known));
    }
    Ok(shown_in_order(file, notes))
}

/// Names all that [`warnings`] depend on, but for the towers and the tokenizer.
pub(crate) fn identity(file: &LabelFile, scoring: &Scoring) -> String {
    let LabelFile { path, rows, positions, competition, examples, .. } = file;
    format!("{:?}", (path, rows, positions, competition, examples, scoring, rivals::decided(file)))
}

/// A doubt about a row of a label file.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    row: usize,
    message: String,
}

/// The doubts as problems, each with its row's name and place; those beyond the limit are counted.
fn shown_in_order(file: &LabelFile, mut notes: Vec<Note>) -> Vec<Problem> {
    // Stable, so that the doubts about a row stay in their order. The rows are not in the file's order.
    notes.sort_by_key(|note| file.positions[note.row]);
    let left_out = notes.len().saturating_sub(WARNINGS_MAX);
    notes.truncate(WARNINGS_MAX);
    let problem = |position, message| Problem { path: file.path.clone(), position, message };
    let of = |note: Note| {
        let message = format!("{}: {}", file.describe(note.row), note.message);
        problem(Some(file.positions[note.row]), message)
    };
    let mut found: Vec<Problem> = notes.into_iter().map(of).collect();
    if left_out > 0 {
        found.push(problem(None, format!("{left_out} more warnings")));
    }
    found
}

/// What the tokens of a label set say.
struct Tokens {
    notes: Vec<Note>,
    /// For each row, whether it was noted as unreadable, or as the same as an earlier one.
    known: Vec<bool>,
}

/// Finds unknown words, cut sentences, and labels that become the same token ids though they compete.
fn tokens(file: &LabelFile, vocabulary: &Vocabulary) -> Result<Tokens, TokenizeError> {
    let (mut notes, mut known) = (Vec::new(), vec![false; file.rows.len()]);
    let mut first_with = HashMap::new();
    for (row, label) in file.rows.iter().enumerate() {
        let examined = Examined::new(label, vocabulary)?;
        let unread = examined.unreadable().or_else(|| examined.spelt());
        notes.extend(unread.into_iter().chain(examined.cut(vocabulary)).map(|message| Note { row, message }));
        known[row] = examined.lost;
        // Several labels may have the same opposites, and different questions the same answers.
        if row < file.competition.labels() {
            let question = file.competition.question_of(row).map(|question| &question.name);
            let first = *first_with.entry((question, examined.ids)).or_insert(row);
            if first != row {
                known[row] = true;
                notes.push(Note { row, message: same_as(&file.rows[first], file.positions[first].line) });
            }
        }
    }
    Ok(Tokens { notes, known })
}

fn same_as(first: &Label, line: usize) -> String {
    let name = &first.name;
    format!(
        "becomes the same tokens as the label `{name}` in line {line}, so both always get the same score: change one of \
         them, or remove it"
    )
}

/// The tokenizer's reading of a label.
struct Examined<'a> {
    label: &'a Label,
    /// For each prompt with unknown pieces, or without any, its worst sentence.
    unreadable: Vec<(&'a str, Tokenization)>,
    /// True if no sentence has a known piece of the label.
    lost: bool,
    /// The prompt with the largest share of single letters, if that is large.
    spelt: Option<(&'a str, Tokenization)>,
    /// The sentence that loses most pieces to truncation, if any does.
    cut: Option<(String, Tokenization)>,
    cut_count: usize,
    /// Number of occurrences of each sequence of ids, in lowest terms: labels where this is equal have the same embedding.
    ids: BTreeMap<Vec<u32>, usize>,
}

impl<'a> Examined<'a> {
    fn new(label: &'a Label, vocabulary: &Vocabulary) -> Result<Self, TokenizeError> {
        let (unreadable, ids) = Default::default();
        let mut examined = Self { label, unreadable, lost: true, spelt: None, cut: None, cut_count: 0, ids };
        for prompt in &label.prompts {
            let mut worst: Option<Tokenization> = None;
            for template in &label.templates {
                let start = template.find("{}").unwrap_or(0);
                let sentence = template.replacen("{}", prompt, 1);
                let reading = vocabulary.read(&sentence, &(start..start + prompt.len()))?;
                *examined.ids.entry(reading.ids.clone()).or_default() += 1;
                examined.lost &= reading.unknown == reading.pieces;
                if reading.cut() > 0 {
                    examined.cut_count += 1;
                    let most = examined.cut.as_ref().is_none_or(|(_, other)| other.cut() < reading.cut());
                    examined.cut = if most { Some((sentence, reading.clone())) } else { examined.cut };
                }
                worst = worst.filter(|other| known_share(other) <= known_share(&reading)).or(Some(reading));
            }
            if let Some(reading) = worst.as_ref().filter(|reading| is_spelt(reading)) {
                let most = examined.spelt.as_ref().is_none_or(|(_, other)| spelt_share(other) < spelt_share(reading));
                examined.spelt = if most { Some((prompt, reading.clone())) } else { examined.spelt };
            }
            examined.unreadable.extend(worst.filter(|worst| known_share(worst) < 1.0).map(|worst| (&**prompt, worst)));
        }
        let divisor = examined.ids.values().fold(0, |a, b| greatest_common_divisor(a, *b)).max(1);
        examined.ids.values_mut().for_each(|count| *count /= divisor);
        Ok(examined)
    }

    /// The warning about unknown pieces, if there are any.
    fn unreadable(&self) -> Option<String> {
        let worse =
            |a: &&(&str, Tokenization), b: &&(&str, Tokenization)| known_share(&a.1).total_cmp(&known_share(&b.1));
        let (prompt, Tokenization { pieces, unknown, .. }) = self.unreadable.iter().min_by(worse)?;
        let of = if *prompt == self.label.name { String::new() } else { format!("prompt `{}`: ", shown(prompt)) };
        let what = match (pieces, unknown) {
            (0, _) => "the model's tokenizer makes no token of it".to_owned(),
            (_, 1) => format!("1 of {pieces} tokens is unknown to the model's tokenizer"),
            _ => format!("{unknown} of {pieces} tokens are unknown to the model's tokenizer"),
        };
        let more = match self.unreadable.len() - 1 {
            0 => String::new(),
            1 => ", and some of 1 more prompt".to_owned(),
            more => format!(", and some of {more} more prompts"),
        };
        let advice = if self.lost {
            "so the model cannot know what is meant: write it in the language that the model was trained on, or use a bundle \
             whose text tower reads this one"
        } else {
            "and all unknown tokens look the same to it: use words that the model knows"
        };
        Some(format!("{of}{what}{more}, {advice}"))
    }

    /// The warning about words that are spelt in single letters, if there are any.
    fn spelt(&self) -> Option<String> {
        let (prompt, Tokenization { pieces, letters, .. }) = self.spelt.as_ref()?;
        let of = if *prompt == self.label.name { String::new() } else { format!("prompt `{}`: ", shown(prompt)) };
        Some(format!(
            "{of}{letters} of {pieces} tokens are single letters, so the model's tokenizer does not know these words, and the \
             model hardly knows what is meant: write it in the language that the model was trained on, or use a bundle whose \
             text tower reads this one"
        ))
    }

    /// The warning about sentences that are too long, if there are any.
    fn cut(&self, vocabulary: &Vocabulary) -> Option<String> {
        let (sentence, reading) = self.cut.as_ref()?;
        let (pieces, limit, cut) = (reading.sentence_pieces, vocabulary.limit(), reading.cut());
        let more =
            if self.cut_count > 1 { format!(" ({} sentences are too long)", self.cut_count) } else { String::new() };
        Some(format!(
            "the sentence `{}` has {pieces} tokens and the text tower takes {limit}: {cut} are cut off{more}; shorten it, or \
             split it into several prompts",
            shown(sentence)
        ))
    }
}

/// The share of a sentence's pieces that are known, 0 to 1; 0 where there are none.
fn known_share(reading: &Tokenization) -> f64 {
    (reading.pieces - reading.unknown) as f64 / reading.pieces.max(1) as f64
}

/// Returns whether at least half of the pieces are single letters; a short name or two may be.
fn is_spelt(reading: &Tokenization) -> bool {
    reading.letters >= SPELT_MIN && spelt_share(reading) >= SPELT_SHARE
}

/// The share of a sentence's pieces that are single letters of words, 0 to 1.
fn spelt_share(reading: &Tokenization) -> f64 {
    reading.letters as f64 / reading.pieces.max(1) as f64
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Shortens a text for a message and escapes control characters.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("{}{more}", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use spotter_engine::bundle::{FileEntry, Padding, PaddingSide, Positions, TokenizerSpec, TruncationSide};

    use super::*;
    use crate::labels::label_file;

    fn vocabulary() -> Vocabulary {
        let json = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": false,
                           "strip_accents": false, "lowercase": true},
            "model": {"type": "WordLevel", "unk_token": "?",
                      "vocab": {"?": 0, "a": 1, "red": 2, "blue": 3, "cat": 4, "dog": 5}}}"#;
        Vocabulary::from_bytes(json.as_bytes(), &spec()).expect("a tokenizer")
    }

    fn spec() -> TokenizerSpec {
        TokenizerSpec {
            file: FileEntry { name: String::new(), bytes: 0, sha256: String::new() },
            max_length: 6,
            truncation_side: TruncationSide::Right,
            padding: Padding::Longest,
            padding_side: PaddingSide::Right,
            pad_token: "?".into(),
            pad_id: 0,
            pad_type_id: 0,
            positions: Positions::Sequential,
            siglip: None,
        }
    }

    fn check(text: &str, expected: &[&[&str]]) {
        let file = label_file::parse("l", text, &["a {}".to_owned()]).expect("labels");
        let found = shown_in_order(&file, tokens(&file, &vocabulary()).expect("readings").notes);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:#?}");
        for (message, parts) in found.iter().zip(expected) {
            for part in *parts {
                assert!(message.contains(part), "{text}: {part:?} is not in {message:?}");
            }
            assert!(!message.chars().any(char::is_control), "{message:?}");
        }
    }

    const SAME: &str = "becomes the same tokens as the label";

    #[test]
    fn unknown_words_are_named_with_their_share() {
        check("[[label]]\nname = 'cat'", &[]);
        check("[[label]]\nname = '猫'", &[&["l:2:8: label `猫`: 1 of 1 tokens is unknown", "cannot know"]]);
        check("[[label]]\nname = 'red 猫'", &[&["label `red 猫`: 1 of 2 tokens is", "use words that the model knows"]]);
        check("[[label]]\nname = '猫 犬'", &[&["2 of 2 tokens are unknown"]]);
        // The template's own words are not the label's.
        check("templates = ['画 {}']\n[[label]]\nname = 'cat'", &[]);
        check(
            "[[label]]\nname = 'cat'\nprompts = ['cat', 'q']",
            &[&["prompt `q`: 1 of 1", "use words that the model knows"]],
        );
        check("[[label]]\nname = 'cat'\nprompts = [\"q\\u001b\"]", &[&["prompt `q\\u{1b}`: 1 of 1", "cannot know"]]);
        check("[[label]]\nname = 'cat'\nprompts = ['x', 'y red', 'z']", &[&["1 of 1", "some of 2 more prompts"]]);
        check("[[label]]\nname = 'cat'\nprompts = ['\u{200b}']", &[&["prompt `\\u{200b}`: ", "makes no token of it"]]);
    }

    #[test]
    fn words_that_are_spelt_are_named_with_their_share() {
        let reading = |pieces, letters| Tokenization { pieces, letters, ..Tokenization::default() };
        for (pieces, letters, expected) in [(3, 3, true), (6, 3, true), (7, 3, false), (2, 2, false), (0, 0, false)] {
            assert_eq!(is_spelt(&reading(pieces, letters)), expected, "{letters} of {pieces}");
        }
        let json = r###"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {"?": 0, "a": 1, "red": 2, "k": 3, "##o": 4, "##t": 5}}}"###;
        let vocabulary = Vocabulary::from_bytes(json.as_bytes(), &spec()).expect("a tokenizer");
        let of = |text: &str| {
            let file = label_file::parse("l", text, &["a {}".to_owned()]).expect("labels");
            tokens(&file, &vocabulary).expect("readings").notes.into_iter().map(|note| note.message).collect::<Vec<_>>()
        };
        let found = of("[[label]]\nname = 'red'\nprompts = ['red', 'kot']");
        assert!(
            found.len() == 1 && found[0].starts_with("prompt `kot`: 3 of 3 tokens are single letters"),
            "{found:?}"
        );
        assert_eq!(of("[[label]]\nname = 'a red'"), [""; 0]);
    }

    #[test]
    fn sentences_that_are_cut_are_named() {
        check("[[label]]\nname = 'red red red red cat'", &[]);
        let message = ["l:2:8", "`a red red red red red cat`", "has 7 tokens", "takes 6", "1 are cut off"];
        check("[[label]]\nname = 'red red red red red cat'", &[&message]);
        let two = "[[label]]\nname = 'x'\ntemplates = ['{} a', '{}']\nprompts = ['red red red red red red red']";
        check(two, &[&["`red red red red red red red a`", "2 are cut off (2 sentences are too long)"]]);
    }

    #[test]
    fn labels_that_become_the_same_are_both_named() {
        let label = |name: &str, rest: &str| format!("[[label]]\nname = '{name}'\n{rest}\n");
        let two = |first: &str, second: &str, expected: &[&[&str]]| {
            check(&format!("{}{}", label("one", first), label("two", second)), expected);
        };
        let same: &[&[&str]] = &[&["l:5:8: label `two`", SAME, "label `one` in line 2"]];
        two("prompts = ['Cat']", "prompts = ['cat']", same);
        two("prompts = ['cat', 'dog']", "prompts = ['DOG', 'cat']", same);
        two("prompts = ['cat', 'cat']", "prompts = ['cat']", same);
        two("prompts = ['cat']", "prompts = ['a cat']\ntemplates = ['{}']", same);
        two("prompts = ['cat', 'dog']", "prompts = ['cat']", &[]);
        two("prompts = ['cat', 'cat', 'dog']", "prompts = ['cat', 'dog']", &[]);
        two("prompts = ['cat', 'dog']", "prompts = ['cat', 'red']", &[]);
        // Only labels that compete are told apart, and opposites may be shared.
        let question = |name: &str, first: &str, second: &str| {
            format!(
                "[[question]]\nname = '{name}'\n[[question.label]]\nname = '{first}'\n[[question.label]]\nname = '{second}'\n"
            )
        };
        check(&format!("{}{}", question("one", "cat", "dog"), question("two", "cat", "dog")), &[]);
        check(&question("one", "cat", "Cat"), &[&["l:6:8: label `one: Cat`", SAME, "label `cat` in line 4"]]);
        check(
            "[[label]]\nname = 'cat'\nopposites = ['dog', 'q']\n[[label]]\nname = 'red'\nopposites = ['dog']\n\
             [[background]]\nprompts = ['猫']",
            &[&["l:2:8: opposite `q` of label `cat`: 1 of 1"], &["l:7:1: background `猫`: 1 of 1"]],
        );
        check(
            "[[label]]\nname = '🔴'\n[[label]]\nname = '🟦'\n[[label]]\nname = '⭐'",
            &[
                &["l:2:8: label `🔴`: 1 of 1"],
                &["l:4:8: label `🟦`: 1 of 1"],
                &["label `🟦`", SAME, "`🔴` in line 2"],
                &["l:6:8: label `⭐`: 1 of 1"],
                &["label `⭐`", SAME, "`🔴` in line 2"],
            ],
        );
    }

    #[test]
    fn warnings_are_bounded() {
        let text: String = (0..60).map(|i| format!("[[label]]\nname = '猫 {i}'\nprompts = ['cat {i}猫']\n")).collect();
        let file = label_file::parse("l", &text, &["a {}".to_owned()]).expect("labels");
        let found = shown_in_order(&file, tokens(&file, &vocabulary()).expect("readings").notes);
        assert_eq!(found.len(), WARNINGS_MAX + 1);
        assert!(found[WARNINGS_MAX].message.ends_with("more warnings"), "{}", found[WARNINGS_MAX]);
    }
}
