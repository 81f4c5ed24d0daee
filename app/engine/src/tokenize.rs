//! Prompts to token ids, attention mask and token types, as `VisionTextDualEncoderProcessor` returns them, and to the
//! position ids that the text towers of transformers compute themselves.

mod charsmap;
mod length_bound;
pub(crate) mod siglip;

use std::sync::Arc;

use tokenizers::{TruncationDirection, TruncationParams};

pub(crate) use self::length_bound::LengthBound;
use self::siglip::Siglip;
use crate::bundle::{Padding, PaddingSide, Positions, TokenizerSpec, TruncationSide};

/// A tokenizer with the truncation of its checkpoint; clones share its vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    length_bound: Arc<LengthBound>,
    siglip: Option<Arc<Siglip>>,
    max_length: usize,
    truncation_side: TruncationSide,
    /// The length that all prompts are padded to, if it is fixed.
    fixed_length: Option<usize>,
    padding_side: PaddingSide,
    pad_id: i64,
    pad_type_id: i64,
    positions: Positions,
}

/// The text tower's inputs for one prompt; all lists have the same length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
    /// Token types (segments); 0 for a single sentence.
    pub type_ids: Vec<i64>,
    /// Position ids.
    pub position_ids: Vec<i64>,
}

/// Why a tokenizer could not be loaded, or a prompt not be tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The tokenizer file cannot be used.
    #[error("not a usable tokenizer.json: {message}")]
    File {
        /// The problem, mostly in the words of the tokenizers library.
        message: String,
    },
    /// The prompt is so long that its normalised form, before truncation, might fill the memory.
    #[error(
        "prompt of {found_bytes} bytes: normalised it may have {normalized_bytes} bytes, expected at most {bytes_max}; \
         shorten it"
    )]
    Length {
        /// Bytes of the prompt.
        found_bytes: u64,
        /// Bytes that its normalised form may have.
        normalized_bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The tokenizers library refused a prompt.
    #[error("prompt {prompt:?} cannot be tokenized: {message}")]
    Prompt {
        /// The prompt.
        prompt: String,
        /// The library's message.
        message: String,
    },
}

/// Calls the tokenizers library, which trusts the tables in a file and panics if they point outside of themselves.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("its tables contradict themselves".into()))
}

fn file_error(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::File { message: error.to_string() }
}

/// Loads the content of a `tokenizer.json` without padding and truncation. Also returns the number of special tokens that
/// are added to a prompt, and the bound on the length of normalised prompts.
pub(crate) fn library(json: &[u8]) -> Result<(tokenizers::Tokenizer, usize, LengthBound), TokenizeError> {
    let length_bound = LengthBound::of(json)?;
    let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(file_error)?;
    // Padding would hide the number of special tokens.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(file_error)?;
    length_bound.check("")?;
    let special = guarded(|| inner.encode("", true)).map_err(file_error)?.len();
    Ok((inner, special, length_bound))
}

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`; truncation and padding come from `spec`, not from the file.
    ///
    /// # Errors
    /// The file cannot be used, or `max_length` has no room beside the special tokens.
    pub fn from_bytes(json: &[u8], spec: &TokenizerSpec) -> Result<Self, TokenizeError> {
        let (mut inner, special, length_bound) = library(json)?;
        if spec.max_length <= special {
            let message = format!("max_length {} leaves no room beside the {special} special tokens", spec.max_length);
            return Err(TokenizeError::File { message });
        }
        let direction = match spec.truncation_side {
            TruncationSide::Left => TruncationDirection::Left,
            TruncationSide::Right => TruncationDirection::Right,
        };
        let truncation = TruncationParams { max_length: spec.max_length, direction, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(file_error)?;
        let siglip = spec.siglip.clone().map(|steps| Siglip::new(json, &inner, steps)).transpose()?;
        Ok(Self {
            inner: Arc::new(inner),
            length_bound: Arc::new(length_bound),
            siglip: siglip.map(Arc::new),
            max_length: spec.max_length,
            truncation_side: spec.truncation_side,
            fixed_length: (spec.padding == Padding::MaxLength).then_some(spec.max_length),
            padding_side: spec.padding_side,
            pad_id: i64::from(spec.pad_id),
            pad_type_id: i64::from(spec.pad_type_id),
            positions: spec.positions,
        })
    }

    /// Tokenizes one prompt: truncated to the maximum length, and padded to it if [`TokenizerSpec::padding`] says so.
    ///
    /// # Errors
    /// The prompt is too long, or the tokenizers library refuses it.
    pub fn encode(&self, prompt: &str) -> Result<Encoding, TokenizeError> {
        self.length_bound.check(prompt)?;
        let widen = |values: &[u32]| values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>();
        let (ids, mask, type_ids) = match &self.siglip {
            Some(siglip) => {
                let ids = widen(&siglip.ids(prompt, self.max_length, self.truncation_side)?);
                (ids.clone(), vec![1; ids.len()], vec![0; ids.len()])
            }
            None => {
                let encoding = guarded(|| self.inner.encode(prompt, true))
                    .map_err(|e| TokenizeError::Prompt { prompt: prompt.to_owned(), message: e.to_string() })?;
                let lists = [encoding.get_ids(), encoding.get_attention_mask(), encoding.get_type_ids()];
                lists.map(widen).into()
            }
        };
        let encoding = Encoding { position_ids: self.position_ids(&ids), ids, mask, type_ids };
        Ok(match self.fixed_length {
            Some(length) => self.pad(&encoding, length),
            None => encoding,
        })
    }

    /// The position ids of the tokens `ids`, as transformers computes them when the caller passes none.
    pub fn position_ids(&self, ids: &[i64]) -> Vec<i64> {
        let mut tokens = 0;
        let mut count = |id: &i64| {
            let counts = *id != self.pad_id;
            tokens += i64::from(counts);
            if counts { self.pad_id + tokens } else { self.pad_id }
        };
        match self.positions {
            Positions::Sequential => (0..).take(ids.len()).collect(),
            Positions::AfterPadding => ids.iter().map(&mut count).collect(),
        }
    }

    /// Tokenizes several prompts and pads them to the longest, as a processor of transformers does with `padding=True`. For
    /// callers that work with batches as transformers does.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_batch(&self, prompts: &[&str]) -> Result<Vec<Encoding>, TokenizeError> {
        let encodings = prompts.iter().map(|p| self.encode(p)).collect::<Result<Vec<_>, _>>()?;
        let longest = encodings.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        Ok(encodings.iter().map(|e| self.pad(e, longest)).collect())
    }

    /// Pads `encoding` to `length` tokens; position ids are counted again, as transformers does.
    pub fn pad(&self, encoding: &Encoding, length: usize) -> Encoding {
        let missing = length.saturating_sub(encoding.ids.len());
        let extend = |values: &[i64], fill: i64| -> Vec<i64> {
            let padding = std::iter::repeat_n(fill, missing);
            match self.padding_side {
                PaddingSide::Left => padding.chain(values.iter().copied()).collect(),
                PaddingSide::Right => values.iter().copied().chain(padding).collect(),
            }
        };
        let ids = extend(&encoding.ids, self.pad_id);
        Encoding {
            position_ids: self.position_ids(&ids),
            ids,
            mask: extend(&encoding.mask, 0),
            type_ids: extend(&encoding.type_ids, self.pad_type_id),
        }
    }
}

impl Encoding {
    /// Appends masked tokens up to `length`. They move no token, so they change no embedding, whether a token is pooled by
    /// its index or its id.
    pub(crate) fn with_masked_tail(&self, length: usize) -> Self {
        let extend = |values: &[i64], fill: i64| -> Vec<i64> {
            let missing = length.saturating_sub(values.len());
            values.iter().copied().chain(std::iter::repeat_n(fill, missing)).collect()
        };
        Self {
            // Pooling by id takes the first occurrence, so an id that occurs already changes nothing.
            ids: extend(&self.ids, self.ids.first().copied().unwrap_or(0)),
            mask: extend(&self.mask, 0),
            type_ids: extend(&self.type_ids, 0),
            position_ids: extend(&self.position_ids, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::manifest;

    #[test]
    fn tables_that_point_outside_of_themselves_are_errors() {
        let spec = TokenizerSpec { max_length: 8, ..manifest(1).tokenizer };
        // A double array of one unit, the root of every search, that points to index 5.
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "pre_tokenizer": null,
            "post_processor": null, "decoder": null,
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAUAABhAA=="},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}"#;
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), &spec).expect("nothing is looked up yet");
        let error = tokenizer.encode("a").expect_err("a place that is not there").to_string();
        assert!(error.contains("\"a\"") && error.contains("tables"), "{error}");
    }
}
