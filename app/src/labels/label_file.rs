//! The label file: names, prompts and templates.

use std::collections::HashMap;
use std::path::Path;

use spotter_engine::labels::Label;

use crate::config::document::{self, Section};
use crate::config::{Position, Problem, read_text};

/// Maximum number of labels in a file. All are compared with every frame and share the probability, which stops being useful
/// long before this number.
const LABELS_MAX: usize = 1000;

/// Maximum number of sentences in a file. Each costs one pass through the text tower, about 10 ms on a board: this many take
/// minutes, and about 20 MB in the cache.
const SENTENCES_MAX: usize = 10_000;

// Otherwise some would be embedded again at every start.
const _: () = assert!(SENTENCES_MAX <= spotter_engine::labels::ENTRIES_MAX);

/// A label file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFile {
    /// The file, as messages call it.
    pub path: String,
    /// Its labels; there is at least one.
    pub labels: Vec<Label>,
    /// Position of each label's name, in the same order.
    pub positions: Vec<Position>,
}

/// A label file that was parsed, and takes a bundle's templates where it has none of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedLabels {
    path: String,
    labels: Vec<ParsedLabel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ParsedLabel {
    name: String,
    prompts: Vec<String>,
    /// The label's templates, else the file's; `None` where there are neither.
    templates: Option<Vec<String>>,
    /// Position of the name.
    position: Position,
    /// Position of the label's table.
    start: Position,
}

/// Reads the label file `path`; labels without templates get the file's, else `default_templates`.
pub fn load(path: &Path, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_file(path)?.resolve(default_templates)
}

/// Parses the label file `path`.
pub fn parse_file(path: &Path) -> Result<ParsedLabels, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    parse_text(&path.display().to_string(), &text)
}

/// Parses the text of a label file, which messages call `path`.
pub fn parse_text(path: &str, text: &str) -> Result<ParsedLabels, Vec<Problem>> {
    document::read(path, text, |root| {
        let templates = templates(root);
        let mut set = LabelSet { templates, first_positions: HashMap::new(), count: 0 };
        root.require("label", "no labels: expected at least one `[[label]]` with a `name`");
        let labels = root.tables("label", |section| set.read(section)).unwrap_or_default();
        ParsedLabels { path: path.to_owned(), labels }
    })
}

#[cfg(test)]
pub(super) fn parse(path: &str, text: &str, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_text(path, text)?.resolve(default_templates)
}

impl ParsedLabels {
    /// The labels, with `default_templates` for those that have none.
    ///
    /// # Errors
    /// The labels have more than 10,000 sentences.
    pub(crate) fn resolve(&self, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
        let (mut labels, mut positions, mut sentences) = (Vec::new(), Vec::new(), 0);
        for label in &self.labels {
            let templates = label.templates.as_deref().unwrap_or(default_templates);
            sentences += label.prompts.len() * templates.len();
            if sentences > SENTENCES_MAX {
                let why = "each prompt in each template is one, and has to be embedded and cached";
                let message = format!("more than {SENTENCES_MAX} sentences: {why}");
                return Err(vec![Problem { path: self.path.clone(), position: Some(label.start), message }]);
            }
            let (name, prompts, templates) = (label.name.clone(), label.prompts.clone(), templates.to_vec());
            labels.push(Label { name, prompts, templates });
            positions.push(label.position);
        }
        Ok(LabelFile { path: self.path.clone(), labels, positions })
    }
}

/// The state shared by all labels of a file while it is read.
struct LabelSet {
    /// The file's templates.
    templates: Option<Vec<String>>,
    first_positions: HashMap<String, Position>,
    count: usize,
}

impl LabelSet {
    fn read(&mut self, section: &Section<'_>) -> ParsedLabel {
        let (name, position) = self.name(section);
        let prompts = prompts(section).unwrap_or_else(|| vec![name.clone()]);
        let templates = templates(section).or_else(|| self.templates.clone());
        self.count += 1;
        if self.count == LABELS_MAX + 1 {
            let why = "all of them are compared with every frame";
            section.problem(section.span(), format!("more than {LABELS_MAX} labels: {why}"));
        }
        ParsedLabel { name, prompts, templates, position, start: section.position(&section.span()) }
    }

    /// The label's name and its position.
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
            // They would garble the terminal and break lines of output.
            section.problem(span, "`name`: expected one line without control characters".to_owned());
        } else if let Some(first) = self.first_positions.get(name.trim()) {
            section.problem(span, format!("label `{}` is already defined in line {}", name.trim(), first.line));
        } else {
            self.first_positions.insert(name.trim().to_owned(), position);
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
        found => Err(format!("expected one `{{}}` for the prompt, found {found} in `{text}`")),
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
    fn names_have_positions() {
        let file =
            parse("l", "[[label]]\nname = 'cat'\n\n[[label]]\n  name = 'dog'", &["{}".to_owned()]).expect("labels");
        let position = |line, column| Position { line, column };
        assert_eq!((file.path.as_str(), file.positions), ("l", vec![position(2, 8), position(5, 10)]));
    }

    #[test]
    fn every_problem_has_a_position() {
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
        check("[[label]]\nname = 'x'\n[[label]]\nname = ' x'", &["l:4:8: label `x` is already defined in line 2"]);
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
                "l:1:22: `templates`: expected one `{}` for the prompt, found 0 in `b`",
                "l:1:27: `templates`: expected one `{}` for the prompt, found 2 in `{} {}`",
                "l:1:36: `templates`: expected an array of strings only, found an integer",
                "l:4:17: `prompts`: expected a prompt, found nothing between the quotes",
                "l:4:22: `prompts`: expected a prompt, found nothing between the quotes",
            ],
        );
    }

    #[test]
    fn a_syntax_error_hides_what_seems_missing_after_it() {
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
