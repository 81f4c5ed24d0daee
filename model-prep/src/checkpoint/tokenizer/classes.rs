//! Defaults of the tokenizer classes of transformers, from the table `classes.json`, which
//! `tests/reference/make_tokenizer_classes.py` writes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// The major version of transformers that wrote a tokenizer's files. Its classes determine what the files mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Generation {
    /// 4.56.2.
    Four,
    /// 5.24.0.
    Five,
}

impl Generation {
    /// The release that the table was generated with.
    pub(super) fn release(self) -> &'static str {
        match self {
            Self::Four => "4.56.2",
            Self::Five => "5.24.0",
        }
    }
}

/// Classes that only read `tokenizer.json`.
const PLAIN_CLASSES: [&str; 4] =
    ["PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend"];

/// What a class changes in the normaliser of `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WordNormalizer {
    /// Lower case, accents and Chinese characters, as configured.
    Bert,
    /// Lower case and accents only.
    Case,
}

/// A class's default for a special token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum ClassToken {
    Plain(String),
    /// Content, lstrip, rstrip, normalized.
    Flagged(String, bool, bool, bool),
}

/// The defaults of one class. The script that writes the table describes the fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ClassFacts {
    pub(super) side: Option<String>,
    pub(super) mask: Option<bool>,
    pub(super) types: bool,
    pub(super) pad_type: u32,
    prefix_space: Option<Value>,
    pub(super) normalizer: Option<WordNormalizer>,
    pub(super) lowercase: Option<bool>,
    pub(super) bos_eos: Option<[bool; 2]>,
    pub(super) tokens: BTreeMap<String, ClassToken>,
    pub(super) further: Vec<String>,
    pub(super) refused: Option<String>,
}

impl ClassFacts {
    /// Default of `add_prefix_space`; `None` if `tokenizer.json` decides.
    pub(super) fn prefix_space(&self, generation: Generation) -> Option<bool> {
        let without = (generation == Generation::Four).then_some(false);
        self.prefix_space.as_ref().map_or(without, Value::as_bool)
    }

    /// Returns whether the class reads `add_prefix_space`.
    pub(super) fn knows_prefix_space(&self, generation: Generation) -> bool {
        generation == Generation::Four || self.prefix_space.is_some()
    }
}

/// Classes by name, by major version.
type Table = BTreeMap<String, BTreeMap<String, ClassFacts>>;

static TABLE: LazyLock<Result<Table, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("classes.json")).map_err(|e| e.to_string()));

static PLAIN_FOUR: LazyLock<ClassFacts> = LazyLock::new(|| ClassFacts { types: true, ..ClassFacts::default() });
static PLAIN_FIVE: LazyLock<ClassFacts> = LazyLock::new(ClassFacts::default);

/// Looks up a class by name, with or without the suffix `Fast`; an error if the built-in table cannot be parsed.
pub(super) fn class(generation: Generation, name: &str) -> Result<Option<&'static ClassFacts>, String> {
    if PLAIN_CLASSES.contains(&name) {
        return Ok(Some(plain(generation)));
    }
    let table = TABLE.as_ref().map_err(|e| format!("the built-in table of tokenizer classes is damaged: {e}"))?;
    let rows = table.get(match generation {
        Generation::Four => "4",
        Generation::Five => "5",
    });
    let found = |name: &str| rows.and_then(|rows| rows.get(name));
    Ok(found(name).or_else(|| found(name.strip_suffix("Fast")?)))
}

/// A class that only reads `tokenizer.json`.
pub(super) fn plain(generation: Generation) -> &'static ClassFacts {
    match generation {
        Generation::Four => &PLAIN_FOUR,
        Generation::Five => &PLAIN_FIVE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_parsed() {
        let check = |generation, name, left: bool, bos_eos| {
            let facts = class(generation, name).expect("the table parses").expect(name);
            assert_eq!(facts.side.as_deref() == Some("left"), left, "{name}");
            assert_eq!(facts.bos_eos, bos_eos, "{name}");
        };
        check(Generation::Four, "GemmaTokenizer", true, Some([true, false]));
        check(Generation::Four, "GemmaTokenizerFast", true, Some([true, false]));
        check(Generation::Four, "GPTNeoXTokenizerFast", false, Some([false, false]));
        check(Generation::Four, "XLNetTokenizer", true, None);
        check(Generation::Five, "Siglip2Tokenizer", true, None);
        check(Generation::Five, "GPTNeoXTokenizer", false, Some([false, false]));
        assert!(class(Generation::Four, "Siglip2Tokenizer").is_ok_and(|found| found.is_none()));
    }
}
