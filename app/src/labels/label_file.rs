//! The label file: labels, questions and background, with prompts, templates, and limits of decisions.

mod backgrounds;
mod examples;
mod grammar;

use std::path::Path;
use std::sync::Arc;

use spotter_engine::decide::{Rules, ViewRules};
use spotter_engine::embedding::Competition;
use spotter_engine::files::folder_of;
use spotter_engine::labels::Label;

pub use self::examples::{ExamplePicture, Examples};
use self::grammar::{ParsedLabel, ParsedQuestion, ParsedSentences};
use crate::config::{Position, Problem, read_text};

/// Maximum number of sentences in a file. Each costs one pass through the text tower, about 10 ms on a board: this many take
/// minutes, and about 20 MB in the cache.
const SENTENCES_MAX: usize = 10_000;

// Otherwise some would be embedded again at every start.
const _: () = assert!(SENTENCES_MAX <= spotter_engine::labels::ENTRIES_MAX);

/// A label file that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelFile {
    /// The file, as messages call it.
    pub path: String,
    /// What is embedded, in the order of [`Competition`]: labels outside of questions and those of questions, of which there
    /// is at least one, then opposites and background, whose names are their prompts.
    pub rows: Vec<Label>,
    /// Position of each row in the file.
    pub positions: Vec<Position>,
    /// How the rows compete.
    pub competition: Competition,
    /// How the labels are decided about.
    pub rules: Arc<Rules>,
    /// Example pictures of each label.
    pub examples: Vec<Examples>,
    /// For each label, whether it has a threshold or a release of its own, which a calibration does not change.
    pub has_limits: Vec<bool>,
}

impl LabelFile {
    /// The labels that are reported.
    pub fn labels(&self) -> &[Label] {
        &self.rows[..self.competition.labels()]
    }

    /// Question and name of each label.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Option<&str>, &str)> + Clone {
        self.labels().iter().enumerate().map(|(index, label)| {
            let question = self.competition.question_of(index).map(|question| question.name.as_str());
            (question, label.name.as_str())
        })
    }

    /// Returns whether both files mean the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let Self { path: _, rows, positions: _, competition, rules, examples, has_limits } = self;
        (rows, competition, rules, examples, has_limits)
            == (&other.rows, &other.competition, &other.rules, &other.examples, &other.has_limits)
    }

    /// Describes a row for people, such as "label `cat`".
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn describe(&self, row: usize) -> String {
        let (name, competition) = (&self.rows[row].name, &self.competition);
        let labels = 0..competition.labels();
        let owner = labels.clone().find(|&label| competition.opposites(label).contains(&row));
        if competition.background().contains(&row) {
            format!("background `{name}`")
        } else if let Some(owner) = owner {
            format!("opposite `{name}` of {}", self.describe(owner))
        } else {
            format!("label `{}`", self.full_name(row))
        }
    }

    /// Name of a label, after the question's if it has one.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn full_name(&self, row: usize) -> String {
        let name = &self.rows[row].name;
        self.competition.question_of(row).map_or_else(|| name.clone(), |question| format!("{}: {name}", question.name))
    }
}

/// A label file that was parsed, and takes a bundle's templates where it has none of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedLabels {
    path: String,
    smooth_s: f32,
    /// Labels outside of questions.
    labels: Vec<ParsedLabel>,
    questions: Vec<ParsedQuestion>,
    background: Vec<ParsedSentences>,
    view: ViewRules,
}

/// Reads the label file `path`; labels without templates get the file's, else `default_templates`.
pub fn load(path: &Path, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_file(path)?.resolve(default_templates)
}

/// Parses the label file `path`.
pub fn parse_file(path: &Path) -> Result<ParsedLabels, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    grammar::parse_in(folder_of(path), &path.display().to_string(), &text)
}

pub use self::grammar::parse_text;

#[cfg(test)]
pub(crate) fn parse(path: &str, text: &str, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
    parse_text(path, text)?.resolve(default_templates)
}

/// The rows of a file, while they are collected.
struct Rows<'a> {
    path: &'a str,
    default_templates: &'a [String],
    rows: Vec<Label>,
    positions: Vec<Position>,
    sentences: usize,
}

impl Rows<'_> {
    fn add(&mut self, name: &str, prompts: Vec<String>, of: &ParsedSentences) -> Result<(), Vec<Problem>> {
        let templates = of.templates.as_deref().unwrap_or(self.default_templates);
        self.sentences += prompts.len() * templates.len();
        if self.sentences > SENTENCES_MAX {
            let why = "each prompt in each template is one, and has to be embedded and cached";
            let message = format!("more than {SENTENCES_MAX} sentences: {why}");
            return Err(vec![Problem { path: self.path.to_owned(), position: Some(of.start), message }]);
        }
        self.rows.push(Label { name: name.to_owned(), prompts, templates: templates.to_vec() });
        self.positions.push(of.position);
        Ok(())
    }

    /// Adds a row for each text: several opposites are different things, not several words for one.
    fn add_each(&mut self, texts: &[String], of: &ParsedSentences) -> Result<(), Vec<Problem>> {
        texts.iter().try_for_each(|text| self.add(text, vec![text.clone()], of))
    }
}

impl ParsedLabels {
    /// The labels, with `default_templates` for those that have none.
    ///
    /// # Errors
    /// The labels have more than 10,000 sentences.
    pub(crate) fn resolve(&self, default_templates: &[String]) -> Result<LabelFile, Vec<Problem>> {
        let (rows, positions) = Default::default();
        let mut rows = Rows { path: &self.path, default_templates, rows, positions, sentences: 0 };
        let labels: Vec<&ParsedLabel> =
            self.labels.iter().chain(self.questions.iter().flat_map(|question| &question.labels)).collect();
        for label in &labels {
            rows.add(&label.name, label.sentences.prompts.clone(), &label.sentences)?;
        }
        for label in &labels {
            rows.add_each(&label.opposites, &label.sentences)?;
        }
        for background in &self.background {
            rows.add_each(&background.prompts, background)?;
        }
        let Rows { rows, positions, .. } = rows;
        let questions = self.questions.iter().map(|question| (question.name.clone(), question.labels.len())).collect();
        let opposites: Vec<usize> = labels.iter().map(|label| label.opposites.len()).collect();
        let background = self.background.iter().map(|background| background.prompts.len()).sum();
        let competition = Competition::new(self.labels.len(), questions, &opposites, background);
        let rules = Arc::new(self.rules(&labels, &rows, &competition));
        let examples = labels.iter().map(|label| label.examples.clone()).collect();
        let has_limits = labels.iter().map(|label| label.has_limits).collect();
        let path = self.path.clone();
        Ok(LabelFile { path, rows, positions, competition, rules, examples, has_limits })
    }

    fn rules(&self, labels: &[&ParsedLabel], rows: &[Label], competition: &Competition) -> Rules {
        let label_rules = labels.iter().enumerate().map(|(index, label)| {
            let sentences = (&rows[index], &rows[competition.opposites(index)]);
            label.rules(grammar::meaning(sentences.0, sentences.1, &label.examples))
        });
        let question_rules = self.questions.iter().zip(competition.questions());
        Rules {
            smooth_s: self.smooth_s,
            labels: label_rules.collect(),
            questions: question_rules.map(|(parsed, question)| parsed.rules(question)).collect(),
            view: self.view,
        }
    }
}

#[cfg(test)]
mod tests;
