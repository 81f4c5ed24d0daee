//! `config.json`: the dual encoder's own part, and what towers have in common. Each architecture has a file of its own.
//!
//! Defaults are those of transformers 4.56.2.

mod beit;
mod bert;
mod clip_text;
mod clip_vision;
mod dinov2;
mod mpnet;
mod roberta;
mod siglip_text;
mod siglip_vision;
mod swin;
mod vision;
mod vit;

pub use beit::BeitConfig;
pub use bert::BertConfig;
pub use clip_text::{ClipPooling, ClipTextConfig};
pub use clip_vision::ClipVisionConfig;
pub use dinov2::Dinov2Config;
pub use mpnet::MpnetConfig;
pub use roberta::RobertaConfig;
pub use siglip_text::SiglipTextConfig;
pub use siglip_vision::SiglipVisionConfig;
pub use swin::SwinConfig;
pub use vision::{Patching, VisionConfig};
pub use vit::VitConfig;

use std::path::Path;

use spotter_engine::bundle::{Architecture, Padding, Positions};
use spotter_engine::score::ScoringKind;

use super::CheckpointError;
use super::json::Object;

/// Text encoders whose base models give hidden states only.
const WITHOUT_POOLER: [&str; 9] =
    ["distilbert", "electra", "deberta", "deberta-v2", "roformer", "xlnet", "gpt2", "t5", "modernbert"];

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct DualEncoderConfig {
    /// The class of transformers that the checkpoint is of.
    pub family: Family,
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// `logit_scale` before training.
    pub logit_scale_init_value: f32,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
}

/// Classes of transformers that put two towers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `VisionTextDualEncoderModel`: any two towers, each with a projection.
    VisionTextDualEncoder,
    /// `CLIPModel`: the same with CLIP's own towers.
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

/// What the layers of every tower have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Activation of the feed-forward block.
    pub activation: Activation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
}

/// What an architecture's configuration class sets where the file says nothing.
struct EncoderDefaults {
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    activation: &'static str,
    layer_norm_eps: f64,
}

impl EncoderDefaults {
    /// `BertConfig`, `ViTConfig`.
    const BERT: Self = Self {
        hidden_size: 768,
        intermediate_size: 3072,
        layers: 12,
        heads: 12,
        activation: "gelu",
        layer_norm_eps: 1e-12,
    };
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
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
        // SiglipModel sets its scale itself.
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

    /// Whether each tower ends in a projection into the shared space.
    pub fn projects(self) -> bool {
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

/// The configuration of a tower of CLIP or SigLIP under `key`: where there is a `{key}_dict` as well, which old files
/// have, the reference lets it win; what neither has is the class's default.
fn tower(object: &Object, key: &str, model_type: &str) -> Result<Object, CheckpointError> {
    let old = format!("{key}_dict");
    let key = if object.get(&old).is_some() { &old } else { key };
    Ok(object.object_or_empty(key)?.with_default("model_type", model_type))
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
                    "it has no pooler, and embeddings are pooler outputs: transformers cannot run this dual encoder \
                     either; train one whose text tower has a pooler"
                } else {
                    "text towers: \"bert\", \"roberta\", \"xlm-roberta\", \"camembert\", \"mpnet\", \
                     \"clip_text_model\", \"siglip_text_model\""
                };
                Err(object.unsupported("model_type", format!("{other:?}"), reason))
            }
        }
    }

    /// Inputs that the graph may have, in the order of the reference's arguments.
    pub fn inputs(&self) -> &'static [&'static str] {
        match self {
            Self::Bert(_) | Self::Roberta(_) => &["input_ids", "attention_mask", "token_type_ids", "position_ids"],
            Self::Mpnet(_) | Self::Clip(_) | Self::Siglip(_) => &["input_ids", "attention_mask", "position_ids"],
        }
    }

    /// Rows of the table of word embeddings.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::Roberta(config) => config.bert.vocab_size,
            Self::Mpnet(config) => config.vocab_size,
            Self::Clip(config) => config.vocab_size,
            Self::Siglip(config) => config.vocab_size,
        }
    }

    /// The longest sequence that there are positions for.
    pub fn tokens_max(&self) -> usize {
        let behind_padding = |positions: usize| positions - self.padding_id().map_or(0, |id| id + 1);
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            Self::Roberta(config) => behind_padding(config.bert.max_position_embeddings),
            Self::Mpnet(config) => behind_padding(config.max_position_embeddings),
            Self::Clip(config) => config.max_position_embeddings,
            Self::Siglip(config) => config.max_position_embeddings,
        }
    }

    /// The padding token's id, where positions are counted from it.
    pub fn padding_id(&self) -> Option<usize> {
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

    /// How far prompts are padded.
    pub fn padding(&self) -> Padding {
        match self {
            Self::Siglip(_) => Padding::MaxLength,
            Self::Bert(_) | Self::Roberta(_) | Self::Mpnet(_) | Self::Clip(_) => Padding::Longest,
        }
    }

    /// Class of the tokenizer where its configuration names none.
    pub fn tokenizer_class(&self) -> &'static str {
        match self {
            Self::Bert(_) => "BertTokenizer",
            Self::Roberta(config) => config.tokenizer_class,
            Self::Mpnet(_) => "MPNetTokenizer",
            Self::Clip(_) => "CLIPTokenizer",
            Self::Siglip(_) => "SiglipTokenizer",
        }
    }

    /// Width of what the pooler gives.
    pub fn pooled_width(&self) -> usize {
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

impl EncoderConfig {
    fn read(object: &Object, defaults: &EncoderDefaults) -> Result<Self, CheckpointError> {
        let hidden_size = object.count("hidden_size", defaults.hidden_size)?;
        let heads = object.count("num_attention_heads", defaults.heads)?;
        if hidden_size % heads != 0 {
            let expected = format!("a divisor of hidden_size {hidden_size}");
            return Err(object.wrong("num_attention_heads", &expected, Some(&heads.into())));
        }
        Ok(Self {
            hidden_size,
            intermediate_size: object.count("intermediate_size", defaults.intermediate_size)?,
            layers: object.count("num_hidden_layers", defaults.layers)?,
            heads,
            activation: Activation::read(object, "hidden_act", defaults.activation)?,
            layer_norm_eps: layer_norm_eps(object, defaults.layer_norm_eps)?,
        })
    }
}

fn layer_norm_eps(object: &Object, default: f64) -> Result<f32, CheckpointError> {
    let eps = object.number("layer_norm_eps", default)?;
    if !(eps > 0.0 && eps < 1.0) {
        return Err(object.wrong("layer_norm_eps", "a number between 0 and 1", Some(&eps.into())));
    }
    Ok(eps as f32)
}

impl Activation {
    fn read(object: &Object, key: &str, default: &str) -> Result<Self, CheckpointError> {
        let name = object.text(key, default)?;
        match name.as_str() {
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            // Three names of the same formula.
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "quick_gelu" => Ok(Self::QuickGelu),
            "silu" | "swish" => Ok(Self::Silu),
            "tanh" => Ok(Self::Tanh),
            other => {
                let reason =
                    "activations: gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, silu, swish, tanh";
                Err(object.unsupported(key, format!("{other:?}"), reason))
            }
        }
    }
}
