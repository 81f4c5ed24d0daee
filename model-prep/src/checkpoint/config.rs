//! `config.json`: the dual encoder's own part, and what towers have in common. Each architecture has a file of its own.
//!
//! Defaults are those of transformers 4.56.2.

mod bert;
mod clip_text;
mod mpnet;
mod roberta;
mod siglip_text;
mod vit;

pub use bert::BertConfig;
pub use clip_text::{ClipPooling, ClipTextConfig};
pub use mpnet::MpnetConfig;
pub use roberta::RobertaConfig;
pub use siglip_text::SiglipTextConfig;
pub use vit::VitConfig;

use std::path::Path;

use serde_json::Value;
use spotter_engine::bundle::{Architecture, Padding, Positions};

use super::CheckpointError;
use super::json::Object;

/// Text encoders whose base models give hidden states only.
const WITHOUT_POOLER: [&str; 9] =
    ["distilbert", "electra", "deberta", "deberta-v2", "roformer", "xlnet", "gpt2", "t5", "modernbert"];

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct DualEncoderConfig {
    /// Width of the shared embedding space.
    pub projection_dim: usize,
    /// `logit_scale` before training.
    pub logit_scale_init_value: f32,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
}

/// Image tower architectures.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionConfig {
    /// Vision Transformer.
    Vit(VitConfig),
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

/// The input of an image tower and the patches it is cut into, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Height and width of the input.
    pub image_size: [usize; 2],
    /// Height and width of a patch.
    pub patch_size: [usize; 2],
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
        let kind = root.text("model_type", "")?;
        if kind != "vision-text-dual-encoder" {
            let kind = if kind.is_empty() { "(absent)".to_owned() } else { format!("{kind:?}") };
            return Err(root.unsupported("model_type", kind, "expected \"vision-text-dual-encoder\""));
        }
        Ok(Self {
            projection_dim: root.count("projection_dim", 512)?,
            logit_scale_init_value: root.number("logit_scale_init_value", 2.6592)? as f32,
            vision: VisionConfig::read(&root.object("vision_config")?)?,
            text: TextConfig::read(&root.object("text_config")?)?,
        })
    }
}

impl VisionConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        match object.text("model_type", "")?.as_str() {
            "vit" => Ok(Self::Vit(VitConfig::read(object)?)),
            other => Err(object.unsupported("model_type", format!("{other:?}"), "image towers: \"vit\"")),
        }
    }

    /// Input and patches.
    pub fn patching(&self) -> &Patching {
        match self {
            Self::Vit(config) => &config.patching,
        }
    }

    /// Width of what the pooler gives.
    pub fn pooled_width(&self) -> usize {
        match self {
            Self::Vit(config) => config.encoder.hidden_size,
        }
    }

    /// The architecture, as the bundle names it.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Vit(_) => Architecture::Vit,
        }
    }
}

impl TextConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        match object.text("model_type", "")?.as_str() {
            "bert" => Ok(Self::Bert(BertConfig::read(object, 30522)?)),
            "roberta" => Ok(Self::Roberta(RobertaConfig::read(object, 50265)?)),
            "xlm-roberta" | "camembert" => Ok(Self::Roberta(RobertaConfig::read(object, 30522)?)),
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
        let eps = object.number("layer_norm_eps", defaults.layer_norm_eps)?;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(object.wrong("layer_norm_eps", "a number between 0 and 1", Some(&eps.into())));
        }
        Ok(Self {
            hidden_size,
            intermediate_size: object.count("intermediate_size", defaults.intermediate_size)?,
            layers: object.count("num_hidden_layers", defaults.layers)?,
            heads,
            activation: Activation::read(object, "hidden_act", defaults.activation)?,
            layer_norm_eps: eps as f32,
        })
    }
}

impl Patching {
    fn read(object: &Object, image_size: usize, patch_size: usize) -> Result<Self, CheckpointError> {
        let channels = object.count("num_channels", 3)?;
        if channels != 3 {
            return Err(object.unsupported("num_channels", channels, "pictures have 3 channels"));
        }
        let image_size = pair(object, "image_size", image_size)?;
        let patch_size = pair(object, "patch_size", patch_size)?;
        if patch_size[0] > image_size[0] || patch_size[1] > image_size[1] {
            let expected = format!("at most image_size {image_size:?}");
            return Err(object.wrong("patch_size", &expected, object.get("patch_size")));
        }
        Ok(Self { image_size, patch_size })
    }

    /// Rows and columns of patches; pixels beyond the last whole patch are not looked at.
    pub fn grid(&self) -> [usize; 2] {
        [self.image_size[0] / self.patch_size[0], self.image_size[1] / self.patch_size[1]]
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.grid().iter().product()
    }
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

/// Height and width, given as one number for both or as a pair.
fn pair(object: &Object, key: &str, default: usize) -> Result<[usize; 2], CheckpointError> {
    let one = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    object.or(key, [default; 2], "a whole number above 0, or [height, width]", |v| match v {
        Value::Array(sides) => match &sides[..] {
            [height, width] => Some([one(height)?, one(width)?]),
            _ => None,
        },
        _ => one(v).map(|n| [n; 2]),
    })
}
