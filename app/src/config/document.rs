//! Reads typed values from TOML and collects every problem with its position.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Position, Problem, Report};

/// Reads `text` with `build`, which asks the root table for every known key; keys that it does not ask for are problems. The
/// value of `build` is dropped if there is any problem, so `build` may go on with placeholders.
pub(crate) fn read<T>(path: &str, text: &str, build: impl FnOnce(&Section<'_>) -> T) -> Result<T, Vec<Problem>> {
    // The byte order mark that some editors write is not part of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let report = Report::new(path, text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let message = match (error.message(), text.get(span.clone())) {
            // The parser does not name the key.
            ("duplicate key", Some(key)) => format!("duplicate key `{key}`"),
            (message, _) => message.to_owned(),
        };
        report.syntax(span.start, message);
    }
    let value = Section::read(root.get_ref(), 0, &report, build);
    report.into_result(value)
}

/// A table that is asked for its known keys.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    table: &'a DeTable<'a>,
    offset: usize,
    report: &'a Report<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    fn read<T>(
        table: &'a DeTable<'a>,
        offset: usize,
        report: &'a Report<'a>,
        build: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let section = Section { table, offset, report, asked: RefCell::default() };
        let value = build(&section);
        section.report_unknown();
        value
    }

    /// The string under `key`.
    pub(crate) fn string(&self, key: &'static str) -> Option<Spanned<&'a str>> {
        self.string_of(key, self.value(key)?, "a string")
    }

    /// The string under `key`, which must name one of the choices.
    pub(crate) fn choice<T: ValueEnum>(&self, key: &'static str) -> Option<T> {
        let found = self.string(key)?;
        self.choice_of(key, &found)
    }

    /// The array of strings under `key`, each of which must name one of the choices; others are problems and left out.
    pub(crate) fn choices<T: ValueEnum>(&self, key: &'static str) -> Option<Vec<T>> {
        let found = self.strings(key)?;
        Some(found.iter().filter_map(|text| self.choice_of(key, text)).collect())
    }

    fn choice_of<T: ValueEnum>(&self, key: &'static str, found: &Spanned<&'a str>) -> Option<T> {
        let choice = T::from_str(found.get_ref(), false).ok();
        if choice.is_none() {
            let values = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let names: Vec<String> = values.map(|value| format!("`{}`", value.get_name())).collect();
            let (names, found_name) = (names.join(", "), found.get_ref());
            self.problem(found.span(), format!("`{key}`: expected one of {names}, found `{found_name}`"));
        }
        choice
    }

    /// The boolean under `key`.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(found) => Some(*found),
            _ => self.wrong_type(key, value, "`true` or `false`"),
        }
    }

    /// The integer under `key`, which must lie in `range`.
    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let DeValue::Integer(found) = value.get_ref() else {
            return self.wrong_type(key, value, "an integer");
        };
        let number = u32::from_str_radix(found.as_str(), found.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.problem(value.span(), format!("`{key}`: expected {low} to {high}, found {found}"));
        }
        number
    }

    /// The number under `key`, whole or not, which must lie in `range`.
    pub(crate) fn number(&self, key: &'static str, range: RangeInclusive<f32>) -> Option<f32> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(found) if found.radix() == 10 => found.as_str(),
            DeValue::Float(found) => found.as_str(),
            _ => return self.wrong_type(key, value, "a number"),
        };
        let number = text.parse::<f32>().ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.problem(value.span(), format!("`{key}`: expected {low} to {high}, found {text}"));
        }
        number
    }

    /// The array of strings under `key`, which must not be empty; elements of other types are problems and left out.
    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<Spanned<&'a str>>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong_type(key, value, "an array of strings");
        };
        let expected = "an array of strings only";
        if items.is_empty() {
            self.problem(value.span(), format!("`{key}`: expected at least one string, found an empty array"));
        }
        Some(items.iter().filter_map(|item| self.string_of(key, item, expected)).collect())
    }

    /// The table under `key`, read with `build`.
    pub(crate) fn table<T>(&self, key: &'static str, build: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        let value = self.value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong_type(key, value, "a table");
        };
        Some(Self::read(table, value.span().start, self.report, build))
    }

    /// The array of tables under `key`, each read with `build`. It must not be empty; elements of other types are problems
    /// and left out.
    pub(crate) fn tables<T>(&self, key: &'static str, mut build: impl FnMut(&Section<'a>) -> T) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let expected = format!("an array of tables (`[[{key}]]`)");
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong_type(key, value, &expected);
        };
        if items.is_empty() {
            self.problem(value.span(), format!("`{key}`: expected at least one `[[{key}]]`, found an empty array"));
        }
        let tables = items.iter().filter_map(|item| match item.get_ref() {
            DeValue::Table(table) => Some(Self::read(table, item.span().start, self.report, &mut build)),
            _ => self.wrong_type(key, item, &expected),
        });
        Some(tables.collect())
    }

    /// Notes a problem with the value at `span`.
    pub(crate) fn problem(&self, span: Range<usize>, message: String) {
        self.report.meaning(span.start, message);
    }

    /// Notes that `key` is missing, unless it may be in a part that could not be parsed.
    pub(crate) fn require(&self, key: &str, message: &str) {
        if !self.table.contains_key(key) && self.report.is_whole() {
            self.report.meaning(self.offset, message.to_owned());
        }
    }

    /// Notes keys as known that are not asked for, so that they are no second problem.
    pub(crate) fn know(&self, keys: &[&'static str]) {
        self.asked.borrow_mut().extend(keys);
    }

    /// Returns whether there is a value under `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The span of the value under `key`, or that of the section if there is none.
    pub(crate) fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span(), Spanned::span)
    }

    /// Line and column of the start of `span`.
    pub(crate) fn position(&self, span: &Range<usize>) -> Position {
        self.report.position(span.start)
    }

    /// The empty span at the start of the section.
    pub(crate) fn span(&self) -> Range<usize> {
        self.offset..self.offset
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    fn string_of(&self, key: &str, value: &'a Spanned<DeValue<'a>>, expected: &str) -> Option<Spanned<&'a str>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.as_ref())),
            _ => self.wrong_type(key, value, expected),
        }
    }

    fn wrong_type<T>(&self, key: &str, found: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        let found_type = match found.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.problem(found.span(), format!("`{key}`: expected {expected}, found {found_type}"));
        None
    }

    fn report_unknown(&self) {
        if self.report.has_broken_header() {
            // The keys under it were read as part of the table before.
            return;
        }
        let asked = self.asked.borrow();
        for key in self.table.keys().filter(|key| !asked.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let hint = match nearest(name, &asked) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: `{}`", asked.join("`, `")),
            };
            self.problem(key.span(), format!("unknown key `{name}`: {hint}"));
        }
    }
}

/// The known key that `word` is probably a misspelling of.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    // More than a third of the letters wrong is another word.
    let limit = (word.chars().count() / 3).max(1);
    let near = known.iter().map(|&k| (strsim::osa_distance(&word, k), k)).filter(|&(distance, _)| distance <= limit);
    near.min_by_key(|&(distance, _)| distance).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_are_recognised_and_other_words_are_not() {
        let known = ["source", "bundle", "labels", "output", "state_dir", "top_k", "fps"];
        let check = |word: &str, expected: Option<&str>| assert_eq!(nearest(word, &known), expected, "{word}");
        check("sorce", Some("source"));
        check("suorce", Some("source"));
        check("label", Some("labels"));
        check("State-Dir", Some("state_dir"));
        check("topk", Some("top_k"));
        check("fsp", Some("fps"));
        check("camera", None);
        check("", None);
        check("é", None);
    }

    #[derive(Debug, Clone, Copy, ValueEnum)]
    enum Shape {
        Round,
        Square,
    }

    fn problems(text: &str) -> Vec<String> {
        let found = read("f", text, |root| {
            root.string("name");
            root.choice::<Shape>("shape");
            root.choices::<Shape>("shapes");
            root.boolean("bright");
            root.integer("size", 1..=9);
            root.number("weight", 0.5..=1e3);
            root.strings("words");
            root.table("inner", |inner| inner.integer("depth", 0..=4_000_000_000));
            root.tables("item", |item| {
                item.string("name");
                item.require("name", "no name");
            });
        });
        found.err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_has_a_position() {
        let check = |text: &str, expected: &[&str]| assert_eq!(problems(text), expected, "{text}");
        check("", &[]);
        check("\u{feff}name = 1", &["f:1:8: `name`: expected a string, found an integer"]);
        check("name = 'x'\nsize = 0x9\nshape = 'round'\nwords = ['']\n[inner]\ndepth = 1_000\n", &[]);
        check("nmae = 'x'", &["f:1:1: unknown key `nmae`: did you mean `name`?"]);
        check(
            "colour = 'x'",
            &[
                "f:1:1: unknown key `colour`: known here: `name`, `shape`, `shapes`, `bright`, `size`, `weight`, `words`, `inner`, `item`",
            ],
        );
        check("[inner]\ndpeth = 1", &["f:2:1: unknown key `dpeth`: did you mean `depth`?"]);
        check("inner.depth = -1", &["f:1:15: `depth`: expected 0 to 4000000000, found -1"]);
        check("inner = 3", &["f:1:9: `inner`: expected a table, found an integer"]);
        check("size = 10", &["f:1:8: `size`: expected 1 to 9, found 10"]);
        check("size = 0xFFFFFFFFFFFFFFFFFF", &["f:1:8: `size`: expected 1 to 9, found 0xFFFFFFFFFFFFFFFFFF"]);
        check("size = 1.0", &["f:1:8: `size`: expected an integer, found a float"]);
        check("size = 2024-01-01", &["f:1:8: `size`: expected an integer, found a date or time"]);
        check("weight = 1_0.5", &[]);
        check("weight = 7", &[]);
        check("weight = 1e3", &[]);
        check("weight = 0.25", &["f:1:10: `weight`: expected 0.5 to 1000, found 0.25"]);
        check("weight = -1", &["f:1:10: `weight`: expected 0.5 to 1000, found -1"]);
        check("weight = nan", &["f:1:10: `weight`: expected 0.5 to 1000, found nan"]);
        check("weight = '1'", &["f:1:10: `weight`: expected a number, found a string"]);
        check("weight = 0x10", &["f:1:10: `weight`: expected a number, found an integer"]);
        check("shape = 'flat'", &["f:1:9: `shape`: expected one of `round`, `square`, found `flat`"]);
        check("words = 'a'", &["f:1:9: `words`: expected an array of strings, found a string"]);
        check("shapes = ['round', 'square']\nbright = true", &[]);
        check("shapes = ['round', 'flat']", &["f:1:20: `shapes`: expected one of `round`, `square`, found `flat`"]);
        check("bright = 1", &["f:1:10: `bright`: expected `true` or `false`, found an integer"]);
        check(
            "words = ['a', 1,\n true]",
            &[
                "f:1:15: `words`: expected an array of strings only, found an integer",
                "f:2:2: `words`: expected an array of strings only, found a boolean",
            ],
        );
        check("\n[[item]]\n[[item]]\nname = 'a'", &["f:2:1: no name"]);
        check("[item]", &["f:1:1: `item`: expected an array of tables (`[[item]]`), found a table"]);
        check("item = []", &["f:1:8: `item`: expected at least one `[[item]]`, found an empty array"]);
        check("words = []", &["f:1:9: `words`: expected at least one string, found an empty array"]);
        check("item = ['a']", &["f:1:9: `item`: expected an array of tables (`[[item]]`), found a string"]);
        check(
            "size = 0\nnmae = 'é'\nname = 3\n",
            &[
                "f:1:8: `size`: expected 1 to 9, found 0",
                "f:2:1: unknown key `nmae`: did you mean `name`?",
                "f:3:8: `name`: expected a string, found an integer",
            ],
        );
    }

    #[test]
    fn syntax_errors_and_other_problems_are_reported_together() {
        let check = |text: &str, expected: &[&str]| assert_eq!(problems(text), expected, "{text}");
        check("size = 1\nsize = 2", &["f:2:1: duplicate key `size`"]);
        check(
            "name = \nsize = 10\nshape = 'round\n[[item]]\nnmae = 'x'",
            &[
                "f:1:8: string values must be quoted, expected literal string",
                "f:2:8: `size`: expected 1 to 9, found 10",
                "f:3:15: invalid literal string, expected `'`",
                "f:5:1: unknown key `nmae`: did you mean `name`?",
            ],
        );
        check("[inner\ndepth = 1", &["f:1:7: unclosed table, expected `]`"]);
        check("words = [1, 'a'", &["f:1:16: unclosed array, expected `]`"]);
        check(
            "size = 0\nname = \"\"\"x\nnmae = 1\n",
            &["f:1:8: `size`: expected 1 to 9, found 0", "f:4:1: invalid multi-line basic string, expected `\"`"],
        );
        check(
            "name = 'x' 'y'\nsize = 1_",
            &[
                "f:1:12: unexpected key or value, expected newline, `#`",
                "f:2:9: `_` may only go between digits, expected nothing",
            ],
        );
        check(
            "[inner]\n[inner]\n[[item]]\nname = 'x'\n[item]",
            &["f:2:2: duplicate key `inner`", "f:5:2: duplicate key `item`"],
        );
    }

    #[test]
    fn foreign_files_give_a_bounded_report() {
        let text = "%PDF binary = = =\n".repeat(20_000);
        let found = problems(&text);
        assert_eq!(found.len(), 51);
        assert!(found[50].ends_with("more problems"), "{}", found[50]);
        // The parser refuses deep nesting before the stack overflows.
        assert!(!problems(&format!("name = {}", "[".repeat(100_000))).is_empty());
        assert!(!problems(&format!("a{} = 1", ".a".repeat(100_000))).is_empty());
    }
}
