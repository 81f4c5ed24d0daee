//! What tokenizer classes of transformers decide when `tokenizer_config.json` is silent: `classes.json`, which
//! `tests/reference/make_tokenizer_classes.py` writes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// The generation of transformers that wrote a tokenizer's files, whose classes give them their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Generation {
    /// 4.56.2.
    Four,
    /// 5.24.0.
    Five,
}

impl Generation {
    /// The release that the table was made with.
    pub(super) fn release(self) -> &'static str {
        match self {
            Self::Four => "4.56.2",
            Self::Five => "5.24.0",
        }
    }
}

/// What a class does with the normaliser of `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WordNormalizer {
    /// Sets lower case, accents and Chinese characters as configured.
    Bert,
    /// Sets lower case and accents only.
    Case,
}

/// A special token that is given as a plain string.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum ClassToken {
    Plain(String),
    /// Content, lstrip, rstrip, normalized.
    Flagged(String, bool, bool, bool),
}

/// One class. The fields are described in the script that writes the table.
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
    /// Default of `add_prefix_space`; nothing where `tokenizer.json` is left as it is.
    pub(super) fn prefix_space(&self) -> Option<bool> {
        self.prefix_space.as_ref().map_or(Some(false), Value::as_bool)
    }
}

static TABLE: LazyLock<BTreeMap<String, BTreeMap<String, ClassFacts>>> =
    LazyLock::new(|| serde_json::from_str(include_str!("classes.json")).unwrap_or_default());

/// The class that `name` leads to in a generation, with or without its `Fast`.
pub(super) fn class(generation: Generation, name: &str) -> Option<&'static ClassFacts> {
    let rows = TABLE.get(match generation {
        Generation::Four => "4",
        Generation::Five => "5",
    })?;
    rows.get(name).or_else(|| rows.get(name.strip_suffix("Fast")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        serde_json::from_str::<BTreeMap<String, BTreeMap<String, ClassFacts>>>(include_str!("classes.json"))
            .expect("the table has the fields that are read");
        let check = |generation, name, left: bool, bos_eos| {
            let facts = class(generation, name).expect(name);
            assert_eq!(facts.side.as_deref() == Some("left"), left, "{name}");
            assert_eq!(facts.bos_eos, bos_eos, "{name}");
        };
        check(Generation::Four, "GemmaTokenizer", true, Some([true, false]));
        check(Generation::Four, "GemmaTokenizerFast", true, Some([true, false]));
        check(Generation::Four, "GPTNeoXTokenizerFast", false, Some([false, false]));
        check(Generation::Four, "XLNetTokenizer", true, None);
        check(Generation::Five, "Siglip2Tokenizer", true, None);
        assert!(class(Generation::Four, "Siglip2Tokenizer").is_none());
    }
}
