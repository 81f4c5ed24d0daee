//! SentencePiece models of XLM-RoBERTa and CamemBERT, whose ids are fairseq's, and of SigLIP.

use std::path::Path;

use prost::Message;
use serde_json::json;
use spotter_engine::bundle::{Lowercase, SiglipSteps};
use tokenizers::normalizers::Precompiled;

use super::classes::Generation;
use super::configuration::{Class, Configuration};
use super::{Parts, assemble, refused, template, with_id};
use crate::checkpoint::CheckpointError;

/// The parts of `sentencepiece_model.proto` that say how a prompt is cut.
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

/// The kind of a piece of text.
const NORMAL: i32 = 1;
/// Kinds of pieces that are neither text nor control: symbols of the user, unused ones and single bytes.
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The algorithm that is the default and the only one of these families.
const UNIGRAM: i32 = 1;

/// What stands for a space in pieces.
const SPACE: &str = "\u{2581}";

impl Model {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let model = Self::decode(bytes).map_err(|e| refused(path, format!("not a SentencePiece model: {e}")))?;
        let algorithm = model.trainer.as_ref().and_then(|t| t.algorithm).unwrap_or(UNIGRAM);
        if algorithm != UNIGRAM {
            let message = format!("a SentencePiece model of type {algorithm}; only unigram models, type 1, are read");
            return Err(refused(path, format!("{message}: save the tokenizer with its tokenizer.json")));
        }
        if let Some(piece) = model.pieces.iter().find(|p| matches!(p.kind, Some(USER_DEFINED | BYTE))) {
            let message = format!("the piece {:?} is a symbol of its own or a byte, which is not read", piece.piece());
            return Err(refused(path, format!("{message}: save the tokenizer with its tokenizer.json")));
        }
        Ok(model)
    }

    /// Pieces from `first` on with their scores.
    fn scores(&self, first: usize) -> impl Iterator<Item = (String, f64)> {
        self.pieces.iter().skip(first).map(|piece| (piece.piece().to_owned(), f64::from(piece.score())))
    }

    /// The step that replaces characters, where the model has one.
    fn characters(&self, path: &Path) -> Result<Option<Precompiled>, CheckpointError> {
        let charsmap = self.normalizer.as_ref().and_then(|n| n.precompiled_charsmap.as_deref()).unwrap_or_default();
        if charsmap.is_empty() {
            return Ok(None);
        }
        let bad = |e: &dyn std::fmt::Display| refused(path, format!("its table of characters is damaged: {e}"));
        // The length that the table says it has is believed by the library.
        let fits = charsmap.first_chunk().is_some_and(|n| u32::from_le_bytes(*n) as usize <= charsmap.len() - 4);
        if !fits {
            return Err(bad(&"it is cut short"));
        }
        Precompiled::from(charsmap).map(Some).map_err(|e| bad(&e))
    }
}

/// The tokenizer that transformers converts `XLMRobertaTokenizer` and `CamembertTokenizer` into: fairseq put its own
/// special tokens before the model's pieces.
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
    // Transformers 5 splits at every white space instead of making one space of several.
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
        // Both families have it there.
        model: json!({"type": "Unigram", "unk_id": 3, "vocab": &vocab, "byte_fallback": false}),
    };
    assemble(path, parts, &id, config)
}

/// What `SiglipTokenizer`, which transformers runs by SentencePiece itself, makes of a prompt: its own steps, and a
/// tokenizer in the library's format that comes close to them: a space in front, then lower case, no punctuation and
/// single spaces.
///
/// What that format cannot say: behind a special token typed as text, punctuation leaves a space; after a prompt that ends
/// in `</s>` the reference adds no second one; and a combining mark behind a character that the table replaces goes with
/// it, as in all fast tokenizers of transformers.
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
    // Python's `string.punctuation`, and its idea of white space, which has the separators of ASCII too.
    let (marks, spaces) = (r"!-/:-@\[-`{-~", r"\s\x1c-\x1f");
    // The space in front is there before punctuation is taken away and stays apart from the prompt's own first space.
    // The pre-tokenizer adds it to prompts that start with neither.
    let front = format!("{SPACE} ");
    steps.extend([
        replace(&format!(r"\A[{marks}]*[{spaces}][{marks}{spaces}]*"), &front),
        replace(&format!(r"\A[{marks}]+"), SPACE),
        replace(&format!("[{marks}]"), ""),
        replace(&format!("[{spaces}]+"), " "),
        strip(),
    ]);
    let characters = model.characters(path)?;
    // Most models have it: the space in front and the prompt's own are one then.
    let front_is_space = characters.as_ref().is_some_and(|table| table.normalize_string(SPACE) == " ");
    steps.extend(characters.map(|table| json!(table)));
    if own.remove_extra_whitespaces {
        // At the end too, where nothing but the space in front is left.
        steps.extend([replace(" {2,}", " "), strip()]);
        if !front_is_space {
            steps.extend([replace(r"\A ", &front), replace(&format!(r"\A{SPACE}\z"), "")]);
        }
    }
    let parts = Parts {
        normalizer: json!({"type": "Sequence", "normalizers": steps}),
        // Not split: SentencePiece looks for pieces in the whole text.
        pre_tokenizer: json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false}),
        post_processor: template(None, with_id(path, config, "eos_token", &id)?),
        model: json!({"type": "Unigram", "unk_id": own.unk_id, "vocab": &vocab, "byte_fallback": false}),
    };
    Ok((assemble(path, parts, &id, config)?, own))
}

/// The steps that the library's format has no words for.
fn siglip_steps(
    path: &Path,
    model: &Model,
    config: &Configuration,
    vocabulary: impl Fn(&str) -> Option<u64>,
) -> Result<SiglipSteps, CheckpointError> {
    if let Some(token) = config.added_tokens()?.iter().find(|token| !token.is_plain_special()) {
        let reason = "tokens of that kind are not read for SigLIP: take it out of added_tokens_decoder";
        return Err(refused(
            path,
            format!("the added token {:?} is not special, or a word of its own: {reason}", token.content),
        ));
    }
    let trainer = model.trainer.clone().unwrap_or_default();
    let normalizer = model.normalizer.clone().unwrap_or_default();
    let unusual = [
        ("treat_whitespace_as_suffix true", trainer.treat_whitespace_as_suffix()),
        ("escape_whitespaces false", !normalizer.escape_whitespaces.unwrap_or(true)),
    ];
    if let Some((what, _)) = unusual.iter().find(|(_, found)| *found) {
        return Err(refused(path, format!("a SentencePiece model with {what}, which is not read")));
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

/// Finds the id of a piece; the first where there are several.
fn id_in(vocab: &[(String, f64)]) -> impl Fn(&str) -> Option<u64> {
    let mut ids = std::collections::BTreeMap::new();
    for (id, (piece, _)) in (0..).zip(vocab) {
        ids.entry(piece.clone()).or_insert(id);
    }
    move |piece| ids.get(piece).copied()
}

/// A model file with some of its settings changed, and with or without its table of characters.
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
