//! Prompts to token ids, attention mask and token types, as `VisionTextDualEncoderProcessor` gives them, and to the
//! position ids that the text tower counts by itself in the reference.

mod charsmap;
mod length_bound;
pub(crate) mod siglip;

use std::sync::Arc;

use tokenizers::TruncationParams;

pub(crate) use self::length_bound::LengthBound;
use self::siglip::Siglip;
use crate::bundle::{Padding, PaddingSide, Positions, TokenizerSpec};

/// A tokenizer with the truncation of its checkpoint; clones share its vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    length_bound: Arc<LengthBound>,
    siglip: Option<Arc<Siglip>>,
    max_length: usize,
    /// The length that every prompt has, where it is the same for all.
    fixed_length: Option<usize>,
    padding_side: PaddingSide,
    pad_id: i64,
    pad_type_id: i64,
    positions: Positions,
}

/// A prompt as the text tower takes it; the lists are equally long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
    /// Token types (segments); 0 for a single sentence.
    pub type_ids: Vec<i64>,
    /// Rows of the table of position embeddings.
    pub position_ids: Vec<i64>,
}

/// Why a prompt has no token ids.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The tokenizer file is not one that the tokenizers library reads.
    #[error("not a usable tokenizer.json: {message}")]
    File {
        /// The library's message.
        message: String,
    },
    /// The prompt is so long that what the tokenizer makes of it before it cuts it might fill the memory.
    #[error(
        "prompt of {found_bytes} bytes: the tokenizer may make {normalized_bytes} bytes of it before it is cut, expected \
         at most {bytes_max}; shorten it"
    )]
    Length {
        /// Bytes of the prompt.
        found_bytes: u64,
        /// Bytes that it may become.
        normalized_bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The library refused a prompt.
    #[error("prompt {prompt:?} cannot be tokenized: {message}")]
    Prompt {
        /// The prompt.
        prompt: String,
        /// The library's message.
        message: String,
    },
}

/// Calls the library, which believes the tables in a file and panics where they point outside of themselves.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("its tables contradict themselves".into()))
}

fn file_error(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::File { message: error.to_string() }
}

/// The library's tokenizer for the content of a `tokenizer.json`, without padding or truncation, how many special tokens
/// it puts around a prompt, and how long it may make prompts.
pub(crate) fn library(json: &[u8]) -> Result<(tokenizers::Tokenizer, usize, LengthBound), TokenizeError> {
    let length_bound = LengthBound::of(json)?;
    let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(file_error)?;
    // A file that pads to one length has no empty prompt.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(file_error)?;
    length_bound.check("")?;
    let special = guarded(|| inner.encode("", true)).map_err(file_error)?.len();
    Ok((inner, special, length_bound))
}

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`; truncation and padding come from `spec`, not from the file.
    pub fn from_bytes(json: &[u8], spec: &TokenizerSpec) -> Result<Self, TokenizeError> {
        let (mut inner, special, length_bound) = library(json)?;
        if spec.max_length <= special {
            let message = format!("max_length {} leaves no room beside the {special} special tokens", spec.max_length);
            return Err(TokenizeError::File { message });
        }
        inner
            .with_truncation(Some(TruncationParams { max_length: spec.max_length, ..TruncationParams::default() }))
            .map_err(file_error)?;
        let siglip = spec.siglip.clone().map(|steps| Siglip::new(json, &inner, steps)).transpose()?;
        Ok(Self {
            inner: Arc::new(inner),
            length_bound: Arc::new(length_bound),
            siglip: siglip.map(Arc::new),
            max_length: spec.max_length,
            fixed_length: (spec.padding == Padding::MaxLength).then_some(spec.max_length),
            padding_side: spec.padding_side,
            pad_id: i64::from(spec.pad_id),
            pad_type_id: i64::from(spec.pad_type_id),
            positions: spec.positions,
        })
    }

    /// Ids of one prompt, cut to the maximum length, and padded to it where [`TokenizerSpec::padding`] says so.
    pub fn encode(&self, prompt: &str) -> Result<Encoding, TokenizeError> {
        self.length_bound.check(prompt)?;
        let widen = |values: &[u32]| values.iter().map(|v| i64::from(*v)).collect::<Vec<_>>();
        let (ids, mask, type_ids) = match &self.siglip {
            Some(siglip) => {
                let ids = widen(&siglip.ids(prompt, self.max_length)?);
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

    /// The position ids that the reference gives to tokens `ids` where the caller gives none.
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

    /// Ids of several prompts, padded to the longest of them.
    pub fn encode_batch(&self, prompts: &[&str]) -> Result<Vec<Encoding>, TokenizeError> {
        let encodings = prompts.iter().map(|p| self.encode(p)).collect::<Result<Vec<_>, _>>()?;
        let longest = encodings.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        Ok(encodings.iter().map(|e| self.pad(e, longest)).collect())
    }

    /// `encoding`, padded to `length` tokens where it is shorter; positions are counted anew, as the reference does.
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
    /// The same with a tail up to `length` that the mask leaves out and that moves no token: it changes no embedding,
    /// whichever token is pooled by its place or its id.
    pub(crate) fn with_masked_tail(&self, length: usize) -> Self {
        let extend = |values: &[i64], fill: i64| -> Vec<i64> {
            let missing = length.saturating_sub(values.len());
            values.iter().copied().chain(std::iter::repeat_n(fill, missing)).collect()
        };
        Self {
            // An id that is there already is found at its first place.
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
    fn tables_that_point_outside_of_themselves_are_an_error() {
        let spec = TokenizerSpec { max_length: 8, ..manifest(1).tokenizer };
        // A double array of one unit, at which every search starts and which says to go on at place 5.
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "pre_tokenizer": null,
            "post_processor": null, "decoder": null,
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAUAABhAA=="},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}"#;
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), &spec).expect("nothing is looked up yet");
        let error = tokenizer.encode("a").expect_err("a place that is not there").to_string();
        assert!(error.contains("\"a\"") && error.contains("tables"), "{error}");
    }
}
