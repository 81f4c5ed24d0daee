//! Towers that can be trained: one file per architecture. The arithmetic is that of transformers 4.56.2; tensors are taken
//! by the same names as when a tower is exported.

mod beit;
mod bert;
mod clip;
mod dinov2;
mod pre_norm;
mod siglip;
mod vision;
mod vit;

use std::sync::Arc;

use candle_core::Tensor;

use super::error::TuneError;
use super::pass::Pass;
use crate::checkpoint::{BertConfig, BertPositions, TextConfig, VisionConfig};

pub(super) use self::vision::patches;

/// The input of a tower: some samples.
#[derive(Debug, Clone)]
pub(super) enum Input {
    /// Patches of images [batch, patches, 3 * height * width of a patch].
    Patches(Tensor),
    /// Tokens.
    Tokens(Tokens),
    /// Images whose first layers are computed already.
    Computed,
}

/// Tokens of some sentences, padded to the same length.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    /// Token ids [batch * tokens].
    pub(super) ids: Vec<u32>,
    /// Token types [batch * tokens].
    pub(super) types: Vec<u32>,
    /// Position ids [batch * tokens].
    pub(super) positions: Vec<u32>,
    /// Whether a token is attended to [batch * tokens].
    pub(super) mask: Arc<Vec<bool>>,
    /// Number of sentences.
    pub(super) batch: usize,
}

impl Tokens {
    /// Tokens of a sentence.
    pub(super) fn length(&self) -> usize {
        self.ids.len() / self.batch.max(1)
    }

    /// Some of the sentences.
    pub(super) fn rows(&self, first: usize, count: usize) -> Self {
        let range = first * self.length()..(first + count) * self.length();
        let part = |values: &[u32]| values[range.clone()].to_vec();
        Self {
            ids: part(&self.ids),
            types: part(&self.types),
            positions: part(&self.positions),
            mask: Arc::new(self.mask[range.clone()].to_vec()),
            batch: count,
        }
    }
}

/// A tower that can be trained.
pub(super) trait Tower: std::fmt::Debug + Sync {
    /// Number of layers.
    fn layers(&self) -> usize;

    /// Start of the names of a layer's tensors, up to its number.
    fn layer_prefix(&self) -> &'static str;

    /// Starts of the names of tensors that are used before the first layer.
    fn below(&self) -> &'static [&'static str];

    /// The input of the first layer [batch, tokens, hidden].
    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError>;

    /// The output of a layer for `x` [batch, tokens, hidden]. The last layer may compute the pooled token only.
    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, input: &Input) -> Result<Tensor, TuneError>;

    /// The pooler output [batch, hidden] for the output of the last layer.
    fn pool(&self, pass: &Pass<'_>, x: &Tensor, input: &Input) -> Result<Tensor, TuneError>;

    /// Rough number of values per sample that a backward pass needs, for `tokens` tokens.
    fn kept_values(&self, tokens: usize) -> usize;
}

/// The image tower of this configuration.
///
/// # Errors
/// Its architecture cannot be trained.
pub(super) fn image_tower(config: &VisionConfig) -> Result<Box<dyn Tower>, TuneError> {
    Ok(match config {
        VisionConfig::Vit(config) => Box::new(vit::Vit { config: config.clone(), tokens: &["cls_token"] }),
        VisionConfig::Deit(config) => {
            Box::new(vit::Vit { config: config.clone(), tokens: &["cls_token", "distillation_token"] })
        }
        VisionConfig::Beit(config) => Box::new(beit::Beit::new(config.clone())?),
        VisionConfig::Clip(config) => Box::new(clip::ClipVision { config: config.clone() }),
        VisionConfig::Dinov2(config) => Box::new(dinov2::Dinov2 { config: config.clone() }),
        VisionConfig::Siglip(config) => Box::new(siglip::SiglipVision { config: config.clone() }),
        VisionConfig::Swin(_) => {
            return Err(TuneError::NotTrainable { architecture: "a Swin image tower".into(), lock: "image" });
        }
    })
}

/// The text tower of this configuration.
///
/// # Errors
/// Its architecture cannot be trained.
pub(super) fn text_tower(config: &TextConfig) -> Result<Box<dyn Tower>, TuneError> {
    let refused = |name: &str| TuneError::NotTrainable { architecture: format!("{name} text tower"), lock: "text" };
    let trainable = |config: &BertConfig| match config.positions {
        BertPositions::Absolute => Ok(Box::new(bert::Bert { config: config.clone() })),
        BertPositions::RelativeKey | BertPositions::RelativeKeyQuery => Err(refused("a relative-position BERT")),
    };
    Ok(match config {
        TextConfig::Bert(config) => trainable(config)?,
        TextConfig::Roberta(config) => trainable(&config.bert)?,
        TextConfig::Clip(config) => Box::new(clip::ClipText { config: config.clone() }),
        TextConfig::Mpnet(_) => return Err(refused("an MPNet")),
        TextConfig::Siglip(_) => return Err(refused("a SigLIP")),
    })
}
