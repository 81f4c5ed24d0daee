//! The steps of transformers' `SiglipTokenizer` (4.56.2 and 5.24.0), which runs SentencePiece by itself: special tokens are
//! cut out, each stretch of text between them is cleaned and goes through SentencePiece behind the unknown token's text,
//! whose pieces are dropped.

use tokenizers::models::ModelWrapper;
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, Model as _};

use super::charsmap::Charsmap;
use super::{TokenizeError, guarded};
use crate::bundle::{Lowercase, SiglipSteps};

/// What stands for a space in pieces.
const SPACE: &str = "\u{2581}";

/// The tokenizer's parts, ready to be used.
#[derive(Debug)]
pub(crate) struct Siglip {
    steps: SiglipSteps,
    specials: Vec<(AddedToken, u32)>,
    charsmap: Charsmap,
    /// Without the pieces that stand for no text.
    pieces: Unigram,
    /// How many pieces the unknown token's text has.
    prefix: usize,
}

/// A part of a prompt: a special token, or text between such.
enum Part<'a> {
    Special(usize),
    Text(&'a str),
}

impl Siglip {
    /// `json` is the content of `tokenizer.json`, which `library` was made of.
    pub(crate) fn new(json: &[u8], library: &tokenizers::Tokenizer, steps: SiglipSteps) -> Result<Self, TokenizeError> {
        let error = |message: &str| TokenizeError::File { message: message.to_owned() };
        let ModelWrapper::Unigram(model) = library.get_model() else {
            return Err(error("SigLIP's steps go with a Unigram model"));
        };
        let reserved = |id: usize| steps.reserved.iter().any(|r| *r as usize == id);
        let vocabulary = model.iter().enumerate().map(|(id, (piece, score))| {
            // Text has no such characters, which Unicode has set aside.
            if reserved(id) { (format!("\u{fdd0}{id}\u{fdd0}"), *score) } else { (piece.clone(), *score) }
        });
        let unknown = Some(steps.unk_id as usize);
        let pieces =
            guarded(|| Unigram::from(vocabulary.collect(), unknown, false)).map_err(|e| error(&e.to_string()))?;
        let mut specials: Vec<_> =
            library.get_added_tokens_decoder().into_iter().map(|(id, token)| (token, id)).collect();
        // Where two start at one place the longer is taken.
        specials.sort_by_key(|(token, _)| std::cmp::Reverse(token.content.len()));
        let charsmap = charsmap(json).ok_or_else(|| error("its table of characters is damaged"))?;
        let mut made = Self { steps, specials, charsmap, pieces, prefix: 0 };
        made.prefix = made.pieces(&made.steps.unk_token)?.len();
        Ok(made)
    }

    /// Ids of `prompt`, at most `max_length` of them, with the token at the end.
    pub(crate) fn ids(&self, prompt: &str, max_length: usize) -> Result<Vec<u32>, TokenizeError> {
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
        ids.truncate(max_length - 1);
        // A prompt that ends in the token gets no second one.
        if ids.last() != Some(&self.steps.eos_id) {
            ids.push(self.steps.eos_id);
        }
        Ok(ids)
    }

    /// Returns the ids of `prompt` without a length limit and without the end token.
    pub(crate) fn all_ids(&self, prompt: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = self.ids(prompt, usize::MAX)?;
        ids.pop();
        Ok(ids)
    }

    /// Transformers 4 lowers each letter by itself before special tokens are looked for, but not within them.
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

    /// Special tokens and the text between them, without the white space that the tokens take along.
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

    /// Pieces of a stretch of text without punctuation and repeated white space.
    fn cleaned(&self, text: &str) -> Result<Vec<(u32, String)>, TokenizeError> {
        let lowered = (self.steps.lowercase == Lowercase::Text).then(|| text.to_lowercase());
        let kept: String = lowered.as_deref().unwrap_or(text).chars().filter(|c| !c.is_ascii_punctuation()).collect();
        let words: Vec<_> = kept.split(is_space).filter(|word| !word.is_empty()).collect();
        let mut pieces = self.pieces(&format!("{}{}", self.steps.unk_token, words.join(" ")))?;
        // Where the text's start joins with the prefix the reference drops as many, and where that leaves too few, none.
        if pieces.len() >= self.prefix {
            pieces.drain(..self.prefix);
        }
        Ok(pieces)
    }

    /// SentencePiece's own steps: characters are replaced, spaces become marks, pieces are looked for.
    fn pieces(&self, text: &str) -> Result<Vec<(u32, String)>, TokenizeError> {
        let damaged = |message: String| TokenizeError::Prompt { prompt: text.to_owned(), message };
        let normal =
            self.normalize(text).ok_or_else(|| damaged("the table of characters contradicts itself".into()))?;
        let tokens = guarded(|| self.pieces.tokenize(&normal)).map_err(|e| damaged(e.to_string()))?;
        Ok(tokens.into_iter().map(|token| (token.id, token.value)).collect())
    }

    /// Nothing where the table of characters contradicts itself.
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

/// White space in Python, which has the separators of ASCII too.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The table of characters in the normaliser of `tokenizer.json`, an empty one where there is none; nothing where it is
/// damaged.
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
