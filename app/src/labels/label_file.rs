//! The label file: names, prompts and templates.

use std::collections::HashMap;
use std::path::Path;

use spotter_engine::labels::Label;

use crate::config::document::{self, Section};
use crate::config::{Position, Problem, read_text};

/// Labels are compared with every frame and share its probability; far below this number both stop being useful.
const LABELS_MAX: usize = 1000;

/// Each sentence costs a text-tower pass once, some 10 ms on a board: this many still are embedded within minutes, and
/// cached in some 20 MB.
const SENTENCES_MAX: usize = 10_000;

// Else some would be embedded anew at every start.
const _: () = assert!(SENTENCES_MAX <= spotter_engine::labels::ENTRIES_MAX);

/// A label file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFile {
    /// The file, as messages call it.
    pub path: String,
    /// Its labels; there is at least one.
    pub labels: Vec<Label>,
    /// Where the name of each label stands, in the same order.
    pub positions: Vec<Position>,
}

/// Reads the label file `path`; labels that name no templates get the file's, else `default_templates`.
pub fn load(path: &Path, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    parse(&path.display().to_string(), &text, default_templates)
}

/// Parses the text of a label file, which messages call `path`.
pub fn parse(path: &str, text: &str, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    document::read(path, text, |root| {
        let templates = templates(root).unwrap_or_else(|| default_templates.to_vec());
        let mut set = LabelSet { templates: &templates, first_places: HashMap::new(), count: 0, sentences: 0 };
        root.require("label", "no labels: expected at least one `[[label]]` with a `name`");
        let labels = root.tables("label", |section| set.read(section)).unwrap_or_default();
        let (labels, positions) = labels.into_iter().unzip();
        LabelFile { path: path.to_owned(), labels, positions }
    })
}

/// What the labels read so far have in common.
struct LabelSet<'t> {
    templates: &'t [String],
    first_places: HashMap<String, Position>,
    count: usize,
    sentences: usize,
}

impl LabelSet<'_> {
    /// The label, and where its name stands.
    fn read(&mut self, section: &Section<'_>) -> (Label, Position) {
        let (name, position) = self.name(section);
        let prompts = prompts(section).unwrap_or_else(|| vec![name.clone()]);
        let templates = templates(section).unwrap_or_else(|| self.templates.to_vec());
        self.count += 1;
        if self.count == LABELS_MAX + 1 {
            let why = "all of them are compared with every frame";
            section.problem(section.span(), format!("more than {LABELS_MAX} labels: {why}"));
        }
        let sentences_before = self.sentences;
        self.sentences += prompts.len() * templates.len();
        if sentences_before <= SENTENCES_MAX && self.sentences > SENTENCES_MAX {
            let why = "each prompt in each template is one, and has to be embedded and cached";
            section.problem(section.span(), format!("more than {SENTENCES_MAX} sentences: {why}"));
        }
        (Label { name, prompts, templates }, position)
    }

    /// The name, and where it stands.
    fn name(&mut self, section: &Section<'_>) -> (String, Position) {
        let Some(name) = section.string("name") else {
            section.require("name", "label without a `name`");
            return (String::new(), section.position(&section.span()));
        };
        let (span, name) = (name.span(), name.into_inner());
        let position = section.position(&span);
        if name.trim().is_empty() {
            section.problem(span, "`name`: expected a name, found nothing between the quotes".to_owned());
        } else if name.chars().any(char::is_control) {
            // They would garble the terminal, and lines of output.
            section.problem(span, "`name`: expected one line without control characters".to_owned());
        } else if let Some(first) = self.first_places.get(name.trim()) {
            section.problem(span, format!("label `{}` is there already, in line {}", name.trim(), first.line));
        } else {
            self.first_places.insert(name.trim().to_owned(), position);
        }
        (name.to_owned(), position)
    }
}

fn prompts(section: &Section<'_>) -> Option<Vec<String>> {
    checked_strings(section, "prompts", |text| match text.trim() {
        "" => Err("expected a prompt, found nothing between the quotes".to_owned()),
        _ => Ok(()),
    })
}

fn templates(section: &Section<'_>) -> Option<Vec<String>> {
    checked_strings(section, "templates", |text| match text.matches("{}").count() {
        1 => Ok(()),
        found => Err(format!("expected one `{{}}`, where the prompt goes, found {found} in `{text}`")),
    })
}

fn checked_strings(
    section: &Section<'_>,
    key: &'static str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Option<Vec<String>> {
    let strings = section.strings(key)?;
    for string in &strings {
        if let Err(message) = check(string.get_ref()) {
            section.problem(string.span(), format!("`{key}`: {message}"));
        }
    }
    Some(strings.into_iter().map(|string| string.into_inner().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, prompts: &[&str], templates: &[&str]) -> Label {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Label { name: name.to_owned(), prompts: owned(prompts), templates: owned(templates) }
    }

    fn parsed(text: &str) -> Result<Vec<Label>, Vec<Problem>> {
        parse("l", text, &["default {}".to_owned()]).map(|file| file.labels)
    }

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = parsed(text).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn prompts_and_templates_have_defaults() {
        let text = "[[label]]\nname = 'cat'\n[[label]]\nname = 'a b'\nprompts = ['a', 'b']\ntemplates = ['{}']";
        let own = label("a b", &["a", "b"], &["{}"]);
        assert_eq!(parsed(text), Ok(vec![label("cat", &["cat"], &["default {}"]), own.clone()]));
        let text = format!("templates = ['one {{}}', 'two {{}}.']\n{text}");
        assert_eq!(parsed(&text), Ok(vec![label("cat", &["cat"], &["one {}", "two {}."]), own]));
        assert_eq!(parsed("label = [{ name = 'x' }]"), Ok(vec![label("x", &["x"], &["default {}"])]));
    }

    #[test]
    fn names_have_their_places() {
        let file =
            parse("l", "[[label]]\nname = 'cat'\n\n[[label]]\n  name = 'dog'", &["{}".to_owned()]).expect("labels");
        let position = |line, column| Position { line, column };
        assert_eq!((file.path.as_str(), file.positions), ("l", vec![position(2, 8), position(5, 10)]));
    }

    #[test]
    fn every_problem_has_its_place() {
        let none = "l:1:1: no labels: expected at least one `[[label]]` with a `name`";
        check("", &[none]);
        check("templates = ['{}']", &[none]);
        check("labels = 'x'", &[none, "l:1:1: unknown key `labels`: did you mean `label`?"]);
        check("label = []", &["l:1:9: `label`: expected at least one `[[label]]`, found an empty array"]);
        check("label = ['cat']", &["l:1:10: `label`: expected an array of tables (`[[label]]`), found a string"]);
        check("[label]\nname = 'x'", &["l:1:1: `label`: expected an array of tables (`[[label]]`), found a table"]);
        check("[[label]]", &["l:1:1: label without a `name`"]);
        check("[[label]]\nname = 5", &["l:2:8: `name`: expected a string, found an integer"]);
        check("[[label]]\nname = ''", &["l:2:8: `name`: expected a name, found nothing between the quotes"]);
        check("[[label]]\nname = ' \t'", &["l:2:8: `name`: expected a name, found nothing between the quotes"]);
        check("[[label]]\nname = \"a\\u001b[0m\"", &["l:2:8: `name`: expected one line without control characters"]);
        check("[[label]]\nname = 'x'\n[[label]]\nname = ' x'", &["l:4:8: label `x` is there already, in line 2"]);
        check(
            "[[label]]\nname = 'x'\nprompts = []\ntemplates = []\nprompt = 'y'",
            &[
                "l:3:11: `prompts`: expected at least one string, found an empty array",
                "l:4:13: `templates`: expected at least one string, found an empty array",
                "l:5:1: unknown key `prompt`: did you mean `prompts`?",
            ],
        );
        check(
            "templates = ['a {}', 'b', '{} {}', 5]\n[[label]]\nname = 'x'\nprompts = ['y', ' ', '']",
            &[
                "l:1:22: `templates`: expected one `{}`, where the prompt goes, found 0 in `b`",
                "l:1:27: `templates`: expected one `{}`, where the prompt goes, found 2 in `{} {}`",
                "l:1:36: `templates`: expected an array of strings only, found an integer",
                "l:4:17: `prompts`: expected a prompt, found nothing between the quotes",
                "l:4:22: `prompts`: expected a prompt, found nothing between the quotes",
            ],
        );
    }

    #[test]
    fn what_is_missing_behind_a_syntax_error_is_no_second_problem() {
        check("[label]]\nname = 'x'", &["l:1:8: unexpected key or value, expected newline, `#`"]);
        check("[[label]]\nname = 'x", &["l:2:10: invalid literal string, expected `'`"]);
    }

    #[test]
    fn size_is_bounded() {
        let labels = |count: usize| (0..count).map(|i| format!("[[label]]\nname = 'n{i}'\n")).collect::<String>();
        check(&labels(1000), &[]);
        check(&labels(1002), &["l:2001:1: more than 1000 labels: all of them are compared with every frame"]);
        let templates = format!("templates = [{}]\n", "'{}', ".repeat(100));
        check(&(templates.clone() + &labels(100)), &[]);
        let why = "each prompt in each template is one, and has to be embedded and cached";
        check(&(templates + &labels(102)), &[&format!("l:202:1: more than 10000 sentences: {why}")]);
    }

    #[test]
    fn shipped_label_files_are_valid() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let everyday = load(&config.join("labels.toml"), &["{}".to_owned()]).expect("labels.toml").labels;
        assert!(everyday.len() >= 40, "{}", everyday.len());
        let demo = load(&config.join("demo/labels.toml"), &["{}".to_owned()]).expect("demo/labels.toml");
        let colours = ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"];
        let shapes = ["circle", "square", "triangle", "star", "cross", "heart"];
        let names = colours.iter().flat_map(|colour| shapes.iter().map(move |shape| format!("{colour} {shape}")));
        let expected: Vec<Label> = names.map(|name| label(&name, &[&name], &["a photo of a {}."])).collect();
        assert_eq!(demo.labels, expected);
    }
}
