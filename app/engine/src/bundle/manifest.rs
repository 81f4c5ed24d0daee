//! `bundle.json`: its fields and their valid values.

use serde::{Deserialize, Serialize};

use super::BundleError;
use super::quantization::{Quantization, Weights};
use super::tensor_spec::{Dim, TensorSpec};
use crate::preprocess::{PreprocessConfig, PreprocessError, Preprocessor, Size};
use crate::score::{Scoring, ScoringKind};

/// Version of the bundle format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Inputs that a text tower may have, in the order of the arguments in transformers.
pub const TEXT_INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

/// The most tokens that a text tower may take. Known architectures take 64 to 514, long ones of other exporters some
/// thousand; the memory of a run grows with the number. The tower's position table may limit it further.
pub const TOKENS_MAX: usize = 4096;

/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "bundle.json";

/// The content of `bundle.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format_version: u32,
    /// Name of the model, for people.
    pub name: String,
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// Natural logarithm of the factor that cosines are multiplied by, as in the checkpoint.
    pub logit_scale: f32,
    /// Added to logits, as SigLIP does; absent if nothing is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<f32>,
    /// How logits become probabilities; softmax if absent.
    #[serde(default, skip_serializing_if = "ScoringKind::is_default")]
    pub scoring: ScoringKind,
    /// The image tower: `pixel_values` [batch, 3, height, width] to `image_embeds` [batch, projection_dim].
    pub vision: Tower,
    /// The text tower: `input_ids` and optionally attention mask, token types and position ids [batch, sequence] to
    /// `text_embeds` [batch, projection_dim].
    pub text: Tower,
    /// From an RGB image to `pixel_values`.
    pub preprocess: PreprocessConfig,
    /// From a prompt to the text tower's inputs.
    pub tokenizer: TokenizerSpec,
    /// Prompt templates for labels that have none; `{}` stands for the prompt.
    pub templates: Vec<String>,
    /// The checkpoint of the weights.
    pub source: Source,
    /// Values of the checkpoint that were overridden when the bundle was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// How the weights are quantised, and the loss that was measured.
    pub quantization: Quantization,
    /// Embeddings of labels that were adapted to example images; empty without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted_labels: Vec<AdaptedLabel>,
    /// The model card.
    pub model_card: FileEntry,
}

/// A label whose embedding was adapted to example images. It takes the place of the text embedding wherever a label has the
/// same sentences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptedLabel {
    /// Name of the label, for people.
    pub name: String,
    /// [`KeyedLabels::label_key`](crate::labels::KeyedLabels::label_key) of its sentences, in hexadecimal.
    pub sentences: String,
    /// Number of its example images.
    pub examples: usize,
    /// The embedding: 32-bit floats, little-endian, in Base64.
    pub embedding: String,
}

impl AdaptedLabel {
    /// Describes a label with this embedding of projection_dim values; a blend with examples is not normalised.
    pub fn new(name: &str, sentences: String, examples: usize, embedding: &[f32]) -> Self {
        let bytes: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), sentences, examples, embedding: base64::encode(bytes) }
    }

    /// The embedding; `None` if the text is not Base64 of whole floats.
    pub fn values(&self) -> Option<Vec<f32>> {
        let bytes = base64::decode(&self.embedding).ok()?;
        let (values, rest) = bytes.as_chunks::<4>();
        rest.is_empty().then(|| values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// File name without folders; not `bundle.json`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// One tower: a standard ONNX file whose output is the normalised embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    /// The ONNX file.
    pub file: FileEntry,
    /// Architecture of the tower.
    pub architecture: Architecture,
    /// How the weights of its linear layers and embedding tables are stored.
    pub weights: Weights,
    /// Inputs in the order of the graph.
    pub inputs: Vec<TensorSpec>,
    /// The embedding, divided by its L2 norm.
    pub output: TensorSpec,
    /// The embedding before the division, if the graph has it as its second output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<TensorSpec>,
}

/// Architectures that a tower may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Vision Transformer.
    Vit,
    /// Data-efficient image Transformer: a Vision Transformer with a distillation token.
    Deit,
    /// BEiT image encoder.
    Beit,
    /// Image or text tower of CLIP.
    Clip,
    /// DINOv2 image encoder.
    Dinov2,
    /// DINOv2 image encoder with register tokens.
    Dinov2WithRegisters,
    /// Image or text tower of SigLIP.
    Siglip,
    /// Swin Transformer.
    Swin,
    /// Swin Transformer v2.
    Swinv2,
    /// BERT encoder.
    Bert,
    /// RoBERTa encoder; also XLM-RoBERTa and CamemBERT, which differ in the vocabulary only.
    Roberta,
    /// MPNet encoder.
    Mpnet,
    /// Any architecture, imported as an ONNX graph.
    Onnx,
}

/// How prompts become token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// `tokenizer.json` in the format of the tokenizers library.
    pub file: FileEntry,
    /// Longest sequence in tokens, special tokens included; longer prompts are truncated. 2 to [`TOKENS_MAX`], and no more
    /// than the text tower has positions for.
    pub max_length: usize,
    /// Side on which longer prompts lose tokens; the end if absent.
    #[serde(default, skip_serializing_if = "TruncationSide::is_default")]
    pub truncation_side: TruncationSide,
    /// Length that prompts are padded to.
    #[serde(default, skip_serializing_if = "Padding::is_default")]
    pub padding: Padding,
    /// Side that padding is added on.
    pub padding_side: PaddingSide,
    /// The padding token.
    pub pad_token: String,
    /// Id of the padding token.
    pub pad_id: u32,
    /// Token type of the padding token.
    pub pad_type_id: u32,
    /// How position ids are counted.
    #[serde(default)]
    pub positions: Positions,
    /// The steps of SigLIP's tokenizer, which `tokenizer.json` can only approximate. If present, the normalizer,
    /// pre-tokenizer and template of the file are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siglip: Option<SiglipSteps>,
}

/// Steps of SigLIP's tokenizer. Its vocabulary, special tokens and character map are in `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiglipSteps {
    /// How text is lowercased.
    pub lowercase: Lowercase,
    /// The text that is put before each span of text while it is split into pieces.
    pub unk_token: String,
    /// Id of unknown pieces.
    pub unk_id: u32,
    /// Token that is appended to a prompt unless it ends with it.
    pub eos_id: u32,
    /// SentencePiece's `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: bool,
    /// SentencePiece's `add_dummy_prefix`, which transformers 4 turns off.
    pub add_dummy_prefix: bool,
    /// Ids of pieces that match no text: control pieces, the unknown piece, unused ones.
    pub reserved: Vec<u32>,
}

/// How text is lowercased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lowercase {
    /// Not at all.
    No,
    /// Letter by letter, as in transformers 4.
    Letters,
    /// As a whole, so that a sigma at the end of a word becomes a final sigma, as in transformers 5.
    Text,
}

/// Length that prompts are padded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// The longest prompt of the batch.
    #[default]
    Longest,
    /// The maximum length, as SigLIP was trained.
    MaxLength,
}

impl Padding {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How position ids are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// From 0, padding included.
    #[default]
    Sequential,
    /// Tokens from the padding token's id + 1; padding has that id itself. As in RoBERTa.
    AfterPadding,
}

/// Side on which a short sequence is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingSide {
    /// Padding before the tokens.
    Left,
    /// Padding after the tokens.
    Right,
}

/// Side on which a long prompt loses tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TruncationSide {
    /// Its first tokens are dropped.
    Left,
    /// Its last tokens are dropped.
    #[default]
    Right,
}

impl TruncationSide {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Truncates word pieces to `limit`.
    pub(crate) fn truncate(self, ids: &mut Vec<u32>, limit: usize) {
        match self {
            Self::Left => drop(ids.drain(..ids.len().saturating_sub(limit))),
            Self::Right => ids.truncate(limit),
        }
    }
}

/// The checkpoint that a bundle was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name of the checkpoint's folder.
    pub checkpoint: String,
    /// SHA-256 of its weights.
    pub sha256: String,
}

/// A value of the checkpoint that was overridden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Name of the command line option without dashes: `resize`, `crop`.
    pub key: String,
    /// The checkpoint's value, in the syntax of the option.
    pub from: String,
    /// The bundle's value, in the syntax of the option.
    pub to: String,
    /// The reason that the user gave.
    pub reason: String,
}

impl Manifest {
    /// Parses and validates a manifest; `path` is used in messages only.
    ///
    /// # Errors
    /// It is not JSON, has another format version, an unknown or missing field, or an invalid value.
    pub fn parse(path: &str, json: &[u8]) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Head {
            format_version: u64,
        }
        let json_error = |source| BundleError::Json { path: path.to_owned(), source };
        let head: Head = serde_json::from_slice(json).map_err(json_error)?;
        if head.format_version != u64::from(FORMAT_VERSION) {
            return Err(BundleError::Version { path: path.to_owned(), found: head.format_version });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(json_error)?;
        manifest.validate(path)?;
        Ok(manifest)
    }

    /// All files that the manifest names.
    pub fn files(&self) -> [&FileEntry; 4] {
        [&self.vision.file, &self.text.file, &self.tokenizer.file, &self.model_card]
    }

    /// Height and width of the image tower's input, in pixels.
    pub fn image_size(&self) -> [usize; 2] {
        match self.vision.inputs[0].shape[..] {
            [_, _, Dim::Fixed(height), Dim::Fixed(width)] => [height, width],
            // `validate` lets no other shape through.
            _ => unreachable!("a validated manifest has a fixed image size"),
        }
    }

    /// A preprocessor for this image tower, which refuses images that would become a tensor of another size.
    ///
    /// # Errors
    /// [`Self::preprocess`] has an invalid value; never for a manifest from [`Self::parse`].
    pub fn preprocessor(&self) -> Result<Preprocessor, PreprocessError> {
        let [height, width] = self.image_size();
        Preprocessor::for_size(&self.preprocess, Size { height, width })
    }

    /// Logit scale, logit bias and kind of scoring, as [`crate::score::score`] takes them.
    pub fn scoring(&self) -> Scoring {
        Scoring { logit_scale: self.logit_scale, logit_bias: self.logit_bias, kind: self.scoring }
    }
}
