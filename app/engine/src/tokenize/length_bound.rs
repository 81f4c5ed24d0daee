//! A bound on the length of a prompt after normalisation: each step of a normalizer can lengthen it, and a chain of steps
//! can exceed any memory.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer as _, NormalizerWrapper};

use super::{TokenizeError, file_error, guarded};

/// Bytes that a normalised prompt may have. The tokenizers library needs about 40 bytes of memory for each.
const NORMALIZED_BYTES_MAX: u64 = 4 << 20;

/// The most bytes that one byte becomes in a step of unknown type, as in NFKC: U+FDFA grows from 3 bytes to 33.
const COMPATIBILITY: u64 = 11;

/// Bounds the length of the texts that a tokenizer's normalizer returns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LengthBound {
    steps: Vec<Step>,
}

/// One step. Its result has at most `(bytes + 1) * factor + added` bytes.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    factor: u64,
    added: u64,
    /// As in the file.
    normalizer: Value,
}

impl Step {
    fn bytes(&self, bytes: u64) -> u64 {
        bytes.saturating_add(1).saturating_mul(self.factor).saturating_add(self.added)
    }
}

/// The part of a `tokenizer.json` that changes text.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
}

impl LengthBound {
    /// Reads the normalizer in the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// The content is not JSON.
    pub(crate) fn of(json: &[u8]) -> Result<Self, TokenizeError> {
        let File { normalizer } =
            serde_json::from_slice(json).map_err(|error| TokenizeError::File { message: error.to_string() })?;
        let mut steps = Vec::new();
        add_steps(&normalizer, &mut steps);
        Ok(Self { steps })
    }

    /// Refuses a prompt whose normalised form may become too long.
    ///
    /// If the combined bound of all steps is too large, as it is for many tokenizers with a prompt of some thousand bytes,
    /// the steps are run one by one, and each is bounded by the actual length of its input.
    pub(crate) fn check(&self, prompt: &str) -> Result<(), TokenizeError> {
        let found_bytes = prompt.len() as u64;
        if self.steps.iter().fold(found_bytes, |bytes, step| step.bytes(bytes)) <= NORMALIZED_BYTES_MAX {
            return Ok(());
        }
        let mut text = NormalizedString::from(prompt);
        for step in &self.steps {
            let normalized_bytes = step.bytes(text.get().len() as u64);
            if normalized_bytes > NORMALIZED_BYTES_MAX {
                return Err(TokenizeError::Length { found_bytes, normalized_bytes, bytes_max: NORMALIZED_BYTES_MAX });
            }
            let normalizer =
                NormalizerWrapper::deserialize(&step.normalizer).map_err(|error| file_error(error.into()))?;
            guarded(|| normalizer.normalize(&mut text)).map_err(file_error)?;
        }
        Ok(())
    }
}

/// Collects the steps of a normalizer. Types are recognised by their fields, as the tokenizers library does for files of
/// old versions that have no `type`.
fn add_steps(normalizer: &Value, steps: &mut Vec<Step>) {
    let length = |value: &Value| value.as_str().map_or(0, str::len) as u64;
    let (mut factor, mut added) = (1, 0);
    if let Some(inner) = normalizer.get("normalizers").and_then(Value::as_array) {
        inner.iter().for_each(|inner| add_steps(inner, steps));
        return;
    } else if let Some(content) = normalizer.get("content") {
        let matched = normalizer.get("pattern").and_then(|pattern| pattern.get("String")).map_or(0, length);
        // A regular expression may match the empty text between any two characters.
        factor = if matched == 0 { length(content) + 1 } else { length(content).div_ceil(matched).max(1) };
    } else if let Some(prepended) = normalizer.get("prepend") {
        added = length(prepended);
    } else if let Some(charsmap) = normalizer.get("precompiled_charsmap") {
        factor = charsmap.as_str().map_or(1, longest_text).max(1);
    } else {
        factor = match normalizer.get("type").and_then(Value::as_str) {
            Some("Strip" | "StripAccents" | "Nmt") => 1,
            Some("Lowercase" | "ByteLevel") => 2,
            Some("NFC" | "NFD") => 3,
            // Spaces around letters, NFD, lower case.
            Some("BertNormalizer") => 6,
            None if normalizer.is_null() => return,
            _ => COMPATIBILITY,
        };
    }
    steps.push(Step { factor, added, normalizer: normalizer.clone() });
}

/// Bytes of the longest replacement text of a SentencePiece character map.
fn longest_text(charsmap: &str) -> u64 {
    let bytes = base64::decode(charsmap).unwrap_or_default();
    let texts =
        bytes.split_first_chunk::<4>().and_then(|(length, rest)| rest.get(u32::from_le_bytes(*length) as usize..));
    texts.unwrap_or_default().split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_bound(normalizer: &str) -> Result<LengthBound, TokenizeError> {
        LengthBound::of(format!(r#"{{"normalizer": {normalizer}, "model": {{}}}}"#).as_bytes())
    }

    fn replace(pattern: &str, content: &str) -> String {
        format!(r#"{{"type": "Replace", "pattern": {pattern}, "content": "{content}"}}"#)
    }

    fn sequence(steps: &[String]) -> String {
        format!(r#"{{"type": "Sequence", "normalizers": [{}]}}"#, steps.join(", "))
    }

    #[test]
    fn steps_have_a_bound() {
        let check = |what: &str, normalizer: &str, bytes: u64, expected: u64| {
            let length_bound = length_bound(normalizer).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(length_bound.steps.iter().fold(bytes, |bytes, step| step.bytes(bytes)), expected, "{what}");
        };
        check("none", "null", 7, 7);
        check("a letter", &replace(r#"{"String": "a"}"#, "bcd"), 9, 30);
        check("a longer pattern", &replace(r#"{"String": "abc"}"#, "d"), 9, 10);
        check("an empty pattern", &replace(r#"{"String": ""}"#, "ab"), 9, 30);
        check("an expression", &replace(r#"{"Regex": "\\s+"}"#, " "), 9, 20);
        check("without a type", r#"{"pattern": {"Regex": "x*"}, "content": "abc"}"#, 9, 40);
        check("a prefix", r#"{"type": "Prepend", "prepend": "abc"}"#, 9, 13);
        check("NFKC", r#"{"type": "NFKC"}"#, 9, 110);
        let two = [replace(r#"{"String": "a"}"#, "bb"), replace(r#"{"String": "b"}"#, "ccc")];
        check("one after the other", &sequence(&two), 9, 63);
        check("within each other", &sequence(&[sequence(&two)]), 9, 63);
        // An array of one unit, then two texts.
        let table = base64::encode([&[4_u8, 0, 0, 0, 0, 0, 0, 0][..], b"ab\0abcde\0"].concat());
        check("a table", &format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{table}"}}"#), 9, 50);
        check("a damaged table", r#"{"type": "Precompiled", "precompiled_charsmap": "AAA"}"#, 9, 10);
    }

    #[test]
    fn prompts_that_may_grow_too_long_are_refused() {
        let doubled = |letter: &str, count: usize| {
            let step = replace(&format!(r#"{{"String": "{letter}"}}"#), &letter.repeat(2));
            sequence(&vec![step; count])
        };
        let check = |what: &str, normalizer: &str, prompt: &str, fits: bool| {
            let length_bound = length_bound(normalizer).unwrap_or_else(|error| panic!("{what}: {error}"));
            match length_bound.check(prompt) {
                Ok(()) => assert!(fits, "{what}: taken"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!fits && error.contains(&format!("prompt of {} bytes", prompt.len())), "{what}: {error}");
                    assert!(error.contains("at most 4194304"), "{what}: {error}");
                }
            }
        };
        check("32 times as long", &doubled("a", 5), &"a".repeat(100_000), true);
        check("6 MB", &doubled("a", 5), &"a".repeat(200_000), false);
        check("1 GiB times as long", &doubled("a", 30), &"a".repeat(100), false);
        check("many that change nothing", &doubled("b", 500), &"a".repeat(100), true);
        check("out of nothing", &replace(r#"{"Regex": ""}"#, &"a".repeat(50_000)), &"b".repeat(100), false);
        let out_of_nothing = sequence(&[r#"{"type": "Prepend", "prepend": "aa"}"#.to_owned(), doubled("a", 30)]);
        check("an empty prompt stays so", &out_of_nothing, "", true);
        check("a prefix that grows", &out_of_nothing, "b", false);
    }
}
