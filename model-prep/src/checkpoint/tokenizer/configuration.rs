//! `tokenizer_config.json`, and what the tokenizer classes of transformers 4.56.2 set where it says nothing.

use std::path::Path;

use serde_json::{Value, json};
use spotter_engine::bundle::PaddingSide;

use crate::checkpoint::json::Object;
use crate::checkpoint::{CheckpointError, read_optional};

/// A maximum length above this stands for "not known".
const TOKENS_MAX: f64 = 65536.0;

/// Tokenizer classes that do more than read `tokenizer.json`; the names that end in `Fast` mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bert,
    Mpnet,
    Roberta,
    Clip,
    XlmRoberta,
    Camembert,
    Siglip,
    /// Any other: its `tokenizer.json` says everything.
    Generic,
}

impl Class {
    fn named(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "BertTokenizer" => Self::Bert,
            "MPNetTokenizer" => Self::Mpnet,
            "RobertaTokenizer" => Self::Roberta,
            "CLIPTokenizer" => Self::Clip,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            "CamembertTokenizer" => Self::Camembert,
            "SiglipTokenizer" => Self::Siglip,
            _ => Self::Generic,
        }
    }

    /// The special tokens that the class has by itself, by their keys.
    fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Mpnet => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "[UNK]"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Roberta | Self::XlmRoberta | Self::Camembert => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Clip => &[
                ("bos_token", "<|startoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Siglip => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "</s>")],
            Self::Generic => &[],
        }
    }

    /// Further special tokens of the class.
    fn additional_tokens(self) -> &'static [&'static str] {
        if self == Self::Camembert { &["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] } else { &[] }
    }

    /// How the class looks for a special token that is given as a plain string: the mask takes the space before it along.
    fn flags(self, key: &str) -> Flags {
        let mask = key == "mask_token" && self != Self::Bert;
        let both_sides = self == Self::Siglip;
        let normalized = match self {
            Self::Mpnet | Self::Clip => true,
            Self::Roberta => !mask,
            Self::XlmRoberta => mask,
            Self::Bert | Self::Camembert | Self::Siglip | Self::Generic => false,
        };
        Flags { lstrip: mask || both_sides, rstrip: both_sides, normalized, single_word: false }
    }
}

/// How an added token is found in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flags {
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    single_word: bool,
}

/// A token that is found before the prompt is split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) content: String,
    special: bool,
    flags: Flags,
}

impl AddedToken {
    /// As an entry of `added_tokens` in `tokenizer.json`.
    pub(super) fn to_json(&self, id: u64) -> Value {
        let Flags { lstrip, rstrip, normalized, single_word } = self.flags;
        json!({"id": id, "content": self.content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
               "normalized": normalized, "special": self.special})
    }

    /// An object with `content`, as transformers writes it.
    fn of(value: &Value) -> Option<Self> {
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let flags = Flags {
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized").unwrap_or(!special),
            single_word: flag("single_word").unwrap_or(false),
        };
        Some(Self { content: value.get("content")?.as_str()?.to_owned(), special, flags })
    }

    /// As the tokenizers library takes it.
    pub(super) fn to_library(&self) -> tokenizers::AddedToken {
        tokenizers::AddedToken::from(self.content.clone(), self.special)
            .lstrip(self.flags.lstrip)
            .rstrip(self.flags.rstrip)
            .normalized(self.flags.normalized)
            .single_word(self.flags.single_word)
    }
}

/// What `tokenizer_config.json` says about the normalisation of words.
pub(super) struct Normalization {
    pub(super) lowercase: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) chinese_chars: bool,
}

/// `tokenizer_config.json`, and `special_tokens_map.json` behind it; both may be absent.
pub(super) struct Configuration {
    pub(super) class: Class,
    main: Object,
    special_tokens: Object,
}

impl Configuration {
    /// `default_class` is the text tower's own, for a file that names none.
    pub(super) fn read(checkpoint: &Path, default_class: &str) -> Result<Self, CheckpointError> {
        let open = |name: &str| {
            let path = checkpoint.join(name);
            match read_optional(&path)? {
                Some(bytes) => Object::parse(&path, &bytes),
                None => Ok(Object::empty(&path)),
            }
        };
        let (main, special_tokens) = (open("tokenizer_config.json")?, open("special_tokens_map.json")?);
        Ok(Self { class: Class::named(&main.text("tokenizer_class", default_class)?), main, special_tokens })
    }

    pub(super) fn normalization(&self) -> Result<Normalization, CheckpointError> {
        Ok(Normalization {
            lowercase: self.main.flag("do_lower_case", true)?,
            strip_accents: self.main.or("strip_accents", None, "true, false or null", |v| v.as_bool().map(Some))?,
            chinese_chars: self.main.flag("tokenize_chinese_chars", true)?,
        })
    }

    /// Whether words at the start of a prompt are looked for as behind a space.
    pub(super) fn add_prefix_space(&self) -> Result<bool, CheckpointError> {
        self.main.flag("add_prefix_space", false)
    }

    /// The special token under `key`: a string, or an object whose `content` it is. Nothing where neither the files nor
    /// the class know one.
    pub(super) fn special(&self, key: &str) -> Result<Option<AddedToken>, CheckpointError> {
        let named = |v: &Value| v.as_str().map(|s| Err(s.to_owned())).or_else(|| AddedToken::of(v).map(Ok)).map(Some);
        let expected = "a string, or an object with content";
        let default = self.class.special_tokens().iter().find(|(name, _)| *name == key);
        let default = default.map(|(_, token)| Err((*token).to_owned()));
        let default = self.special_tokens.or(key, default, expected, named)?;
        let token = match self.main.or(key, default, expected, named)? {
            None => return Ok(None),
            Some(Ok(token)) => token,
            Some(Err(content)) => {
                let declared = self.declared()?.into_iter().map(|(_, token)| token).find(|t| t.content == content);
                declared.unwrap_or_else(|| AddedToken { content, special: true, flags: self.class.flags(key) })
            }
        };
        Ok(Some(AddedToken { special: true, ..token }))
    }

    /// The special token under `key`, which a tokenizer that is built from a vocabulary must have.
    pub(super) fn required(&self, key: &str) -> Result<AddedToken, CheckpointError> {
        self.special(key)?.ok_or_else(|| self.main.wrong(key, "a special token", None))
    }

    /// All tokens that are found before a prompt is split: those of `added_tokens_decoder`, the special ones, and the
    /// class's own; each once.
    pub(super) fn added_tokens(&self) -> Result<Vec<AddedToken>, CheckpointError> {
        const KEYS: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let mut all: Vec<_> = self.declared()?.into_iter().map(|(_, token)| token).collect();
        for key in KEYS {
            all.extend(self.special(key)?);
        }
        let flags = Flags { lstrip: false, rstrip: false, normalized: false, single_word: false };
        for content in self.class.additional_tokens() {
            all.push(AddedToken { content: (*content).to_owned(), special: true, flags });
        }
        // `additional_special_tokens` in transformers 4, `extra_special_tokens` in 5.
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            for value in self.main.get(key).and_then(Value::as_array).into_iter().flatten() {
                let plain = value.as_str().map(|s| AddedToken { content: s.to_owned(), special: true, flags });
                all.extend(plain.or_else(|| AddedToken::of(value)));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|token| seen.insert(token.content.clone()));
        Ok(all)
    }

    /// `added_tokens_decoder`: tokens with their ids, in the order of these.
    pub(super) fn declared(&self) -> Result<Vec<(u64, AddedToken)>, CheckpointError> {
        const KEY: &str = "added_tokens_decoder";
        let Some(tokens) = self.main.get(KEY) else { return Ok(Vec::new()) };
        let Some(tokens) = tokens.as_object() else {
            return Err(self.main.wrong(KEY, "an object with a token for each id", Some(tokens)));
        };
        let mut by_id = Vec::new();
        for (id, token) in tokens {
            let Some((id, token)) = id.parse::<u64>().ok().zip(AddedToken::of(token)) else {
                return Err(self.main.wrong(KEY, "a token with content for each id", Some(token)));
            };
            by_id.push((id, token));
        }
        by_id.sort_by_key(|(id, _)| *id);
        Ok(by_id)
    }

    /// `model_max_length`, which stands at 1e30 for "not known", cut to the position table. Where neither is known, it is
    /// the `fixed` length that `tokenizer.json` pads to.
    pub(super) fn max_length(&self, positions: Option<usize>, fixed: Option<u64>) -> Result<usize, CheckpointError> {
        let length = self
            .main
            .or("model_max_length", f64::MAX, "a number of at least 3 tokens", |v| v.as_f64().filter(|n| *n >= 3.0))?;
        match positions {
            Some(positions) if length >= positions as f64 => Ok(positions),
            None if length > TOKENS_MAX => match fixed.filter(|length| (3..=TOKENS_MAX as u64).contains(length)) {
                Some(length) => Ok(length as usize),
                None => Err(self.main.wrong("model_max_length", "the most tokens that the text tower takes", None)),
            },
            _ => Ok(length as usize),
        }
    }

    /// Where padding goes; `file` is `tokenizer.json`, which may say so too.
    pub(super) fn padding_side(&self, file: &Value) -> Result<PaddingSide, CheckpointError> {
        let in_file = |section: &str| file[section]["direction"].as_str().unwrap_or("right").to_lowercase();
        if self.main.text("truncation_side", &in_file("truncation"))? != "right" {
            return Err(self.main.unsupported("truncation_side", "\"left\"", "prompts are cut at their end"));
        }
        let default = if in_file("padding") == "left" { PaddingSide::Left } else { PaddingSide::Right };
        self.main.or("padding_side", default, "\"left\" or \"right\"", |v| match v.as_str() {
            Some("left") => Some(PaddingSide::Left),
            Some("right") => Some(PaddingSide::Right),
            _ => None,
        })
    }

    /// Whether the attention mask is among what the model is given.
    pub(super) fn attention_mask(&self) -> Result<bool, CheckpointError> {
        self.main.or("model_input_names", true, "a list of names", |v| {
            Some(v.as_array()?.iter().any(|name| name.as_str() == Some("attention_mask")))
        })
    }

    /// Token type of padding.
    pub(super) fn pad_type_id(&self) -> Result<u32, CheckpointError> {
        self.main.or("pad_token_type_id", 0, "a whole number", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }
}
