//! `tokenizer_config.json`, and what the tokenizer classes of transformers set where it says nothing: those of the
//! generation that wrote the files.

use std::path::Path;

use serde_json::{Value, json};
use spotter_engine::bundle::{self, PaddingSide};

use super::classes::{self, ClassFacts, ClassToken, Generation, WordNormalizer};
use crate::checkpoint::json::Object;
use crate::checkpoint::{CheckpointError, read_optional};

/// A maximum length above this stands for "not known".
const TOKENS_MAX: f64 = 65536.0;

/// Classes that have no file but a vocabulary, by how a tokenizer is built of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// BERT's, and those of its relatives that read the same `vocab.txt`.
    Bert,
    Mpnet,
    Roberta,
    Clip,
    XlmRoberta,
    Camembert,
    Siglip,
    /// Any other: its `tokenizer.json` says how prompts are cut.
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

    /// How the class looks for a special token that is given as a plain string: the mask takes the space before it
    /// along. Nothing where the table of classes says it.
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

    /// Whether it is special and found anywhere in a text.
    pub(super) fn is_plain_special(&self) -> bool {
        self.special && !self.flags.single_word
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
    /// The class as it is named.
    pub(super) name: String,
    /// The version of transformers that wrote the files.
    pub(super) generation: Generation,
    /// What the class decides.
    pub(super) facts: &'static ClassFacts,
    main: Object,
    special_tokens: Object,
}

/// The generation of transformers that wrote `tokenizer_config.json`: 5 names a backend, 4 the added tokens with their
/// ids; a file that shows neither was written by what wrote `config.json`.
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
        let model = open("config.json")?;
        let default_class = model.text("tokenizer_class", default_class)?;
        let name = main.text("tokenizer_class", &default_class)?;
        let written_by = generation(&main, &model);
        let facts = |generation| {
            let damaged = |message| CheckpointError::Tokenizer { path: checkpoint.to_owned(), message };
            classes::class(generation, &name).map_err(damaged)
        };
        let (generation, facts) = match (facts(written_by)?, facts(Generation::Five)?) {
            // What the older release runs in Python has a tokenizer.json only where the newer one wrote it.
            (Some(older), Some(newer)) if older.refused.is_some() && newer.refused.is_none() => {
                (Generation::Five, newer)
            }
            (Some(found), _) => (written_by, found),
            (None, Some(newer)) => (Generation::Five, newer),
            (None, None) if main.get("auto_map").is_some() => {
                let reason = "the class comes with code of its own, which is not run: where tokenizer.json says \
                              everything, write PreTrainedTokenizerFast there and take auto_map out";
                return Err(main.unsupported("tokenizer_class", format!("{name:?}"), reason));
            }
            // So does the newer release; the older one stops.
            (None, None) => {
                log::warn!("{}: no class {name:?} is known: tokenizer.json is taken as it is", checkpoint.display());
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

    pub(super) fn normalization(&self) -> Result<Normalization, CheckpointError> {
        Ok(Normalization {
            lowercase: self.main.flag("do_lower_case", self.facts.lowercase.unwrap_or(true))?,
            strip_accents: self.main.or("strip_accents", None, "true, false or null", |v| v.as_bool().map(Some))?,
            chinese_chars: self.main.flag("tokenize_chinese_chars", true)?,
        })
    }

    /// What the class does with the normaliser of `tokenizer.json`.
    pub(super) fn word_normalizer(&self) -> Option<WordNormalizer> {
        self.facts.normalizer
    }

    /// Whether words at the start of a prompt are looked for as behind a space; nothing where `tokenizer.json` decides.
    pub(super) fn add_prefix_space(&self) -> Result<Option<bool>, CheckpointError> {
        if !self.facts.knows_prefix_space(self.generation) {
            return Ok(None);
        }
        let by_class = self.facts.prefix_space(self.generation);
        let given = self.main.or("add_prefix_space", None, "true or false", |v| v.as_bool().map(Some))?;
        if by_class.is_none() && given.is_some() && self.generation == Generation::Four {
            let reason = format!("{} then builds its tokenizer of the SentencePiece model anew", self.name);
            return Err(self.main.unsupported("add_prefix_space", given == Some(true), reason));
        }
        Ok(given.or(by_class))
    }

    /// The tokens that the class puts before and behind a prompt, whatever `tokenizer.json` says; nothing where that
    /// decides.
    pub(super) fn bos_eos(&self) -> Result<Option<[Option<AddedToken>; 2]>, CheckpointError> {
        if self.name.starts_with("CodeGenTokenizer")
            && self.generation == Generation::Four
            && self.main.flag("add_bos_token", false)?
        {
            let reason = "the fast class of transformers 4.56.2 adds none either: save the tokenizer as a \
                          PreTrainedTokenizerFast whose tokenizer.json does";
            return Err(self.main.unsupported("add_bos_token", true, reason));
        }
        let Some(defaults) = self.facts.bos_eos else { return Ok(None) };
        let mut both = [None, None];
        let keys = [("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")];
        for (place, (key, token)) in keys.into_iter().enumerate() {
            let wanted = match self.generation {
                Generation::Four if self.main.map().contains_key(key) => self.main.flag(key, false)?,
                // The newer release reads neither key where there is a tokenizer.json.
                _ => defaults[place],
            };
            if wanted {
                both[place] = Some(self.required(token)?);
            }
        }
        Ok(Some(both))
    }

    /// The special token under `key`: a string, or an object whose `content` it is. Nothing where neither the files nor
    /// the class know one.
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

    /// How a special token is found that is given as a plain string.
    fn flags(&self, key: &str) -> Flags {
        let plain = Flags { lstrip: false, rstrip: false, normalized: false, single_word: false };
        self.class.flags(key).unwrap_or_else(|| match self.facts.tokens.get(key) {
            Some(ClassToken::Flagged(_, lstrip, rstrip, normalized)) => {
                Flags { lstrip: *lstrip, rstrip: *rstrip, normalized: *normalized, ..plain }
            }
            _ => plain,
        })
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
        for content in self.further() {
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

    /// Further special tokens of the class, which it has where the files name none.
    fn further(&self) -> &'static [String] {
        let given =
            ["additional_special_tokens", "extra_special_tokens"].iter().any(|key| self.main.get(key).is_some());
        if given { &[] } else { &self.facts.further }
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

    /// `model_max_length`, which stands at 1e30 for "not known", cut to the position table, and to what a bundle may say.
    /// Where neither is known, it is the `fixed` length that `tokenizer.json` pads to.
    pub(super) fn max_length(&self, positions: Option<usize>, fixed: Option<u64>) -> Result<usize, CheckpointError> {
        let length = self
            .main
            .or("model_max_length", f64::MAX, "a number of at least 3 tokens", |v| v.as_f64().filter(|n| *n >= 3.0))?;
        let length = match positions {
            Some(positions) if length >= positions as f64 => positions,
            None if length > TOKENS_MAX => match fixed.filter(|length| (3..=TOKENS_MAX as u64).contains(length)) {
                Some(length) => length as usize,
                None => {
                    return Err(self.main.wrong("model_max_length", "the most tokens that the text tower takes", None));
                }
            },
            _ => length as usize,
        };
        if length > bundle::TOKENS_MAX {
            log::warn!("prompts are cut at {} tokens, of {length} that the text tower takes", bundle::TOKENS_MAX);
        }
        Ok(length.min(bundle::TOKENS_MAX))
    }

    /// Where padding goes; `file` is `tokenizer.json`, which may say so too.
    pub(super) fn padding_side(&self, file: &Value) -> Result<PaddingSide, CheckpointError> {
        let in_file = |section: &str| file[section]["direction"].as_str().map(str::to_lowercase);
        if self.main.text("truncation_side", &in_file("truncation").unwrap_or_else(|| "right".into()))? != "right" {
            return Err(self.main.unsupported("truncation_side", "\"left\"", "prompts are cut at their end"));
        }
        // What tokenizer.json was saved with goes before the class.
        let side = in_file("padding").or_else(|| self.facts.side.clone());
        let default = if side.as_deref() == Some("left") { PaddingSide::Left } else { PaddingSide::Right };
        self.main.or("padding_side", default, "\"left\" or \"right\"", |v| match v.as_str() {
            Some("left") => Some(PaddingSide::Left),
            Some("right") => Some(PaddingSide::Right),
            _ => None,
        })
    }

    /// Whether the attention mask is among what the model is given.
    pub(super) fn attention_mask(&self) -> Result<bool, CheckpointError> {
        self.input("attention_mask", self.facts.mask.unwrap_or(true))
    }

    /// Whether token types are; without them the model counts every token as of the first type.
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
