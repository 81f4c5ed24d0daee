//! Unknown and truncated word pieces of a sentence, for warnings about labels.

use std::ops::Range;

use serde::Deserialize;

use crate::bundle::{Bundle, TokenizerSpec, TruncationSide};
use crate::tokenize::siglip::Siglip;
use crate::tokenize::{LengthBound, TokenizeError, guarded, library};
use crate::tower::TowerError;

/// A tokenizer without its length limit, for examining sentences. It takes as much memory as a
/// [`Tokenizer`](crate::tokenize::Tokenizer); drop it after use.
#[derive(Debug)]
pub struct Vocabulary {
    inner: tokenizers::Tokenizer,
    length_bound: LengthBound,
    siglip: Option<Siglip>,
    /// `None` if no piece can be unknown, as in byte-level vocabularies.
    unknown_id: Option<u32>,
    /// The most word pieces that a sentence can have, without special tokens.
    limit: usize,
    truncation_side: TruncationSide,
}

/// The mark of a word's start in SentencePiece.
const WORD_START: char = '\u{2581}';

/// The word pieces of a sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokenization {
    /// Number of word pieces of the requested part of the sentence, without separators.
    pub pieces: usize,
    /// How many of them are the unknown token.
    pub unknown: usize,
    /// How many of them are single letters, or single bytes of letters, of longer words: the vocabulary lacks the words. In
    /// scripts where a letter is a syllable or a word, only bytes count.
    pub letters: usize,
    /// Number of word pieces of the whole sentence.
    pub sentence_pieces: usize,
    /// Ids of the word pieces that reach the text tower, without special tokens.
    pub ids: Vec<u32>,
}

impl Tokenization {
    /// Number of word pieces that are truncated.
    pub fn cut(&self) -> usize {
        self.sentence_pieces - self.ids.len()
    }
}

/// The part of a `tokenizer.json` that names the unknown token.
#[derive(Deserialize)]
struct File {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    /// In WordPiece, WordLevel and BPE models.
    unk_token: Option<String>,
    /// In Unigram models.
    unk_id: Option<u32>,
}

impl Vocabulary {
    /// Reads the tokenizer of a bundle.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or cannot be used as a tokenizer.
    pub fn open(bundle: &Bundle) -> Result<Self, TowerError> {
        let spec = &bundle.manifest().tokenizer;
        Ok(Self::from_bytes(&bundle.read(&spec.file)?, spec)?)
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// The content cannot be used as a tokenizer.
    pub fn from_bytes(json: &[u8], spec: &TokenizerSpec) -> Result<Self, TokenizeError> {
        let (inner, special, length_bound) = library(json)?;
        let siglip = spec.siglip.clone().map(|steps| Siglip::new(json, &inner, steps)).transpose()?;
        let file_error = |e: serde_json::Error| TokenizeError::File { message: e.to_string() };
        let Model { unk_token, unk_id } = serde_json::from_slice::<File>(json).map_err(file_error)?.model;
        let unknown_id = unk_id.or_else(|| inner.token_to_id(&unk_token?));
        let (limit, truncation_side) = (spec.max_length.saturating_sub(special), spec.truncation_side);
        Ok(Self { inner, length_bound, siglip, unknown_id, limit, truncation_side })
    }

    /// The most word pieces of a sentence that reach the text tower.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Tokenizes `sentence` and counts the word pieces in the byte range `part`. Pieces that overlap the range count, as
    /// those of a prompt that the template adds an ending to.
    ///
    /// # Errors
    /// The tokenizers library refuses the sentence.
    pub fn read(&self, sentence: &str, part: &Range<usize>) -> Result<Tokenization, TokenizeError> {
        self.length_bound.check(sentence)?;
        if let Some(siglip) = &self.siglip {
            return self.read_siglip(siglip, sentence, part);
        }
        let encoding = guarded(|| self.inner.encode(sentence, false))
            .map_err(|e| TokenizeError::Prompt { prompt: sentence.to_owned(), message: e.to_string() })?;
        let mut tokens = Tokenization { sentence_pieces: encoding.len(), ..Tokenization::default() };
        tokens.ids = encoding.get_ids().to_vec();
        self.truncation_side.truncate(&mut tokens.ids, self.limit);
        let (texts, offsets) = (encoding.get_tokens(), encoding.get_offsets());
        // A piece that touches another one is a part of a word.
        let touches = |piece: usize, other: Option<usize>| {
            let Some(((start, end), other)) = other.and_then(|other| Some((offsets.get(other)?, texts.get(other)?)))
            else {
                return false;
            };
            *start <= offsets[piece].1 && *end >= offsets[piece].0 && is_of_word(other)
        };
        for (piece, (id, token)) in encoding.get_ids().iter().zip(texts).enumerate() {
            let (start, end) = offsets[piece];
            if start < part.end && end > part.start {
                let is_part = touches(piece, piece.checked_sub(1)) || touches(piece, Some(piece + 1));
                self.count(&mut tokens, *id, token, is_part);
            }
        }
        Ok(tokens)
    }

    /// SigLIP's tokenizer reports no offsets, so the part is tokenized by itself: pieces never span two words.
    fn read_siglip(&self, siglip: &Siglip, sentence: &str, part: &Range<usize>) -> Result<Tokenization, TokenizeError> {
        let mut ids = siglip.all_ids(sentence)?;
        let mut tokens = Tokenization { sentence_pieces: ids.len(), ..Tokenization::default() };
        self.truncation_side.truncate(&mut ids, self.limit);
        tokens.ids = ids;
        let ids = siglip.all_ids(sentence.get(part.clone()).unwrap_or_default())?;
        let texts: Vec<String> = ids.iter().map(|id| self.inner.id_to_token(*id).unwrap_or_default()).collect();
        for (piece, (id, token)) in ids.iter().zip(&texts).enumerate() {
            // A piece without the mark of a start goes on with the word before it.
            let goes_on =
                |text: Option<&String>| text.is_some_and(|text| !text.starts_with(WORD_START) && is_of_word(text));
            let is_part = !token.starts_with(WORD_START) || goes_on(texts.get(piece + 1));
            self.count(&mut tokens, *id, token, is_part);
        }
        Ok(tokens)
    }

    /// Counts a piece; `is_part` says whether its word has others.
    fn count(&self, tokens: &mut Tokenization, id: u32, token: &str, is_part: bool) {
        // SentencePiece puts a separate piece for the start of a word before an unknown word.
        if !token.chars().all(|c| c == WORD_START || c.is_whitespace()) {
            let is_unknown = self.unknown_id == Some(id);
            tokens.pieces += 1;
            tokens.unknown += usize::from(is_unknown);
            tokens.letters += usize::from(is_part && !is_unknown && is_letter(token));
        }
    }
}

/// Returns whether a piece is a single letter or byte; not in scripts where a letter is a syllable or a word.
fn is_letter(token: &str) -> bool {
    let mut letters = bare(token).chars();
    let (first, second) = (letters.next(), letters.next());
    let is_syllable = |c: char| matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1100}'..='\u{11ff}' | '\u{2e80}'..);
    // A byte as SentencePiece writes it.
    let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
    is_byte || second.is_none() && first.is_some_and(|c| c.is_alphabetic() && !is_syllable(c) || is_byte_letter(c))
}

/// Returns whether a character stands for a byte in the vocabularies of GPT-2 and CLIP, and for nothing that people write.
fn is_byte_letter(c: char) -> bool {
    matches!(c, '\u{a1}'..='\u{bf}' | '\u{100}'..='\u{143}')
}

/// Returns whether a piece belongs to a word, unlike punctuation.
fn is_of_word(token: &str) -> bool {
    bare(token).chars().any(|c| c.is_alphabetic() || is_byte_letter(c))
}

/// A piece without the marks of its place in a word, as WordPiece, SentencePiece, GPT-2 and CLIP write them.
fn bare(token: &str) -> &str {
    let token = token.strip_prefix("##").unwrap_or(token);
    let token = token.strip_prefix([WORD_START, '\u{120}']).unwrap_or(token);
    token.strip_suffix("</w>").unwrap_or(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::manifest;

    fn spec(max_length: usize) -> TokenizerSpec {
        TokenizerSpec { max_length, ..manifest(1).tokenizer }
    }

    /// A tokenizer with this model and these other parts of a `tokenizer.json`.
    fn vocabulary(model: &str, parts: &str) -> Vocabulary {
        let file = format!(r#"{{"version": "1.0", "added_tokens": []{parts}, "model": {model}}}"#);
        Vocabulary::from_bytes(file.as_bytes(), &spec(8)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    const BERT: &str = r#", "pre_tokenizer": {"type": "BertPreTokenizer"}, "normalizer": {"type": "BertNormalizer",
        "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}"#;

    const METASPACE: &str =
        r#", "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}"#;

    const WORD_PIECE: &str = r###"{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {"<pad>": 0, "[UNK]": 1, "a": 2, "red": 3, "##s": 4, ".": 5}}"###;

    struct Case<'a> {
        what: &'a str,
        vocabulary: &'a Vocabulary,
        template: &'a str,
        prompt: &'a str,
        /// Pieces of the prompt, unknown ones among them, pieces of the sentence.
        expected: (usize, usize, usize),
    }

    fn check(case: &Case<'_>) {
        let Case { what, vocabulary, template, prompt, expected } = case;
        let start = template.find("{}").expect("a place for the prompt");
        let sentence = template.replacen("{}", prompt, 1);
        let found = vocabulary.read(&sentence, &(start..start + prompt.len())).expect("a sentence");
        assert_eq!((found.pieces, found.unknown, found.sentence_pieces), *expected, "{what}: {sentence}");
        assert_eq!(found.ids.len(), found.sentence_pieces.min(8), "{what}");
        assert_eq!(found.cut(), found.sentence_pieces.saturating_sub(8), "{what}");
    }

    #[test]
    fn unknown_pieces_of_every_kind_of_vocabulary() {
        let words = vocabulary(WORD_PIECE, BERT);
        fn case(what: &str, vocabulary: &Vocabulary, template: &str, prompt: &str, expected: (usize, usize, usize)) {
            check(&Case { what, vocabulary, template, prompt, expected });
        }
        case("known", &words, "a {}.", "red", (1, 0, 3));
        case("Chinese", &words, "a {}.", "红色", (2, 2, 4));
        case("Cyrillic", &words, "{}", "красный круг", (2, 2, 2));
        case("partly", &words, "a {}.", "red 円", (2, 1, 4));
        case("the template's own words do not count", &words, "猫 {}.", "red", (1, 0, 3));
        case("a word that the template ends", &words, "{}s", "red", (1, 0, 2));
        case("an unknown word that the template ends", &words, "{}s", "rot", (1, 1, 1));
        case("nothing is left", &words, "a {}.", "\u{200b}\u{fe0f}", (0, 0, 2));
        case("cut", &words, "{}", "red red red red red red red red red red", (10, 0, 10));

        let ids = |truncation_side| {
            let spec = TokenizerSpec { truncation_side, ..spec(2) };
            let vocabulary = Vocabulary::from_bytes(
                br#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
                    "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2, "c": 3}}}"#,
                &spec,
            );
            vocabulary.and_then(|vocabulary| vocabulary.read("a b c", &(0..5))).expect("a reading").ids
        };
        assert_eq!([TruncationSide::Left, TruncationSide::Right].map(ids), [[2, 3], [1, 2]]);

        let level = r#"{"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "red": 1}}"#;
        case("WordLevel", &vocabulary(level, BERT), "{}", "red rot", (2, 1, 2));

        let unigram = |byte_fallback: bool| {
            let bytes: String = (0..256).map(|b| format!(r#", ["<0x{b:02X}>", -9.0]"#)).collect();
            let model = format!(
                r#"{{"type": "Unigram", "unk_id": 1, "byte_fallback": {byte_fallback},
                "vocab": [["<pad>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁red", -1.0]{bytes}]}}"#
            );
            vocabulary(&model, METASPACE)
        };
        case("Unigram, the separator is no piece", &unigram(false), "red {}", "猫", (1, 1, 3));
        case("Unigram, two words", &unigram(false), "{}", "猫 red", (2, 1, 3));
        case("Unigram with bytes", &unigram(true), "red {}", "猫", (3, 0, 5));

        let pairs = |unk: &str| {
            let model = format!(
                r#"{{"type": "BPE", "unk_token": {unk}, "fuse_unk": true, "merges": [],
                "vocab": {{"<unk>": 0, "▁": 1, "r": 2, "e": 3, "d": 4}}}}"#
            );
            vocabulary(&model, METASPACE)
        };
        case("BPE, unknown letters are one piece", &pairs("\"<unk>\""), "{}", "красный", (1, 1, 2));
        case("BPE without an unknown token drops them", &pairs("null"), "{}", "красный", (0, 0, 1));
    }

    #[test]
    fn bytes_are_never_unknown() {
        // The byte alphabet of GPT-2: printable bytes are themselves, others are mapped to code points from 256.
        let mut next = 256;
        let letters = (0..=255_u32).map(|byte| {
            let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if printable { byte } else { next };
            next += u32::from(!printable);
            char::from_u32(code).expect("a letter")
        });
        let vocab: serde_json::Map<String, serde_json::Value> =
            letters.enumerate().map(|(id, letter)| (letter.to_string(), id.into())).collect();
        let model = serde_json::json!({"type": "BPE", "unk_token": "<|endoftext|>", "merges": [], "vocab": vocab});
        let parts = r#", "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}"#;
        let bytes = vocabulary(&model.to_string(), parts);
        check(&Case {
            what: "byte-level BPE",
            vocabulary: &bytes,
            template: "{}",
            prompt: "猫 ж",
            expected: (6, 0, 6),
        });
        let found = bytes.read("猫 жук", &(0..10)).expect("a sentence");
        assert_eq!((found.pieces, found.letters), (10, 9), "all but the space");
    }

    #[test]
    fn single_letters_of_words_are_counted() {
        let letters = |vocabulary: &Vocabulary, prompt: &str| {
            let found = vocabulary.read(prompt, &(0..prompt.len())).expect("a sentence");
            (found.pieces, found.letters)
        };
        let vocab =
            r###"{"[UNK]": 0, "a": 1, "red": 2, "##s": 3, "##e": 4, "r": 5, "##ot": 6, ".": 7, "猫": 8, "犬": 9}"###;
        let words = vocabulary(
            &format!(
                r###"{{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": {vocab}}}"###
            ),
            BERT,
        );
        for (prompt, expected) in [
            ("a red", (2, 0)),
            ("a. red.", (4, 0)),
            ("reds", (2, 1)),
            ("rot", (2, 1)),
            // Each is a word.
            ("猫犬", (2, 0)),
        ] {
            assert_eq!(letters(&words, prompt), expected, "{prompt}");
        }
        for (token, expected) in [
            ("s", true),
            ("##s", true),
            ("s</w>", true),
            ("\u{120}s", true),
            ("\u{2581}s", true),
            ("ж", true),
            ("<0xE7>", true),
            // Bytes of GPT-2's alphabet.
            ("\u{a1}", true),
            ("\u{142}", true),
            ("猫", false),
            ("ね", false),
            ("st", false),
            (".", false),
            ("7", false),
            ("", false),
        ] {
            assert_eq!(is_letter(token), expected, "{token}");
        }
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_an_error() {
        let error = Vocabulary::from_bytes(b"{}", &spec(8)).expect_err("no tokenizer").to_string();
        assert!(error.contains("not a usable tokenizer.json"), "{error}");
    }
}
