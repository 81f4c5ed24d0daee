//! `tokenizer.json`, or what `vocab.txt` and `tokenizer_config.json` make of a BERT WordPiece tokenizer.

use std::path::Path;

use serde_json::{Value, json};
use spotter_engine::bundle::PaddingSide;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};

use super::json::Object;
use super::{CheckpointError, TextConfig, read_optional};

/// A tokenizer in the format of the tokenizers library, and how its output is cut and padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    /// Content of `tokenizer.json`.
    pub json: Vec<u8>,
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// Where padding goes.
    pub padding_side: PaddingSide,
    /// The padding token.
    pub pad_token: String,
    /// Its id.
    pub pad_id: u32,
    /// Its token type.
    pub pad_type_id: u32,
    /// Whether the attention mask is among what the model is given.
    pub attention_mask: bool,
}

/// What `tokenizer_config.json` says about WordPiece normalisation.
struct Normalization {
    lowercase: bool,
    strip_accents: Option<bool>,
    chinese_chars: bool,
}

impl TokenizerFile {
    /// Reads the tokenizer of the checkpoint in the directory `checkpoint`.
    pub(crate) fn read(checkpoint: &Path, text: &TextConfig) -> Result<Self, CheckpointError> {
        let config = Configuration::read(checkpoint)?;
        let normalization = config.normalization()?;
        let json_path = checkpoint.join("tokenizer.json");
        let (path, json) = match read_optional(&json_path)? {
            Some(json) => {
                let json = if config.is_bert()? { normalized(&json_path, json, &normalization)? } else { json };
                (json_path, json)
            }
            None => {
                let path = checkpoint.join("vocab.txt");
                let Some(vocab) = read_optional(&path)? else {
                    let message = "neither tokenizer.json nor vocab.txt is there".to_owned();
                    return Err(CheckpointError::Tokenizer { path: checkpoint.to_owned(), message });
                };
                let json = from_vocab(&path, &vocab, &normalization, &config)?;
                (path, json)
            }
        };
        let tokenizer = parse(&path, &json)?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest >= text.vocab_size() {
            let message = format!("token id {largest} is beyond text_config.vocab_size {}", text.vocab_size());
            return Err(CheckpointError::Tokenizer { path, message });
        }
        let pad_token = config.special("pad_token", "[PAD]")?;
        let Some(pad_id) = tokenizer.token_to_id(&pad_token) else {
            let message = format!("the padding token {pad_token:?} is not in the vocabulary");
            return Err(CheckpointError::Tokenizer { path, message });
        };
        if let Some(expected) = text.padding_id().filter(|id| *id != pad_id as usize) {
            let message = format!(
                "the padding token {pad_token:?} has the id {pad_id}, but the text tower counts positions from the \
                 padding id {expected}"
            );
            return Err(CheckpointError::Tokenizer { path, message });
        }
        Ok(Self {
            json,
            attention_mask: config.attention_mask()?,
            max_length: config.max_length(text.tokens_max())?,
            padding_side: config.padding_side()?,
            pad_token,
            pad_id,
            pad_type_id: config.pad_type_id()?,
        })
    }
}

/// `tokenizer_config.json`, and `special_tokens_map.json` behind it; both may be absent.
struct Configuration {
    main: Object,
    special_tokens: Object,
}

impl Configuration {
    fn read(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let open = |name: &str| {
            let path = checkpoint.join(name);
            match read_optional(&path)? {
                Some(bytes) => Object::parse(&path, &bytes),
                None => Ok(Object::empty(&path)),
            }
        };
        Ok(Self { main: open("tokenizer_config.json")?, special_tokens: open("special_tokens_map.json")? })
    }

    /// Whether the reference loads the tokenizer as `BertTokenizerFast`, which puts the configuration's normalisation
    /// in the place of the file's.
    fn is_bert(&self) -> Result<bool, CheckpointError> {
        let class = self.main.text("tokenizer_class", "BertTokenizer")?;
        Ok(matches!(class.as_str(), "BertTokenizer" | "BertTokenizerFast"))
    }

    fn normalization(&self) -> Result<Normalization, CheckpointError> {
        Ok(Normalization {
            lowercase: self.main.flag("do_lower_case", true)?,
            strip_accents: self.main.or("strip_accents", None, "true, false or null", |v| v.as_bool().map(Some))?,
            chinese_chars: self.main.flag("tokenize_chinese_chars", true)?,
        })
    }

    /// A special token: a string, or an object whose `content` it is.
    fn special(&self, key: &str, default: &str) -> Result<String, CheckpointError> {
        let content = |v: &Value| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_owned);
        let expected = "a string, or an object with content";
        let default = self.special_tokens.or(key, default.to_owned(), expected, content)?;
        self.main.or(key, default, expected, content)
    }

    /// `model_max_length`, which stands at 1e30 for "not known", cut to the position table.
    fn max_length(&self, positions: usize) -> Result<usize, CheckpointError> {
        let length = self
            .main
            .or("model_max_length", f64::MAX, "a number of at least 3 tokens", |v| v.as_f64().filter(|n| *n >= 3.0))?;
        Ok(if length < positions as f64 { length as usize } else { positions })
    }

    fn padding_side(&self) -> Result<PaddingSide, CheckpointError> {
        if self.main.text("truncation_side", "right")? != "right" {
            return Err(self.main.unsupported("truncation_side", "\"left\"", "prompts are cut at their end"));
        }
        self.main.or("padding_side", PaddingSide::Right, "\"left\" or \"right\"", |v| match v.as_str() {
            Some("left") => Some(PaddingSide::Left),
            Some("right") => Some(PaddingSide::Right),
            _ => None,
        })
    }

    fn attention_mask(&self) -> Result<bool, CheckpointError> {
        self.main.or("model_input_names", true, "a list of names", |v| {
            Some(v.as_array()?.iter().any(|name| name.as_str() == Some("attention_mask")))
        })
    }

    fn pad_type_id(&self) -> Result<u32, CheckpointError> {
        self.main.or("pad_token_type_id", 0, "a whole number", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }
}

fn parse(path: &Path, json: &[u8]) -> Result<tokenizers::Tokenizer, CheckpointError> {
    tokenizers::Tokenizer::from_bytes(json).map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, error: &tokenizers::Error) -> CheckpointError {
    CheckpointError::Tokenizer { path: path.to_owned(), message: error.to_string() }
}

/// `json`, with the configuration's normalisation where the file has another.
fn normalized(path: &Path, json: Vec<u8>, wanted: &Normalization) -> Result<Vec<u8>, CheckpointError> {
    let mut tokenizer = parse(path, &json)?;
    let Some(NormalizerWrapper::BertNormalizer(found)) = tokenizer.get_normalizer() else { return Ok(json) };
    let same = found.lowercase == wanted.lowercase
        && found.strip_accents == wanted.strip_accents
        && found.handle_chinese_chars == wanted.chinese_chars;
    if same {
        return Ok(json);
    }
    log::warn!("{}: its normaliser gives way to tokenizer_config.json, as in transformers", path.display());
    let normalizer =
        BertNormalizer::new(found.clean_text, wanted.chinese_chars, wanted.strip_accents, wanted.lowercase);
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| unusable(path, &e))?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(|e| unusable(path, &e))
}

/// The tokenizer that transformers converts `BertTokenizer` into.
fn from_vocab(
    path: &Path,
    vocab: &[u8],
    normalization: &Normalization,
    config: &Configuration,
) -> Result<Vec<u8>, CheckpointError> {
    let refuse = |message: String| CheckpointError::Tokenizer { path: path.to_owned(), message };
    let vocab = std::str::from_utf8(vocab).map_err(|e| refuse(format!("not UTF-8: {e}")))?;
    // A repeated token keeps its last line, as in the reference.
    let ids: serde_json::Map<String, Value> =
        vocab.lines().enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect();
    let special = |key: &str, default: &str| {
        let token = config.special(key, default)?;
        match ids.get(&token) {
            Some(id) => Ok((token, id.clone())),
            None => Err(refuse(format!("the special token {token:?} is not in the vocabulary"))),
        }
    };
    let (unk, unk_id) = special("unk_token", "[UNK]")?;
    let (cls, cls_id) = special("cls_token", "[CLS]")?;
    let (sep, sep_id) = special("sep_token", "[SEP]")?;
    let (pad, pad_id) = special("pad_token", "[PAD]")?;
    let mut added = vec![(&unk, unk_id), (&sep, sep_id.clone()), (&pad, pad_id), (&cls, cls_id.clone())];
    let mask = config.special("mask_token", "[MASK]")?;
    if let Some(id) = ids.get(&mask) {
        added.push((&mask, id.clone()));
    }
    added.sort_by_key(|(_, id)| id.as_u64());
    added.dedup();
    let added = added.iter().map(|(token, id)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let token = |id: &str, type_id: u32| json!({"SpecialToken": {"id": id, "type_id": type_id}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": normalization.chinese_chars, "strip_accents": normalization.strip_accents,
            "lowercase": normalization.lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token(&cls, 0), sequence("A", 0), token(&sep, 0)],
            "pair": [token(&cls, 0), sequence("A", 0), token(&sep, 0), sequence("B", 1), token(&sep, 1)],
            "special_tokens": {&cls: {"id": &cls, "ids": [cls_id], "tokens": [&cls]},
                               &sep: {"id": &sep, "ids": [sep_id], "tokens": [&sep]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": &unk, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": &ids},
    });
    let tokenizer = parse(path, file.to_string().as_bytes())?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(|e| unusable(path, &e))
}
