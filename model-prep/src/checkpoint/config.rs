//! `config.json` of a `vision-text-dual-encoder`; defaults are those of transformers 4.56.2.

use std::path::Path;

use serde_json::Value;

use super::CheckpointError;
use super::json::Object;

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

/// A Vision Transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Height and width of the input, in pixels.
    pub image_size: [usize; 2],
    /// Height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Activation of the pooler.
    pub pooler_activation: Activation,
}

/// A BERT encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Its layers.
    pub encoder: EncoderConfig,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Rows of the position embedding table: the longest sequence.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding table.
    pub type_vocab_size: usize,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
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
        let vision = root.object("vision_config")?;
        let vision = match vision.text("model_type", "")?.as_str() {
            "vit" => VisionConfig::Vit(VitConfig::read(&vision)?),
            other => return Err(vision.unsupported("model_type", format!("{other:?}"), "image towers: \"vit\"")),
        };
        let text = root.object("text_config")?;
        let text = match text.text("model_type", "")?.as_str() {
            "bert" => TextConfig::Bert(BertConfig::read(&text)?),
            other => return Err(text.unsupported("model_type", format!("{other:?}"), "text towers: \"bert\"")),
        };
        Ok(Self {
            projection_dim: root.count("projection_dim", 512)?,
            logit_scale_init_value: root.number("logit_scale_init_value", 2.6592)? as f32,
            vision,
            text,
        })
    }
}

impl EncoderConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        let hidden_size = object.count("hidden_size", 768)?;
        let heads = object.count("num_attention_heads", 12)?;
        if hidden_size % heads != 0 {
            let expected = format!("a divisor of hidden_size {hidden_size}");
            return Err(object.wrong("num_attention_heads", &expected, Some(&heads.into())));
        }
        let eps = object.number("layer_norm_eps", 1e-12)?;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(object.wrong("layer_norm_eps", "a number between 0 and 1", Some(&eps.into())));
        }
        Ok(Self {
            hidden_size,
            intermediate_size: object.count("intermediate_size", 3072)?,
            layers: object.count("num_hidden_layers", 12)?,
            heads,
            activation: Activation::read(object, "hidden_act", "gelu")?,
            layer_norm_eps: eps as f32,
        })
    }
}

impl VitConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        let encoder = EncoderConfig::read(object)?;
        let channels = object.count("num_channels", 3)?;
        if channels != 3 {
            return Err(object.unsupported("num_channels", channels, "pictures have 3 channels"));
        }
        let image_size = pair(object, "image_size", 224)?;
        let patch_size = pair(object, "patch_size", 16)?;
        if patch_size[0] > image_size[0] || patch_size[1] > image_size[1] {
            let expected = format!("at most image_size {image_size:?}");
            return Err(object.wrong("patch_size", &expected, object.get("patch_size")));
        }
        // The reference builds its projection for `hidden_size` and cannot run such a checkpoint either.
        let pooler = object.count("pooler_output_size", encoder.hidden_size)?;
        if pooler != encoder.hidden_size {
            let reason = format!("visual_projection takes hidden_size {} values", encoder.hidden_size);
            return Err(object.unsupported("pooler_output_size", pooler, reason));
        }
        Ok(Self {
            image_size,
            patch_size,
            qkv_bias: object.flag("qkv_bias", true)?,
            pooler_activation: Activation::read(object, "pooler_act", "tanh")?,
            encoder,
        })
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        (self.image_size[0] / self.patch_size[0]) * (self.image_size[1] / self.patch_size[1])
    }
}

impl BertConfig {
    fn read(object: &Object) -> Result<Self, CheckpointError> {
        let positions = object.text("position_embedding_type", "absolute")?;
        if positions != "absolute" {
            return Err(object.unsupported("position_embedding_type", format!("{positions:?}"), "only \"absolute\""));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if object.flag(key, false)? {
                return Err(object.unsupported(key, true, "the text tower is an encoder"));
            }
        }
        Ok(Self {
            encoder: EncoderConfig::read(object)?,
            vocab_size: object.count("vocab_size", 30522)?,
            max_position_embeddings: object.count("max_position_embeddings", 512)?,
            type_vocab_size: object.count("type_vocab_size", 2)?,
        })
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
            "tanh" => Ok(Self::Tanh),
            other => {
                let reason = "activations: gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, tanh";
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
