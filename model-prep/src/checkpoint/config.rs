//! Reads `config.json`: the dual encoder's own keys and the configurations of both towers, one file per architecture.
//!
//! Defaults are those of transformers 4.56.2.

mod beit;
mod bert;
mod clip_text;
mod clip_vision;
mod dinov2;
mod encoder;
mod mpnet;
mod nested;
mod patching;
mod roberta;
mod siglip_text;
mod siglip_vision;
mod swin;
mod vision;
mod vit;

pub use beit::BeitConfig;
pub use bert::{BertConfig, BertPositions};
pub use clip_text::{ClipPooling, ClipTextConfig};
pub use clip_vision::ClipVisionConfig;
pub use dinov2::Dinov2Config;
pub use encoder::{Activation, Dropout, EncoderConfig};
pub use mpnet::MpnetConfig;
pub use patching::Patching;
pub use roberta::RobertaConfig;
pub use siglip_text::SiglipTextConfig;
pub use siglip_vision::SiglipVisionConfig;
pub use swin::{SecondStage, SwinConfig};
pub use vision::VisionConfig;
pub use vit::VitConfig;

use std::path::Path;

use spotter_engine::bundle::{Architecture, Padding, Positions};
use spotter_engine::score::ScoringKind;

use self::nested::tower;
use super::error::CheckpointError;
use super::json::Object;

/// Text encoders whose base models have no pooler.
const WITHOUT_POOLER: [&str; 9] =
    ["distilbert", "electra", "deberta", "deberta-v2", "roformer", "xlnet", "gpt2", "t5", "modernbert"];

/// The configuration of a dual encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DualEncoderConfig {
    /// The transformers class of the checkpoint.
    pub family: Family,
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// Initial value of `logit_scale`.
    pub logit_scale_init_value: f32,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
}

/// Transformers classes of dual encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `VisionTextDualEncoderModel`: any two towers, each with a projection.
    VisionTextDualEncoder,
    /// `CLIPModel`: CLIP's own towers, each with a projection.
    Clip,
    /// `SiglipModel`: towers without projections, scored by a sigmoid with a bias.
    Siglip,
}

/// Text tower architectures.
#[derive(Debug, Clone, PartialEq)]
pub enum TextConfig {
    /// BERT encoder.
    Bert(BertConfig),
    /// RoBERTa, XLM-RoBERTa or CamemBERT encoder.
    Roberta(RobertaConfig),
    /// MPNet encoder.
    Mpnet(MpnetConfig),
    /// CLIP's text tower.
    Clip(ClipTextConfig),
    /// SigLIP's text tower.
    Siglip(SiglipTextConfig),
}

impl DualEncoderConfig {
    /// Reads `config.json`.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let root = Object::read(path)?;
        let family = Family::read(&root)?;
        let [vision, text] = match family {
            Family::VisionTextDualEncoder => [root.object("vision_config")?, root.object("text_config")?],
            Family::Clip => {
                [tower(&root, "vision_config", "clip_vision_model")?, tower(&root, "text_config", "clip_text_model")?]
            }
            Family::Siglip => [
                tower(&root, "vision_config", "siglip_vision_model")?,
                tower(&root, "text_config", "siglip_text_model")?,
            ],
        };
        let text_config = TextConfig::read(&text)?;
        let vision = VisionConfig::read(&vision)?;
        let projection_dim = if family.projects() { root.count("projection_dim", 512)? } else { vision.pooled_width() };
        if !family.projects() && text_config.pooled_width() != projection_dim {
            let expected = format!("{projection_dim}, the width of the image tower's embeddings");
            return Err(text.wrong("projection_size", &expected, Some(&text_config.pooled_width().into())));
        }
        // SiglipModel initialises its scale itself.
        let scale = if family == Family::Siglip { 0.0 } else { 2.6592 };
        let logit_scale_init_value = root.number("logit_scale_init_value", scale)? as f32;
        Ok(Self { family, projection_dim, logit_scale_init_value, vision, text: text_config })
    }
}

impl Family {
    fn read(root: &Object) -> Result<Self, CheckpointError> {
        match root.text("model_type", "")?.as_str() {
            "vision-text-dual-encoder" => Ok(Self::VisionTextDualEncoder),
            "clip" => Ok(Self::Clip),
            "siglip" => Ok(Self::Siglip),
            other => {
                let kind = if other.is_empty() { "(absent)".to_owned() } else { format!("{other:?}") };
                let reason = "dual encoders: \"vision-text-dual-encoder\", \"clip\", \"siglip\"";
                Err(root.unsupported("model_type", kind, reason))
            }
        }
    }

    /// Returns whether each tower ends in a projection into the shared embedding space.
    pub(crate) fn projects(self) -> bool {
        self != Self::Siglip
    }

    /// How its logits become probabilities.
    pub fn scoring(self) -> ScoringKind {
        match self {
            Self::VisionTextDualEncoder | Self::Clip => ScoringKind::Softmax,
            Self::Siglip => ScoringKind::Sigmoid,
        }
    }
}

impl TextConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        match object.text("model_type", "")?.as_str() {
            "bert" => Ok(Self::Bert(BertConfig::read(object, 30522)?)),
            "roberta" => Ok(Self::Roberta(RobertaConfig::read(object, 50265, "RobertaTokenizer")?)),
            "xlm-roberta" => Ok(Self::Roberta(RobertaConfig::read(object, 30522, "XLMRobertaTokenizer")?)),
            "camembert" => Ok(Self::Roberta(RobertaConfig::read(object, 30522, "CamembertTokenizer")?)),
            "mpnet" => Ok(Self::Mpnet(MpnetConfig::read(object)?)),
            "clip_text_model" => Ok(Self::Clip(ClipTextConfig::read(object)?)),
            "siglip_text_model" => Ok(Self::Siglip(SiglipTextConfig::read(object)?)),
            other => {
                let reason = if WITHOUT_POOLER.contains(&other) {
                    "it has no pooler, and embeddings are pooler outputs; transformers cannot run this dual encoder \
                     either: train one whose text tower has a pooler"
                } else {
                    "text towers: \"bert\", \"roberta\", \"xlm-roberta\", \"camembert\", \"mpnet\", \
                     \"clip_text_model\", \"siglip_text_model\""
                };
                Err(object.unsupported("model_type", format!("{other:?}"), reason))
            }
        }
    }

    /// Possible inputs of the graph, in the order of the reference's arguments.
    pub fn inputs(&self) -> &'static [&'static str] {
        match self {
            Self::Bert(config) | Self::Roberta(RobertaConfig { bert: config, .. }) => match config.positions {
                BertPositions::Absolute => &["input_ids", "attention_mask", "token_type_ids", "position_ids"],
                BertPositions::RelativeKey | BertPositions::RelativeKeyQuery => {
                    &["input_ids", "attention_mask", "token_type_ids"]
                }
            },
            Self::Mpnet(_) | Self::Clip(_) | Self::Siglip(_) => &["input_ids", "attention_mask", "position_ids"],
        }
    }

    /// Number of rows of the token embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::Roberta(config) => config.bert.vocab_size,
            Self::Mpnet(config) => config.vocab_size,
            Self::Clip(config) => config.vocab_size,
            Self::Siglip(config) => config.vocab_size,
        }
    }

    /// Longest sequence that the position embeddings allow, in tokens.
    pub fn tokens_max(&self) -> usize {
        let after_padding = |positions: usize| positions - self.padding_id().map_or(0, |id| id + 1);
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            // Distances need no position ids.
            Self::Roberta(config) if config.bert.positions != BertPositions::Absolute => {
                config.bert.max_position_embeddings
            }
            Self::Roberta(config) => after_padding(config.bert.max_position_embeddings),
            Self::Mpnet(config) => after_padding(config.max_position_embeddings),
            Self::Clip(config) => config.max_position_embeddings,
            Self::Siglip(config) => config.max_position_embeddings,
        }
    }

    /// Id of the padding token, if positions are counted from it.
    pub(crate) fn padding_id(&self) -> Option<usize> {
        match self {
            Self::Roberta(config) => Some(config.pad_token_id),
            Self::Mpnet(_) => Some(MpnetConfig::PAD_TOKEN_ID),
            Self::Bert(_) | Self::Clip(_) | Self::Siglip(_) => None,
        }
    }

    /// How position ids are counted.
    pub fn positions(&self) -> Positions {
        if self.padding_id().is_some() { Positions::AfterPadding } else { Positions::Sequential }
    }

    /// Length that prompts are padded to.
    pub fn padding(&self) -> Padding {
        match self {
            Self::Siglip(_) => Padding::MaxLength,
            Self::Bert(_) | Self::Roberta(_) | Self::Mpnet(_) | Self::Clip(_) => Padding::Longest,
        }
    }

    /// Tokenizer class, for a tokenizer configuration that names none.
    pub fn tokenizer_class(&self) -> &'static str {
        match self {
            Self::Bert(_) => "BertTokenizer",
            Self::Roberta(config) => config.tokenizer_class,
            Self::Mpnet(_) => "MPNetTokenizer",
            Self::Clip(_) => "CLIPTokenizer",
            Self::Siglip(_) => "SiglipTokenizer",
        }
    }

    /// Width of the pooler output.
    pub(crate) fn pooled_width(&self) -> usize {
        match self {
            Self::Bert(config) => config.encoder.hidden_size,
            Self::Roberta(config) => config.bert.encoder.hidden_size,
            Self::Mpnet(config) => config.encoder.hidden_size,
            Self::Clip(config) => config.encoder.hidden_size,
            Self::Siglip(config) => config.projection_size,
        }
    }

    /// The architecture, as the bundle names it.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Bert(_) => Architecture::Bert,
            Self::Roberta(_) => Architecture::Roberta,
            Self::Mpnet(_) => Architecture::Mpnet,
            Self::Clip(_) => Architecture::Clip,
            Self::Siglip(_) => Architecture::Siglip,
        }
    }
}
