//! The steps of `SiglipTokenizer` (transformers 4.56.2 and 5.24.0), which calls SentencePiece directly: special tokens are
//! split off, each span of text between them is cleaned, prefixed with the unknown token's text and split by SentencePiece,
//! and the pieces of the prefix are dropped.

use tokenizers::models::ModelWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, Model as _};

use super::charsmap::Charsmap;
use super::{TokenizeError, guarded};
use crate::bundle::{Lowercase, SiglipSteps, TruncationSide};

/// Replaces a space in pieces.
const SPACE: &str = "\u{2581}";

/// A loaded SigLIP tokenizer.
#[derive(Debug)]
pub(crate) struct Siglip {
    steps: SiglipSteps,
    specials: Vec<(AddedToken, u32)>,
    charsmap: Charsmap,
    /// The vocabulary; reserved pieces in it cannot match.
    pieces: Unigram,
    /// Number of pieces of the unknown token's text.
    prefix: usize,
}

/// A special token by its index, or text between special tokens.
enum Part<'a> {
    Special(usize),
    Text(&'a str),
}

impl Siglip {
    /// Takes the content of `tokenizer.json` and the tokenizer that the tokenizers library loaded from it.
    pub(crate) fn new(json: &[u8], library: &tokenizers::Tokenizer, steps: SiglipSteps) -> Result<Self, TokenizeError> {
        let error = |message: &str| TokenizeError::File { message: message.to_owned() };
        let ModelWrapper::Unigram(model) = library.get_model() else {
            return Err(error("SigLIP's steps need a Unigram model"));
        };
        let reserved = |id: usize| steps.reserved.iter().any(|r| *r as usize == id);
        let vocabulary = model.iter().enumerate().map(|(id, (piece, score))| {
            // U+FDD0 is a noncharacter, which does not occur in text.
            if reserved(id) { (format!("\u{fdd0}{id}\u{fdd0}"), *score) } else { (piece.clone(), *score) }
        });
        let unknown = Some(steps.unk_id as usize);
        let pieces =
            guarded(|| Unigram::from(vocabulary.collect(), unknown, false)).map_err(|e| error(&e.to_string()))?;
        let mut specials: Vec<_> =
            library.get_added_tokens_decoder().into_iter().map(|(id, token)| (token, id)).collect();
        // Longer tokens take precedence.
        specials.sort_by_key(|(token, _)| std::cmp::Reverse(token.content.len()));
        let charsmap = charsmap(json).ok_or_else(|| error("its character map is damaged"))?;
        let mut made = Self { steps, specials, charsmap, pieces, prefix: 0 };
        made.prefix = made.pieces(&made.steps.unk_token)?.len();
        Ok(made)
    }

    /// Ids of `prompt` with the end token, at most `max_length`; the others are dropped on the side `truncated`.
    pub(crate) fn ids(
        &self,
        prompt: &str,
        max_length: usize,
        truncated: TruncationSide,
    ) -> Result<Vec<u32>, TokenizeError> {
        let text = self.lowercase(&format!("{SPACE}{}", prompt.replace(SPACE, " ")));
        let parts = self.parts(&text);
        let mut ids = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            match part {
                Part::Special(index) => ids.push(self.specials[*index].1),
                Part::Text(text) => {
                    let pieces = self.cleaned(text)?;
                    let lone_space = at == 0 && pieces.len() == 1 && pieces[0].1 == SPACE;
                    let special_next = matches!(parts.get(1), Some(Part::Special(_)));
                    if !(lone_space && special_next) {
                        ids.extend(pieces.iter().map(|(id, _)| *id));
                    }
                }
            }
        }
        truncated.truncate(&mut ids, max_length - 1);
        // A prompt that ends with the end token gets no second one.
        if ids.last() != Some(&self.steps.eos_id) {
            ids.push(self.steps.eos_id);
        }
        Ok(ids)
    }

    /// Returns the ids of `prompt` without a length limit and without the end token.
    pub(crate) fn all_ids(&self, prompt: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = self.ids(prompt, usize::MAX, TruncationSide::Right)?;
        ids.pop();
        Ok(ids)
    }

    /// Lowercases as transformers 4 does: letter by letter, before special tokens are split off, but not within them.
    fn lowercase(&self, text: &str) -> String {
        if self.steps.lowercase != Lowercase::Letters {
            return text.to_owned();
        }
        let mut lowered = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let special = self.special_at(rest).map(|index| self.specials[index].0.content.len());
            let (taken, after) = rest.split_at(special.unwrap_or(next.len_utf8()));
            if special.is_some() {
                lowered.push_str(taken);
            } else {
                lowered.extend(next.to_lowercase());
            }
            rest = after;
        }
        lowered
    }

    fn special_at(&self, text: &str) -> Option<usize> {
        self.specials.iter().position(|(token, _)| text.starts_with(&token.content))
    }

    /// Splits off special tokens, and strips the white space that they absorb.
    fn parts<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let (mut parts, mut start) = (Vec::new(), 0);
        let mut found = text.char_indices().filter_map(|(at, _)| Some((at, self.special_at(&text[at..])?)));
        let mut strip = false;
        let stretch = |range: std::ops::Range<usize>, left: bool, right: bool| {
            let text = text.get(range).unwrap_or_default();
            let text = if left { text.trim_start_matches(is_space) } else { text };
            if right { text.trim_end_matches(is_space) } else { text }
        };
        let push = |text: &'a str| (!text.is_empty()).then_some(Part::Text(text));
        while let Some((at, index)) = found.find(|(at, _)| *at >= start) {
            let token = &self.specials[index].0;
            parts.extend(push(stretch(start..at, strip, token.lstrip)));
            parts.push(Part::Special(index));
            (start, strip) = (at + token.content.len(), token.rstrip);
        }
        parts.extend(push(stretch(start..text.len(), strip, false)));
        parts
    }

    /// Pieces of a span of text without punctuation and repeated white space.
    fn cleaned(&self, text: &str) -> Result<Vec<(u32, String)>, TokenizeError> {
        let lowered = (self.steps.lowercase == Lowercase::Text).then(|| text.to_lowercase());
        let kept: String = lowered.as_deref().unwrap_or(text).chars().filter(|c| !c.is_ascii_punctuation()).collect();
        let words: Vec<_> = kept.split(is_space).filter(|word| !word.is_empty()).collect();
        let mut pieces = self.pieces(&format!("{}{}", self.steps.unk_token, words.join(" ")))?;
        // If the text merges with the prefix, transformers drops as many pieces all the same, and none if there are fewer.
        if pieces.len() >= self.prefix {
            pieces.drain(..self.prefix);
        }
        Ok(pieces)
    }

    /// SentencePiece's own steps: map characters, replace spaces, split into pieces.
    fn pieces(&self, text: &str) -> Result<Vec<(u32, String)>, TokenizeError> {
        let damaged = |message: String| TokenizeError::Prompt { prompt: text.to_owned(), message };
        let normal = self.normalize(text).ok_or_else(|| damaged("the character map is inconsistent".into()))?;
        let tokens = guarded(|| self.pieces.tokenize(&normal)).map_err(|e| damaged(e.to_string()))?;
        Ok(tokens.into_iter().map(|token| (token.id, token.value)).collect())
    }

    /// Maps characters and replaces spaces; `None` if the character map is inconsistent.
    fn normalize(&self, text: &str) -> Option<String> {
        let tight = self.steps.remove_extra_whitespaces;
        let mut rest = text;
        while tight && !rest.is_empty() {
            let (" ", after) = self.charsmap.step(rest)? else { break };
            rest = after;
        }
        let mut normal = String::with_capacity(text.len() + SPACE.len());
        if self.steps.add_dummy_prefix && !rest.is_empty() {
            normal.push_str(SPACE);
        }
        let mut behind_space = tight;
        while !rest.is_empty() {
            let (replaced, after) = self.charsmap.step(rest)?;
            let added = if behind_space { replaced.trim_start_matches(' ') } else { replaced };
            if !added.is_empty() {
                normal.push_str(&added.replace(' ', SPACE));
                behind_space = tight && added.ends_with(' ');
            }
            rest = after;
        }
        if tight {
            normal.truncate(normal.trim_end_matches(SPACE).len());
        }
        Some(normal)
    }
}

/// White space as Python defines it, which includes the separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The character map of the normalizer in `tokenizer.json`, or an empty one if there is none; `None` if it is damaged.
fn charsmap(json: &[u8]) -> Option<Charsmap> {
    let file: serde_json::Value = serde_json::from_slice(json).ok()?;
    let normalizer = &file["normalizer"];
    let steps = normalizer["normalizers"].as_array();
    let table = steps.into_iter().flatten().chain([normalizer]).find_map(|step| step["precompiled_charsmap"].as_str());
    match table {
        Some(text) => Charsmap::read(&base64::decode(text).ok()?),
        None => Some(Charsmap::default()),
    }
}
