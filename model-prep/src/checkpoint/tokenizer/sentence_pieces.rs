//! Builds tokenizers from SentencePiece models: of XLM-RoBERTa and CamemBERT, with fairseq's ids, and of SigLIP.

use std::path::Path;

use prost::Message;
use serde_json::json;
use spotter_engine::bundle::{Lowercase, SiglipSteps};
use tokenizers::normalizers::Precompiled;

use super::assembly::{Parts, assemble, refused, template, with_id};
use super::classes::Generation;
use super::configuration::{Class, Configuration};
use crate::checkpoint::error::CheckpointError;

/// The parts of `sentencepiece_model.proto` that affect tokenization.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    algorithm: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Kind of a normal piece.
const NORMAL: i32 = 1;
/// Kinds of pieces that are not supported: user-defined symbols and bytes.
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The default algorithm, and the only one that these families use.
const UNIGRAM: i32 = 1;

/// The character that represents a space in pieces.
const SPACE: &str = "\u{2581}";

impl Model {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let model = Self::decode(bytes).map_err(|e| refused(path, format!("not a SentencePiece model: {e}")))?;
        let algorithm = model.trainer.as_ref().and_then(|t| t.algorithm).unwrap_or(UNIGRAM);
        if algorithm != UNIGRAM {
            let message =
                format!("a SentencePiece model of type {algorithm}; only unigram models, type 1, are supported");
            return Err(refused(path, format!("{message}: save the tokenizer with its tokenizer.json")));
        }
        if let Some(piece) = model.pieces.iter().find(|p| matches!(p.kind, Some(USER_DEFINED | BYTE))) {
            let message =
                format!("the piece {:?} is a user-defined symbol or a byte, which is not supported", piece.piece());
            return Err(refused(path, format!("{message}: save the tokenizer with its tokenizer.json")));
        }
        Ok(model)
    }

    /// The pieces from index `first` on, with their scores.
    fn scores(&self, first: usize) -> impl Iterator<Item = (String, f64)> {
        self.pieces.iter().skip(first).map(|piece| (piece.piece().to_owned(), f64::from(piece.score())))
    }

    /// The model's table of character replacements, if it has one.
    fn characters(&self, path: &Path) -> Result<Option<Precompiled>, CheckpointError> {
        let charsmap = self.normalizer.as_ref().and_then(|n| n.precompiled_charsmap.as_deref()).unwrap_or_default();
        if charsmap.is_empty() {
            return Ok(None);
        }
        let bad = |e: &dyn std::fmt::Display| refused(path, format!("its character map is damaged: {e}"));
        // The library trusts the length in the table.
        let fits = charsmap.first_chunk().is_some_and(|n| u32::from_le_bytes(*n) as usize <= charsmap.len() - 4);
        if !fits {
            return Err(bad(&"it is cut short"));
        }
        Precompiled::from(charsmap).map(Some).map_err(|e| bad(&e))
    }
}

/// Builds what transformers converts `XLMRobertaTokenizer` and `CamembertTokenizer` to. As in fairseq, special tokens
/// come before the model's pieces.
pub(super) fn fairseq(path: &Path, bytes: &[u8], config: &Configuration) -> Result<Vec<u8>, CheckpointError> {
    let model = Model::read(path, bytes)?;
    let (special, first): (&[(&str, f64)], _) = if config.class == Class::Camembert {
        let special: &[_] =
            &[("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)];
        (special, 1)
    } else {
        (&[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], 3)
    };
    let vocab = special.iter().map(|(token, score)| ((*token).to_owned(), *score));
    let vocab: Vec<_> = vocab.chain(model.scores(first)).chain([("<mask>".to_owned(), 0.0)]).collect();
    let space = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE});
    let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
    let characters = model.characters(path)?.map(|table| json!(table));
    let words = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true});
    // Transformers 5 splits at all white space; transformers 4 collapses spaces.
    let (own, pre_tokenizer) = match config.generation {
        Generation::Four => (vec![strip, space], words),
        Generation::Five => {
            (vec![], json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]}))
        }
    };
    let steps: Vec<_> = characters.into_iter().chain(own).collect();
    let id = id_in(&vocab);
    let parts = Parts {
        normalizer: json!({"type": "Sequence", "normalizers": steps}),
        pre_tokenizer,
        post_processor: template(
            Some(with_id(path, config, "bos_token", &id)?),
            with_id(path, config, "eos_token", &id)?,
        ),
        // The id of `<unk>` in both families.
        model: json!({"type": "Unigram", "unk_id": 3, "vocab": &vocab, "byte_fallback": false}),
    };
    assemble(path, parts, &id, config)
}

/// Builds the tokenizer of `SiglipTokenizer`, which transformers runs with SentencePiece itself: its exact steps, and
/// an approximation in the library's format, which adds a space in front, converts to lower case, removes punctuation
/// and collapses spaces.
///
/// The approximation differs in three ways: after a special token typed as text, punctuation leaves a space; after a
/// prompt that ends in `</s>`, the reference does not add another one; and a combining mark after a replaced character
/// is replaced with it, as in all fast tokenizers of transformers.
pub(super) fn siglip(
    path: &Path,
    bytes: &[u8],
    config: &Configuration,
) -> Result<(Vec<u8>, SiglipSteps), CheckpointError> {
    let model = Model::read(path, bytes)?;
    let vocab: Vec<_> = model.scores(0).collect();
    let id = id_in(&vocab);
    let own = siglip_steps(path, &model, config, &id)?;
    let replace = |regex: &str, by: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": by});
    let strip = || json!({"type": "Strip", "strip_left": false, "strip_right": true});
    let mut steps = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
    if own.lowercase != Lowercase::No {
        steps.push(json!({"type": "Lowercase"}));
    }
    // Python's `string.punctuation`, and its white space, which includes the ASCII separators.
    let (marks, spaces) = (r"!-/:-@\[-`{-~", r"\s\x1c-\x1f");
    // The space in front is added before punctuation is removed and is kept apart from the prompt's own leading space.
    // For prompts that start with neither, the pre-tokenizer adds it.
    let front = format!("{SPACE} ");
    steps.extend([
        replace(&format!(r"\A[{marks}]*[{spaces}][{marks}{spaces}]*"), &front),
        replace(&format!(r"\A[{marks}]+"), SPACE),
        replace(&format!("[{marks}]"), ""),
        replace(&format!("[{spaces}]+"), " "),
        strip(),
    ]);
    let characters = model.characters(path)?;
    // In most models, the table merges the space in front with the prompt's own.
    let front_is_space = characters.as_ref().is_some_and(|table| table.normalize_string(SPACE) == " ");
    steps.extend(characters.map(|table| json!(table)));
    if own.remove_extra_whitespaces {
        // Also at the end, if only the space in front is left.
        steps.extend([replace(" {2,}", " "), strip()]);
        if !front_is_space {
            steps.extend([replace(r"\A ", &front), replace(&format!(r"\A{SPACE}\z"), "")]);
        }
    }
    let parts = Parts {
        normalizer: json!({"type": "Sequence", "normalizers": steps}),
        // Not split: SentencePiece matches pieces in the whole text.
        pre_tokenizer: json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false}),
        post_processor: template(None, with_id(path, config, "eos_token", &id)?),
        model: json!({"type": "Unigram", "unk_id": own.unk_id, "vocab": &vocab, "byte_fallback": false}),
    };
    Ok((assemble(path, parts, &id, config)?, own))
}

/// The steps that the library's format cannot express.
fn siglip_steps(
    path: &Path,
    model: &Model,
    config: &Configuration,
    vocabulary: impl Fn(&str) -> Option<u64>,
) -> Result<SiglipSteps, CheckpointError> {
    if let Some(token) = config.added_tokens()?.iter().find(|token| !token.is_plain_special()) {
        let reason = "such tokens are not supported for SigLIP: remove it from added_tokens_decoder";
        return Err(refused(
            path,
            format!("the added token {:?} is not special, or matches whole words only: {reason}", token.content),
        ));
    }
    let trainer = model.trainer.clone().unwrap_or_default();
    let normalizer = model.normalizer.clone().unwrap_or_default();
    let unusual = [
        ("treat_whitespace_as_suffix true", trainer.treat_whitespace_as_suffix()),
        ("escape_whitespaces false", !normalizer.escape_whitespaces.unwrap_or(true)),
    ];
    if let Some((what, _)) = unusual.iter().find(|(_, found)| *found) {
        return Err(refused(path, format!("a SentencePiece model with {what}, which is not supported")));
    }
    let (_, eos_id) = with_id(path, config, "eos_token", vocabulary)?;
    let four = config.generation == Generation::Four;
    Ok(SiglipSteps {
        lowercase: match (config.normalization()?.lowercase, four) {
            (false, _) => Lowercase::No,
            (true, true) => Lowercase::Letters,
            (true, false) => Lowercase::Text,
        },
        unk_token: config.required("unk_token")?.content,
        unk_id: u32::try_from(trainer.unk_id.unwrap_or(0)).map_err(|_| refused(path, "unk_id is negative".into()))?,
        eos_id: eos_id as u32,
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
        add_dummy_prefix: !four && normalizer.add_dummy_prefix.unwrap_or(true),
        reserved: (0..)
            .zip(&model.pieces)
            .filter(|(_, p)| p.kind.unwrap_or(NORMAL) != NORMAL)
            .map(|(id, _)| id)
            .collect(),
    })
}

/// Returns a lookup of ids by piece; the first id for repeated pieces.
fn id_in(vocab: &[(String, f64)]) -> impl Fn(&str) -> Option<u64> {
    let mut ids = std::collections::BTreeMap::new();
    for (id, (piece, _)) in (0..).zip(vocab) {
        ids.entry(piece.clone()).or_insert(id);
    }
    move |piece| ids.get(piece).copied()
}

/// Returns a model file with some settings changed, with or without its character map.
#[cfg(test)]
pub(super) fn changed(
    bytes: &[u8],
    charsmap: bool,
    normalizer: &serde_json::Map<String, serde_json::Value>,
) -> Vec<u8> {
    let mut model = Model::decode(bytes).expect("a model");
    let settings = model.normalizer.get_or_insert_default();
    settings.precompiled_charsmap = settings.precompiled_charsmap.take().filter(|_| charsmap);
    for (key, value) in normalizer {
        let place = match key.as_str() {
            "add_dummy_prefix" => &mut settings.add_dummy_prefix,
            "remove_extra_whitespaces" => &mut settings.remove_extra_whitespaces,
            other => panic!("no setting {other}"),
        };
        *place = value.as_bool();
    }
    model.encode_to_vec()
}
