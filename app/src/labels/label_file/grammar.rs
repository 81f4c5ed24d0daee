//! The keys of a label file and their valid values.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::path::Path;

use spotter_engine::decide::{self, LabelRules, QuestionRules, ViewRules, default_release};
use spotter_engine::embedding::Question;
use spotter_engine::files::folder_of;
use spotter_engine::labels::Label;

use super::ParsedLabels;
use super::backgrounds::BackgroundSet;
use super::examples::{self, Examples};
use crate::config::document::{self, Section};
use crate::config::{Position, Problem};

/// Maximum number of labels in a file. All are compared with every frame, which takes about a millisecond for this many.
const LABELS_MAX: usize = 10_000;

/// Valid thresholds: a smoothed probability never reaches 1, and is never below 0.
const THRESHOLDS: RangeInclusive<f32> = 0.001..=0.999;

/// Valid times in seconds. What takes longer than an hour to be told is no event.
const SECONDS: RangeInclusive<f32> = 0.0..=3600.0;

/// Valid times after which a view is frozen, in seconds: shorter ones would be reached by every still scene.
const FROZEN_S: RangeInclusive<f32> = 1.0..=86_400.0;
/// Maximum number of example pictures in a file; the label cache has room for them beside as many sentences as a file may have.
const ALL_PICTURES_MAX: usize = 2000;

// Otherwise some would be embedded again at every start.
const _: () = assert!(super::SENTENCES_MAX + ALL_PICTURES_MAX <= spotter_engine::labels::ENTRIES_MAX);

/// A label as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParsedLabel {
    pub(super) name: String,
    pub(super) sentences: ParsedSentences,
    pub(super) opposites: Vec<String>,
    pub(super) examples: Examples,
    /// It has a threshold or a release of its own, which a calibration does not change.
    pub(super) has_limits: bool,
    threshold: f32,
    release: f32,
    for_s: f32,
    hold_s: f32,
}

/// A question as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParsedQuestion {
    pub(super) name: String,
    pub(super) labels: Vec<ParsedLabel>,
    smooth_s: f32,
}

/// Prompts and templates of a label or of a background.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParsedSentences {
    pub(super) prompts: Vec<String>,
    /// Its own templates, else the file's; `None` where there are neither.
    pub(super) templates: Option<Vec<String>>,
    /// Position of the name, or of the table where there is none.
    pub(super) position: Position,
    /// Position of the table.
    pub(super) start: Position,
}

/// Parses the text of a label file, which messages call `path`. Example pictures are looked for in its folder.
pub fn parse_text(path: &str, text: &str) -> Result<ParsedLabels, Vec<Problem>> {
    parse_in(folder_of(Path::new(path)), path, text)
}

/// As [`parse_text`]; example pictures are looked for in `folder`.
pub(super) fn parse_in(folder: &Path, path: &str, text: &str) -> Result<ParsedLabels, Vec<Problem>> {
    document::read(path, text, |root| {
        let templates = templates(root);
        let smooth_s = root.number("smooth_s", SECONDS).unwrap_or(decide::SMOOTH_S);
        let mut set = LabelSet { folder, templates, count: 0, pictures: 0 };
        if !root.has("question") {
            root.require("label", "no labels: expected at least one `[[label]]` with a `name`");
        }
        let mut names = Names::new("label");
        let labels = root.tables("label", |section| set.label(section, &mut names)).unwrap_or_default();
        let mut names = Names::new("question");
        let question = |section: &Section<'_>| set.question(section, &mut names, smooth_s);
        let questions = root.tables("question", question).unwrap_or_default();
        let background = root.tables("background", |section| set.background(section)).unwrap_or_default();
        let view = root.table("view", view).unwrap_or_default();
        ParsedLabels { path: path.to_owned(), smooth_s, labels, questions, background, view }
    })
}

/// Which flaws of the view make states unknown.
fn view(section: &Section<'_>) -> ViewRules {
    let mut rules = ViewRules::default();
    for name in section.strings("ignore").unwrap_or_default() {
        match *name.get_ref() {
            "dark" => rules.dark = false,
            "covered" => rules.covered = false,
            "blurred" => rules.blurred = false,
            "frozen" => rules.frozen_s = 0.0,
            other => {
                let expected = "expected `dark`, `covered`, `blurred` or `frozen`";
                section.problem(name.span(), format!("`ignore`: {expected}, found `{other}`"));
            }
        }
    }
    if let Some(frozen_s) = section.number("frozen_s", FROZEN_S)
        && rules.frozen_s > 0.0
    {
        rules.frozen_s = frozen_s;
    }
    rules
}

/// Names that must differ.
struct Names {
    /// What they are names of.
    kind: &'static str,
    first_positions: HashMap<String, Position>,
}

impl Names {
    fn new(kind: &'static str) -> Self {
        Self { kind, first_positions: HashMap::new() }
    }

    /// The name of a section and its position.
    fn read(&mut self, section: &Section<'_>) -> (String, Position) {
        let kind = self.kind;
        let Some(name) = section.string("name") else {
            section.require("name", &format!("{kind} without a `name`"));
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
            section.problem(span, format!("{kind} `{}` is already defined in line {}", name.trim(), first.line));
        } else {
            self.first_positions.insert(name.trim().to_owned(), position);
        }
        (name.to_owned(), position)
    }
}

/// The state shared by all labels of a file while it is read.
struct LabelSet<'f> {
    /// The folder that relative paths begin at.
    folder: &'f Path,
    /// The file's templates.
    templates: Option<Vec<String>>,
    count: usize,
    /// Number of example pictures.
    pictures: usize,
}

impl LabelSet<'_> {
    fn label(&mut self, section: &Section<'_>, names: &mut Names) -> ParsedLabel {
        let (name, position) = names.read(section);
        let prompts = texts(section, "prompts").unwrap_or_else(|| vec![name.clone()]);
        let templates = templates(section).or_else(|| self.templates.clone());
        let opposites = texts(section, "opposites").unwrap_or_default();
        let examples = self.examples(section);
        let threshold = section.number("threshold", THRESHOLDS).unwrap_or(decide::THRESHOLD);
        let release = release(section, threshold);
        let for_s = section.number("for_s", SECONDS).unwrap_or(decide::FOR_S);
        let hold_s = section.number("hold_s", SECONDS).unwrap_or(decide::HOLD_S);
        self.count += 1;
        if self.count == LABELS_MAX + 1 {
            let why = "all of them are compared with every frame";
            section.problem(section.span(), format!("more than {LABELS_MAX} labels: {why}"));
        }
        let sentences = ParsedSentences { prompts, templates, position, start: section.position(&section.span()) };
        let has_limits = section.has("threshold") || section.has("release");
        ParsedLabel { name, sentences, opposites, examples, has_limits, threshold, release, for_s, hold_s }
    }

    fn examples(&mut self, section: &Section<'_>) -> Examples {
        let mut find = |key: &'static str| {
            let path = section.string(key)?;
            let found = match path.get_ref().trim() {
                "" => Err("expected a folder, found nothing between the quotes".to_owned()),
                text if text.starts_with("~/") => Err("`~` is not expanded here, write the whole path".to_owned()),
                text => examples::find(&self.folder.join(text)),
            };
            let found =
                found.inspect_err(|why| section.problem(path.span(), format!("`{key}`: {why}"))).unwrap_or_default();
            let before = self.pictures;
            self.pictures += found.len();
            if before <= ALL_PICTURES_MAX && self.pictures > ALL_PICTURES_MAX {
                let why = "each is embedded and cached";
                section.problem(path.span(), format!("more than {ALL_PICTURES_MAX} example pictures: {why}"));
            }
            Some(found)
        };
        let (shown, not_shown) = (find("examples").unwrap_or_default(), find("not_examples").unwrap_or_default());
        if section.has("not_examples") && !section.has("examples") {
            let message = "`not_examples` without `examples`: what do the pictures lack?";
            section.problem(section.span_of("not_examples"), message.to_owned());
        }
        Examples { shown, not_shown }
    }

    fn question(&mut self, section: &Section<'_>, names: &mut Names, smooth_s: f32) -> ParsedQuestion {
        let (name, _) = names.read(section);
        let smooth_s = section.number("smooth_s", SECONDS).unwrap_or(smooth_s);
        section
            .require("label", "question without labels: expected two or more `[[question.label]]`, each with a `name`");
        let mut names = Names::new("label");
        let labels = section.tables("label", |section| self.label(section, &mut names)).unwrap_or_default();
        if let [only] = labels.as_slice()
            && only.opposites.is_empty()
        {
            let expected = "expected another `[[question.label]]`, or `opposites`";
            let message = format!("question `{name}` has one label, which would always be the answer: {expected}");
            section.problem(section.span(), message);
        }
        ParsedQuestion { name, labels, smooth_s }
    }

    fn background(&mut self, section: &Section<'_>) -> ParsedSentences {
        let position = section.position(&section.span());
        let set: Option<BackgroundSet> = section.choice("set");
        if !section.has("set") {
            section.require("prompts", "background without `prompts` and without a `set`");
        }
        let mut prompts = texts(section, "prompts").unwrap_or_default();
        prompts.extend(set.iter().flat_map(|set| set.prompts()).map(|&prompt| prompt.to_owned()));
        let templates = templates(section).or_else(|| self.templates.clone());
        ParsedSentences { prompts, templates, position, start: position }
    }
}

impl ParsedLabel {
    pub(super) fn rules(&self, meaning: u64) -> LabelRules {
        let Self { threshold, release, for_s, hold_s, .. } = *self;
        LabelRules { name: self.name.as_str().into(), meaning, threshold, release, for_s, hold_s }
    }
}

impl ParsedQuestion {
    pub(super) fn rules(&self, question: &Question) -> QuestionRules {
        let Question { name, labels } = question;
        QuestionRules { name: name.as_str().into(), labels: labels.clone(), smooth_s: self.smooth_s }
    }
}

/// A number that differs between labels with different sentences, opposites or example pictures.
pub(super) fn meaning(label: &Label, opposites: &[Label], examples: &Examples) -> u64 {
    let mut hasher = DefaultHasher::new();
    examples.hash(&mut hasher);
    for Label { prompts, templates, .. } in std::iter::once(label).chain(opposites) {
        (prompts, templates).hash(&mut hasher);
    }
    hasher.finish()
}

fn release(section: &Section<'_>, threshold: f32) -> f32 {
    let release = section.number("release", THRESHOLDS);
    if let Some(release) = release.filter(|release| *release > threshold) {
        let why = "a label ends below it, and starts from the threshold on";
        let message = format!("`release`: expected at most the threshold, {threshold}, found {release}: {why}");
        section.problem(section.span_of("release"), message);
    }
    release.unwrap_or_else(|| default_release(threshold))
}

fn texts(section: &Section<'_>, key: &'static str) -> Option<Vec<String>> {
    checked_strings(section, key, |text| match text.trim() {
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
