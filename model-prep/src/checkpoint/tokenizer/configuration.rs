//! Reads `tokenizer_config.json`. Defaults are those of the tokenizer class in the version of transformers that wrote
//! the files.

use std::path::Path;

use serde_json::{Value, json};
use spotter_engine::bundle::{self, PaddingSide, TruncationSide};

use super::classes::{self, ClassFacts, ClassToken, Generation, WordNormalizer};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// A `model_max_length` above this means "unknown".
const TOKENS_MAX: f64 = 65536.0;

/// Classes that can be built from vocabulary files alone, by how they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// BERT's, and those of related models with the same `vocab.txt`.
    Bert,
    Mpnet,
    Roberta,
    Clip,
    XlmRoberta,
    Camembert,
    Siglip,
    /// Any other; needs a `tokenizer.json`.
    Generic,
}

impl Class {
    fn named(name: &str, facts: &ClassFacts) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "MPNetTokenizer" => Self::Mpnet,
            "RobertaTokenizer" => Self::Roberta,
            "CLIPTokenizer" => Self::Clip,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            "CamembertTokenizer" => Self::Camembert,
            "SiglipTokenizer" => Self::Siglip,
            _ if facts.normalizer.is_some() => Self::Bert,
            _ => Self::Generic,
        }
    }

    /// Flags of a special token given as a plain string: the mask token also matches the space before it. `None` if the
    /// table of classes has them.
    fn flags(self, key: &str) -> Option<Flags> {
        let mask = key == "mask_token" && self != Self::Bert;
        let both_sides = self == Self::Siglip;
        let normalized = match self {
            Self::Mpnet | Self::Clip => true,
            Self::Roberta => !mask,
            Self::Bert | Self::Camembert | Self::Siglip | Self::XlmRoberta => false,
            Self::Generic => return None,
        };
        Some(Flags { lstrip: mask || both_sides, rstrip: both_sides, normalized, single_word: false })
    }
}

/// How an added token is matched in a prompt; the names are those of `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flags {
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    single_word: bool,
}

/// A token that is matched before the prompt is split into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) content: String,
    special: bool,
    flags: Flags,
}

impl AddedToken {
    /// Its entry of `added_tokens` in `tokenizer.json`.
    pub(super) fn to_json(&self, id: u64) -> Value {
        let Flags { lstrip, rstrip, normalized, single_word } = self.flags;
        json!({"id": id, "content": self.content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
               "normalized": normalized, "special": self.special})
    }

    /// Parses an object with `content`, as transformers writes it.
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

    /// Returns whether it is special and matches anywhere in a text, not only as a whole word.
    pub(super) fn is_plain_special(&self) -> bool {
        self.special && !self.flags.single_word
    }

    /// Converts it to the tokenizers library's type.
    pub(super) fn to_library(&self) -> tokenizers::AddedToken {
        tokenizers::AddedToken::from(self.content.clone(), self.special)
            .lstrip(self.flags.lstrip)
            .rstrip(self.flags.rstrip)
            .normalized(self.flags.normalized)
            .single_word(self.flags.single_word)
    }
}

/// Text normalisation by `tokenizer_config.json`.
pub(super) struct Normalization {
    pub(super) lowercase: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) chinese_chars: bool,
}

/// `tokenizer_config.json`, with `special_tokens_map.json` as its fallback; both may be missing.
pub(super) struct Configuration {
    pub(super) class: Class,
    /// Name of the class.
    pub(super) name: String,
    /// The major version of transformers that wrote the files.
    pub(super) generation: Generation,
    /// The class's defaults.
    pub(super) facts: &'static ClassFacts,
    main: Object,
    special_tokens: Object,
}

/// Detects the version of transformers that wrote `tokenizer_config.json`: 5 writes a backend, 4 the added tokens with
/// their ids; without either, the version in `config.json` decides.
fn generation(main: &Object, model: &Object) -> Generation {
    let backend = ["PythonBackend", "TokenizersBackend", "SentencePieceBackend"];
    let class = main.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    if main.get("backend").is_some() || backend.contains(&class) {
        return Generation::Five;
    }
    let version = model.get("transformers_version").and_then(Value::as_str).unwrap_or_default();
    let later = version.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|major| major >= 5);
    if later && main.get("added_tokens_decoder").is_none() { Generation::Five } else { Generation::Four }
}

/// The direction of a section of `tokenizer.json`, in lower case.
fn direction(file: &Value, section: &str) -> Option<String> {
    file[section]["direction"].as_str().map(str::to_lowercase)
}

impl Configuration {
    /// Reads the files in `checkpoint`. `default_class` is the text tower's, for a file that names none.
    pub(super) fn read(checkpoint: &Path, default_class: &str) -> Result<Self, CheckpointError> {
        let open = |name: &str| Object::read_or_empty(&checkpoint.join(name));
        let (main, special_tokens) = (open("tokenizer_config.json")?, open("special_tokens_map.json")?);
        let model = open("config.json")?;
        let default_class = model.text("tokenizer_class", default_class)?;
        let name = main.text("tokenizer_class", &default_class)?;
        let written_by = generation(&main, &model);
        let facts = |generation| {
            let damaged = |message| CheckpointError::Tokenizer { path: checkpoint.to_owned(), message };
            classes::class(generation, &name).map_err(damaged)
        };
        let (generation, facts) = match (facts(written_by)?, facts(Generation::Five)?) {
            // For a class that the older release runs in Python, only the newer one writes a tokenizer.json.
            (Some(older), Some(newer)) if older.refused.is_some() && newer.refused.is_none() => {
                (Generation::Five, newer)
            }
            (Some(found), _) => (written_by, found),
            (None, Some(newer)) => (Generation::Five, newer),
            (None, None) if main.get("auto_map").is_some() => {
                let reason = "the class comes with its own code, which is not run: if tokenizer.json is complete, \
                              set it to PreTrainedTokenizerFast and remove auto_map";
                return Err(main.unsupported("tokenizer_class", format!("{name:?}"), reason));
            }
            // The newer release does the same; the older one fails.
            (None, None) => {
                log::warn!("{}: unknown class {name:?}; tokenizer.json is used unchanged", checkpoint.display());
                (Generation::Five, classes::plain(Generation::Five))
            }
        };
        if let Some(reason) = &facts.refused {
            let reason = format!(
                "in transformers {}, {reason}: save the tokenizer as a PreTrainedTokenizerFast whose tokenizer.json gives \
                 the same ids",
                generation.release()
            );
            return Err(main.unsupported("tokenizer_class", format!("{name:?}"), reason));
        }
        Ok(Self { class: Class::named(&name, facts), name, generation, facts, main, special_tokens })
    }

    /// Text normalisation.
    pub(super) fn normalization(&self) -> Result<Normalization, CheckpointError> {
        Ok(Normalization {
            lowercase: self.main.flag("do_lower_case", self.facts.lowercase.unwrap_or(true))?,
            strip_accents: self.main.or("strip_accents", None, "true, false or null", |v| v.as_bool().map(Some))?,
            chinese_chars: self.main.flag("tokenize_chinese_chars", true)?,
        })
    }

    /// What the class changes in the normaliser of `tokenizer.json`.
    pub(super) fn word_normalizer(&self) -> Option<WordNormalizer> {
        self.facts.normalizer
    }

    /// Returns whether the first word of a prompt is treated as if a space came before it; `None` if `tokenizer.json` decides.
    pub(super) fn add_prefix_space(&self) -> Result<Option<bool>, CheckpointError> {
        if !self.facts.knows_prefix_space(self.generation) {
            return Ok(None);
        }
        let by_class = self.facts.prefix_space(self.generation);
        let given = self.main.or("add_prefix_space", None, "true or false", |v| v.as_bool().map(Some))?;
        if by_class.is_none() && given.is_some() && self.generation == Generation::Four {
            let reason = format!("{} then rebuilds its tokenizer from the SentencePiece model", self.name);
            return Err(self.main.unsupported("add_prefix_space", given == Some(true), reason));
        }
        Ok(given.or(by_class))
    }

    /// The tokens that the class puts before and after a prompt, whatever `tokenizer.json` says; `None` if that
    /// decides.
    pub(super) fn bos_eos(&self) -> Result<Option<[Option<AddedToken>; 2]>, CheckpointError> {
        if self.name.starts_with("CodeGenTokenizer")
            && self.generation == Generation::Four
            && self.main.flag("add_bos_token", false)?
        {
            let reason = "the fast class of transformers 4.56.2 does not add it either: save the tokenizer as a \
                          PreTrainedTokenizerFast whose tokenizer.json does";
            return Err(self.main.unsupported("add_bos_token", true, reason));
        }
        let Some(defaults) = self.facts.bos_eos else { return Ok(None) };
        let mut both = [None, None];
        let keys = [("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")];
        for (place, (key, token)) in keys.into_iter().enumerate() {
            let wanted = match self.generation {
                Generation::Four if self.main.map().contains_key(key) => self.main.flag(key, false)?,
                // The newer release ignores both keys if there is a tokenizer.json.
                _ => defaults[place],
            };
            if wanted {
                both[place] = Some(self.required(token)?);
            }
        }
        Ok(Some(both))
    }

    /// The special token under `key`, given as a string or as an object with `content`; `None` if neither the files nor
    /// the class define it.
    pub(super) fn special(&self, key: &str) -> Result<Option<AddedToken>, CheckpointError> {
        let named = |v: &Value| v.as_str().map(|s| Err(s.to_owned())).or_else(|| AddedToken::of(v).map(Ok)).map(Some);
        let expected = "a string, or an object with content";
        let default = self.facts.tokens.get(key).map(|token| match token {
            ClassToken::Plain(content) | ClassToken::Flagged(content, ..) => Err(content.clone()),
        });
        let default = self.special_tokens.or(key, default, expected, named)?;
        let token = match self.main.or(key, default, expected, named)? {
            None => return Ok(None),
            Some(Ok(token)) => token,
            Some(Err(content)) => {
                let declared = self.declared()?.into_iter().map(|(_, token)| token).find(|t| t.content == content);
                declared.unwrap_or_else(|| AddedToken { content, special: true, flags: self.flags(key) })
            }
        };
        Ok(Some(AddedToken { special: true, ..token }))
    }

    /// Flags of a special token that is given as a plain string.
    fn flags(&self, key: &str) -> Flags {
        let plain = Flags { lstrip: false, rstrip: false, normalized: false, single_word: false };
        self.class.flags(key).unwrap_or_else(|| match self.facts.tokens.get(key) {
            Some(ClassToken::Flagged(_, lstrip, rstrip, normalized)) => {
                Flags { lstrip: *lstrip, rstrip: *rstrip, normalized: *normalized, ..plain }
            }
            _ => plain,
        })
    }

    /// The special token under `key`; an error if there is none.
    pub(super) fn required(&self, key: &str) -> Result<AddedToken, CheckpointError> {
        self.special(key)?.ok_or_else(|| self.main.wrong(key, "a special token", None))
    }

    /// All tokens that are matched before a prompt is split, each once: those of `added_tokens_decoder`, the special
    /// tokens, and the class's own.
    pub(super) fn added_tokens(&self) -> Result<Vec<AddedToken>, CheckpointError> {
        const KEYS: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let mut all: Vec<_> = self.declared()?.into_iter().map(|(_, token)| token).collect();
        for key in KEYS {
            all.extend(self.special(key)?);
        }
        let flags = Flags { lstrip: false, rstrip: false, normalized: false, single_word: false };
        for content in self.additional_tokens() {
            all.push(AddedToken { content: content.clone(), special: true, flags });
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

    /// Additional special tokens of the class, used if the files list none.
    fn additional_tokens(&self) -> &'static [String] {
        let given =
            ["additional_special_tokens", "extra_special_tokens"].iter().any(|key| self.main.get(key).is_some());
        if given { &[] } else { &self.facts.further }
    }

    /// The tokens of `added_tokens_decoder` with their ids, ordered by id.
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

    /// Longest sequence: `model_max_length` (1e30 means "unknown"), limited by the number of positions and by what a
    /// bundle allows. If both are unknown, it is the `fixed` length that `tokenizer.json` pads to.
    pub(super) fn max_length(&self, positions: Option<usize>, fixed: Option<u64>) -> Result<usize, CheckpointError> {
        let length = self
            .main
            .or("model_max_length", f64::MAX, "a number of at least 3 tokens", |v| v.as_f64().filter(|n| *n >= 3.0))?;
        let length = match positions {
            Some(positions) if length >= positions as f64 => positions,
            None if length > TOKENS_MAX => match fixed.filter(|length| (3..=TOKENS_MAX as u64).contains(length)) {
                Some(length) => length as usize,
                None => {
                    return Err(self.main.wrong(
                        "model_max_length",
                        "the maximum length of the text tower in tokens",
                        None,
                    ));
                }
            },
            _ => length as usize,
        };
        if length > bundle::TOKENS_MAX {
            log::warn!("prompts are truncated to {} tokens; the text tower takes {length}", bundle::TOKENS_MAX);
        }
        Ok(length.min(bundle::TOKENS_MAX))
    }

    /// Side on which long prompts lose tokens; `file` is `tokenizer.json`, which may have a default.
    pub(super) fn truncation_side(&self, file: &Value) -> Result<TruncationSide, CheckpointError> {
        let is_left = direction(file, "truncation").is_some_and(|side| side == "left");
        let default = if is_left { TruncationSide::Left } else { TruncationSide::Right };
        self.main.or("truncation_side", default, "\"left\" or \"right\"", |v| match v.as_str() {
            Some("left") => Some(TruncationSide::Left),
            Some("right") => Some(TruncationSide::Right),
            _ => None,
        })
    }

    /// Side on which sequences are padded; `file` is `tokenizer.json`, which may have a default.
    pub(super) fn padding_side(&self, file: &Value) -> Result<PaddingSide, CheckpointError> {
        // The direction in tokenizer.json takes precedence over the class's.
        let side = direction(file, "padding").or_else(|| self.facts.side.clone());
        let default = if side.as_deref() == Some("left") { PaddingSide::Left } else { PaddingSide::Right };
        self.main.or("padding_side", default, "\"left\" or \"right\"", |v| match v.as_str() {
            Some("left") => Some(PaddingSide::Left),
            Some("right") => Some(PaddingSide::Right),
            _ => None,
        })
    }

    /// Returns whether the attention mask is an input of the model.
    pub(super) fn attention_mask(&self) -> Result<bool, CheckpointError> {
        self.input("attention_mask", self.facts.mask.unwrap_or(true))
    }

    /// Returns whether token types are an input of the model; without them, all tokens are of type 0.
    pub(super) fn token_types(&self) -> Result<bool, CheckpointError> {
        self.input("token_type_ids", self.facts.types)
    }

    fn input(&self, input: &str, default: bool) -> Result<bool, CheckpointError> {
        self.main.or("model_input_names", default, "a list of names", |v| {
            Some(v.as_array()?.iter().any(|name| name.as_str() == Some(input)))
        })
    }

    /// Token type of padding.
    pub(super) fn pad_type_id(&self) -> Result<u32, CheckpointError> {
        if !self.token_types()? {
            return Ok(0);
        }
        self.main.or("pad_token_type_id", self.facts.pad_type, "a whole number", |v| {
            v.as_u64().and_then(|n| u32::try_from(n).ok())
        })
    }
}
