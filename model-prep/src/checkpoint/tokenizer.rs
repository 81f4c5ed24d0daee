//! Reads `tokenizer.json`, or builds it as transformers does from `vocab.txt`, from `vocab.json` and `merges.txt`, or
//! from a SentencePiece model.

mod assembly;
mod byte_pairs;
mod classes;
mod configuration;
mod patterns;
mod post_processor;
mod sentence_pieces;
mod word_pieces;

use std::path::{Path, PathBuf};

use serde_json::Value;
use spotter_engine::bundle::{FileEntry, Padding, PaddingSide, Positions, SiglipSteps, TokenizerSpec, TruncationSide};
use spotter_engine::tokenize::{self, TokenizeError};
use tokenizers::Tokenizer;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use self::assembly::{parse, unusable};
use self::classes::WordNormalizer;
use self::configuration::{AddedToken, Class, Configuration};
use super::bounded::read_optional;
use super::config::TextConfig;
use super::error::CheckpointError;

/// The files that a tokenizer can be built from, for messages.
const SOURCES: &str = "tokenizer.json, vocab.txt, vocab.json with merges.txt, sentencepiece.bpe.model or spiece.model";

/// A tokenizer in the format of the tokenizers library, with truncation and padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    /// Content of `tokenizer.json`.
    pub json: Vec<u8>,
    /// Longest sequence, in tokens.
    pub max_length: usize,
    /// Side on which longer prompts lose tokens.
    pub truncation_side: TruncationSide,
    /// Side on which sequences are padded.
    pub padding_side: PaddingSide,
    /// The padding token.
    pub pad_token: String,
    /// Id of the padding token.
    pub pad_id: u32,
    /// Token type of the padding token.
    pub pad_type_id: u32,
    /// True if the attention mask is an input of the model.
    pub attention_mask: bool,
    /// Padding by the tokenizer's own files. If the text tower is known, its padding takes precedence.
    pub padding: Padding,
    /// SigLIP's own steps, if the tokenizer is built from its `spiece.model`.
    pub siglip: Option<SiglipSteps>,
}

impl TokenizerFile {
    /// The manifest's description of this tokenizer; `file` is the entry of its content.
    pub fn spec(&self, file: FileEntry, padding: Padding, positions: Positions) -> TokenizerSpec {
        TokenizerSpec {
            file,
            max_length: self.max_length,
            truncation_side: self.truncation_side,
            padding,
            padding_side: self.padding_side,
            pad_token: self.pad_token.clone(),
            pad_id: self.pad_id,
            pad_type_id: self.pad_type_id,
            positions,
            siglip: self.siglip.clone(),
        }
    }

    /// Builds the engine's tokenizer; positions are counted from 0.
    ///
    /// # Errors
    /// The tokenizers library rejects it.
    pub fn tokenizer(&self) -> Result<tokenize::Tokenizer, TokenizeError> {
        tokenize::Tokenizer::from_bytes(&self.json, &self.spec_alone())
    }

    /// The description of this tokenizer outside of a bundle.
    fn spec_alone(&self) -> TokenizerSpec {
        let entry = FileEntry { name: String::new(), bytes: 0, sha256: String::new() };
        self.spec(entry, Padding::Longest, Positions::Sequential)
    }

    /// Reads the tokenizer of the checkpoint in the directory `checkpoint`; `text` is its text tower, if known.
    ///
    /// # Errors
    /// A file is missing or damaged, or uses something that is not supported.
    pub fn read(checkpoint: &Path, text: Option<&TextConfig>) -> Result<Self, CheckpointError> {
        let default_class = text.map_or("PreTrainedTokenizerFast", TextConfig::tokenizer_class);
        let config = Configuration::read(checkpoint, default_class)?;
        let Built { path, json, siglip } = source(checkpoint, &config)?;
        let (name, release) = (&config.name, config.generation.release());
        log::info!("{}: defaults are those of {name} in transformers {release}", path.display());
        let tokenizer = parse(&path, &json)?;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if let Some(size) = text.map(TextConfig::vocab_size).filter(|size| largest >= *size) {
            let message = format!("token id {largest} is beyond text_config.vocab_size {size}");
            return Err(CheckpointError::Tokenizer { path, message });
        }
        let file: Value =
            serde_json::from_slice(&json).map_err(|source| CheckpointError::Json { path: path.clone(), source })?;
        let pad_token = match config.special("pad_token")? {
            Some(token) => token.content,
            None => file["padding"]["pad_token"].as_str().unwrap_or("[PAD]").to_owned(),
        };
        let Some(pad_id) = tokenizer.token_to_id(&pad_token) else {
            let message = format!("the padding token {pad_token:?} is not in the vocabulary");
            return Err(CheckpointError::Tokenizer { path, message });
        };
        if let Some(expected) = text.and_then(TextConfig::padding_id).filter(|id| *id != pad_id as usize) {
            let message = format!(
                "the padding token {pad_token:?} has the id {pad_id}, but the text tower counts positions from the \
                 padding id {expected}"
            );
            return Err(CheckpointError::Tokenizer { path, message });
        }
        let fixed = file["padding"]["strategy"]["Fixed"].as_u64();
        let is_fixed = fixed.is_some() || config.class == Class::Siglip;
        Ok(Self {
            attention_mask: config.attention_mask()?,
            max_length: config.max_length(text.map(TextConfig::tokens_max), fixed)?,
            padding: if is_fixed { Padding::MaxLength } else { Padding::Longest },
            truncation_side: config.truncation_side(&file)?,
            padding_side: config.padding_side(&file)?,
            pad_type_id: config.pad_type_id()?,
            json,
            pad_token,
            pad_id,
            siglip,
        })
    }
}

/// A tokenizer in the format of the tokenizers library, the file it was read or built from, and SigLIP's own steps.
struct Built {
    path: PathBuf,
    json: Vec<u8>,
    siglip: Option<SiglipSteps>,
}

/// Reads or builds the checkpoint's tokenizer.
fn source(checkpoint: &Path, config: &Configuration) -> Result<Built, CheckpointError> {
    let find = |name: &str| {
        let path = checkpoint.join(name);
        Ok::<_, CheckpointError>(read_optional(&path)?.map(|bytes| (path, bytes)))
    };
    // The reference has no fast class for SigLIP and reads the SentencePiece model only.
    if config.class == Class::Siglip
        && let Some((path, model)) = find("spiece.model")?
    {
        let (json, steps) = sentence_pieces::siglip(&path, &model, config)?;
        return Ok(Built { path, json, siglip: Some(steps) });
    }
    if let Some((path, json)) = find("tokenizer.json")? {
        let json = adjusted(&path, json, config)?;
        return Ok(Built { path, json, siglip: None });
    }
    let build = match config.class {
        Class::Bert | Class::Mpnet => find("vocab.txt")?.map(|(path, vocab)| {
            let json = word_pieces::tokenizer(&path, &vocab, config)?;
            Ok((path, json))
        }),
        Class::Roberta | Class::Clip => match (find("vocab.json")?, find("merges.txt")?) {
            (Some((path, vocab)), Some((merges_path, merges))) => {
                let json = byte_pairs::tokenizer([&path, &merges_path], [&vocab, &merges], config);
                Some(json.map(|json| (path, json)))
            }
            _ => None,
        },
        Class::XlmRoberta | Class::Camembert => find("sentencepiece.bpe.model")?.map(|(path, model)| {
            let json = sentence_pieces::fairseq(&path, &model, config)?;
            Ok((path, json))
        }),
        Class::Siglip | Class::Generic => None,
    };
    let build = build.unwrap_or_else(|| {
        let message = format!("found none of the files of a {:?} tokenizer: {SOURCES}", config.class);
        Err(CheckpointError::Tokenizer { path: checkpoint.to_owned(), message })
    });
    build.map(|(path, json)| Built { path, json, siglip: None })
}

/// Applies the changes to `tokenizer.json` that the reference makes on loading: the configuration's normaliser, prefix
/// space, added tokens and post-processor.
fn adjusted(path: &Path, json: Vec<u8>, config: &Configuration) -> Result<Vec<u8>, CheckpointError> {
    let json = with_patterns(path, json)?;
    let mut tokenizer = parse(path, &json)?;
    let mut changes = Vec::new();
    if let Some(normalizer) = normalizer(&tokenizer, config)? {
        tokenizer.with_normalizer(Some(normalizer)).map_err(|e| unusable(path, &e))?;
        changes.push("its normaliser");
    }
    if let Some(prefix) = config.add_prefix_space()?
        && let Some(PreTokenizerWrapper::ByteLevel(found)) = tokenizer.get_pre_tokenizer()
        && found.add_prefix_space != prefix
    {
        let mut wanted = *found;
        wanted.add_prefix_space = prefix;
        tokenizer.with_pre_tokenizer(Some(wanted));
        changes.push("its prefix space");
    }
    let known: Vec<String> = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let mut missing = config.added_tokens()?;
    let declared = config.declared()?;
    missing.retain(|token| {
        let wanted = || declared.iter().any(|(_, t)| t == token) || tokenizer.token_to_id(&token.content).is_some();
        !known.contains(&token.content) && wanted()
    });
    if !missing.is_empty() {
        let tokens = missing.iter().map(AddedToken::to_library);
        tokenizer.add_tokens(tokens.collect::<Vec<_>>()).map_err(|e| unusable(path, &e))?;
        changes.push("its list of added tokens");
    }
    changes.extend(post_processor::adjust(path, &mut tokenizer, config)?);
    if changes.is_empty() {
        return Ok(json);
    }
    let changes = changes.join(" and ");
    let (class, release) = (&config.name, config.generation.release());
    log::warn!(
        "{}: tokenizer_config.json and its class {class} replace {changes}, as in transformers {release}",
        path.display()
    );
    tokenizer.to_string(false).map(String::into_bytes).map_err(|e| unusable(path, &e))
}

/// Translates the regular expressions in `tokenizer.json` to the syntax of the regex engine used here.
fn with_patterns(path: &Path, json: Vec<u8>) -> Result<Vec<u8>, CheckpointError> {
    let mut file: Value =
        serde_json::from_slice(&json).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })?;
    let steps = ["normalizer", "pre_tokenizer"];
    let changed = steps.map(|step| file.get_mut(step).is_some_and(patterns::translate));
    Ok(if changed.contains(&true) { file.to_string().into_bytes() } else { json })
}

/// The configuration's normaliser, if the file's differs.
fn normalizer(tokenizer: &Tokenizer, config: &Configuration) -> Result<Option<BertNormalizer>, CheckpointError> {
    let Some(NormalizerWrapper::BertNormalizer(found)) = tokenizer.get_normalizer() else { return Ok(None) };
    let wanted = config.normalization()?;
    let chinese_chars = match config.word_normalizer() {
        Some(WordNormalizer::Bert) => wanted.chinese_chars,
        Some(WordNormalizer::Case) => found.handle_chinese_chars,
        None => return Ok(None),
    };
    let same = found.lowercase == wanted.lowercase
        && found.strip_accents == wanted.strip_accents
        && found.handle_chinese_chars == chinese_chars;
    Ok((!same).then(|| BertNormalizer::new(found.clean_text, chinese_chars, wanted.strip_accents, wanted.lowercase)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::{Map, json};
    use spotter_engine::vocabulary::Vocabulary;

    use super::*;

    /// The part of `tests/golden/text/class_ids.json` for one release.
    #[derive(Deserialize)]
    struct Golden {
        special: Map<String, Value>,
        prompts: Vec<String>,
        tokenizers: BTreeMap<String, Value>,
        rows: Vec<Row>,
    }

    /// The ids and types that some classes give for the prompts.
    #[derive(Deserialize)]
    struct Row {
        tokenizer: String,
        config: Map<String, Value>,
        classes: Vec<String>,
        ids: Vec<Vec<u32>>,
        types: Vec<Vec<u32>>,
        left: bool,
        mask: bool,
    }

    fn differences(golden: &Golden, row: &Row, class: &str, release: &str) -> Result<Vec<String>, CheckpointError> {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &Value| {
            std::fs::write(folder.path().join(name), content.to_string()).expect("the file is written");
        };
        let mut config = golden.special.clone();
        config.extend(row.config.clone());
        config.extend([("tokenizer_class".into(), json!(class)), ("model_max_length".into(), json!(16))]);
        write("tokenizer.json", &golden.tokenizers[&row.tokenizer]);
        write("tokenizer_config.json", &Value::Object(config));
        write("config.json", &json!({"transformers_version": release}));
        let file = TokenizerFile::read(folder.path(), None)?;
        let tokenizer = parse(folder.path(), &file.json)?;
        let mut wrong = Vec::new();
        for (at, prompt) in golden.prompts.iter().enumerate() {
            let found = tokenizer.encode(prompt.as_str(), true).expect("a prompt");
            // Without types from the class, the model treats all tokens as of type 0.
            let types = if row.types[at].is_empty() { vec![0; row.ids[at].len()] } else { row.types[at].clone() };
            if found.get_ids() != row.ids[at] || found.get_type_ids() != types {
                wrong.push(format!("{prompt:?}: {:?} {:?}", found.get_ids(), found.get_type_ids()));
            }
        }
        if (file.padding_side == PaddingSide::Left, file.attention_mask) != (row.left, row.mask) {
            wrong.push(format!("{:?}, mask {}", file.padding_side, file.attention_mask));
        }
        Ok(wrong)
    }

    #[test]
    fn the_first_token_of_funnel_has_its_own_type() {
        let check = |release: &str, types: [u32; 3]| {
            let folder = tempfile::tempdir().expect("a folder");
            let write = |name: &str, content: &str| {
                std::fs::write(folder.path().join(name), content).expect("the file is written");
            };
            write("vocab.txt", "<pad>\n<unk>\n<cls>\n<sep>\na\n");
            write("tokenizer_config.json", r#"{"tokenizer_class": "FunnelTokenizer", "model_max_length": 16}"#);
            write("config.json", &json!({"transformers_version": release}).to_string());
            let file = TokenizerFile::read(folder.path(), None).expect(release);
            let found = parse(folder.path(), &file.json).expect(release).encode("A", true).expect("a prompt");
            assert_eq!((found.get_ids(), found.get_type_ids()), (&[2, 4, 3][..], &types[..]), "{release}");
        };
        check("4.56.2", [2, 0, 0]);
        // In that release the class does not pass types to the model.
        check("5.24.0", [0, 0, 0]);
    }

    /// A tokenizer of `tests/golden/text/sentence_piece_ids.json`.
    #[derive(Deserialize)]
    struct PiecesCase {
        what: String,
        model: String,
        charsmap: bool,
        normalizer: Map<String, Value>,
        config: Map<String, Value>,
        prompts: Vec<(String, Vec<i64>)>,
    }

    fn check_pieces(release: &str, case: &PiecesCase) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/text");
        let folder = tempfile::tempdir().expect("a folder");
        let (family, model_name) = case.model.split_once('/').expect("a folder and a file");
        let read = |name: &str| std::fs::read(golden.join(family).join(name)).expect(name);
        let model = sentence_pieces::changed(&read(model_name), case.charsmap, &case.normalizer);
        let mut config: Map<String, Value> = serde_json::from_slice(&read("tokenizer_config.json")).expect("its form");
        config.extend(case.config.clone());
        let write = |name: &str, content: &[u8]| {
            std::fs::write(folder.path().join(name), content).expect("the file is written");
        };
        write(model_name, &model);
        write("tokenizer_config.json", Value::Object(config).to_string().as_bytes());
        write("config.json", json!({"transformers_version": release}).to_string().as_bytes());
        let file = TokenizerFile::read(folder.path(), None).expect(&case.what);
        let tokenizer = file.tokenizer().expect(&case.what);
        let vocabulary = Vocabulary::from_bytes(&file.json, &file.spec_alone()).expect(&case.what);
        for (prompt, ids) in &case.prompts {
            let found = tokenizer.encode(prompt).expect("a prompt");
            assert_eq!(&found.ids, ids, "{release}, {}: {prompt:?}", case.what);
            let reading = vocabulary.read(prompt, &(0..prompt.len())).expect("a prompt");
            let ids: Vec<_> = reading.ids.into_iter().map(i64::from).collect();
            // Without the special tokens around them.
            let inner = [0, 1].iter().any(|first| found.ids[*first..].starts_with(&ids));
            assert!(inner && found.ids.len() <= ids.len() + 2, "{prompt:?}: {ids:?}");
        }
    }

    #[test]
    fn sentence_piece_models_alone_give_the_ids_of_the_release_that_wrote_the_files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/text/sentence_piece_ids.json");
        let goldens: BTreeMap<String, Vec<PiecesCase>> =
            serde_json::from_slice(&std::fs::read(path).expect("the golden")).expect("its form");
        assert_eq!(goldens.keys().collect::<Vec<_>>(), ["4.56.2", "5.24.0"]);
        for (release, cases) in &goldens {
            cases.iter().for_each(|case| check_pieces(release, case));
        }
    }

    #[test]
    fn classes_give_the_ids_of_the_release_that_wrote_the_files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/text/class_ids.json");
        let goldens: BTreeMap<String, Golden> =
            serde_json::from_slice(&std::fs::read(path).expect("the golden")).expect("its form");
        let mut failed = Vec::new();
        for (version, golden) in &goldens {
            let release = if version == "5" { "5.24.0" } else { "4.56.2" };
            for row in &golden.rows {
                for class in &row.classes {
                    let wrong = differences(golden, row, class, release).unwrap_or_else(|e| vec![e.to_string()]);
                    let (name, config) = (&row.tokenizer, Value::Object(row.config.clone()));
                    failed.extend(wrong.iter().map(|w| format!("{release} {class}, {name}, {config}: {w}")));
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
