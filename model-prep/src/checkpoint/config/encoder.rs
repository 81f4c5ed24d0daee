//! Parameters that the layers of all towers share.

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::Object;

/// Parameters that the layers of all towers share.
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
    /// Epsilon of layer norms, added to the variance.
    pub layer_norm_eps: f32,
    /// What is dropped in training.
    pub dropout: Dropout,
}

/// Shares of values that are set to zero at random in training, 0 to below 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dropout {
    /// Of the outputs of embeddings and blocks.
    pub hidden: f32,
    /// Of attention probabilities.
    pub attention: f32,
    /// Of whole blocks, per sample (stochastic depth).
    pub path: f32,
}

/// Defaults of an architecture's configuration class.
pub(super) struct EncoderDefaults {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) activation: &'static str,
    pub(super) layer_norm_eps: f64,
    pub(super) dropout: DropoutDefaults,
}

/// Keys and defaults of dropout in an architecture's configuration class.
#[derive(Clone, Copy)]
pub(super) struct DropoutDefaults {
    /// Whether outputs of embeddings and blocks have dropout.
    pub(super) is_hidden: bool,
    /// The key of the share of attention probabilities.
    pub(super) attention_key: &'static str,
    /// Default of both shares.
    pub(super) share: f64,
    /// Default of the share of blocks, where there is one.
    pub(super) path: Option<f64>,
}

impl DropoutDefaults {
    /// `BertConfig`, with another default.
    pub(super) const BERT: Self =
        Self { is_hidden: true, attention_key: "attention_probs_dropout_prob", share: 0.1, path: None };

    /// `ViTConfig`.
    pub(super) const VIT: Self = Self { share: 0.0, ..Self::BERT };

    /// `CLIPTextConfig`, `SiglipVisionConfig`.
    pub(super) const CLIP: Self = Self { is_hidden: false, attention_key: "attention_dropout", share: 0.0, path: None };
}

impl EncoderDefaults {
    /// `BertConfig`, and but for dropout, `ViTConfig`.
    pub(super) const BERT: Self = Self {
        hidden_size: 768,
        intermediate_size: 3072,
        layers: 12,
        heads: 12,
        activation: "gelu",
        layer_norm_eps: 1e-12,
        dropout: DropoutDefaults::BERT,
    };

    /// `ViTConfig`.
    pub(super) const VIT: Self = Self { dropout: DropoutDefaults::VIT, ..Self::BERT };
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// GELU, at least -10 and at most 10.
    Gelu10,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x tanh(ln(1 + exp x))`.
    Mish,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `x`, or a hundredth of it where it is negative.
    LeakyRelu,
    /// `(1 + erf((x - 0.707107) / (0.282095 sqrt 2))) / 2`.
    Laplace,
    /// `x`.
    Linear,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// The names that transformers has for activations (`ACT2FN`), but for those with trained parameters.
const ACTIVATIONS: [(&str, Activation); 19] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_10", Activation::Gelu10),
    // Four names for the same formula.
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("mish", Activation::Mish),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
    ("relu6", Activation::Relu6),
    ("leaky_relu", Activation::LeakyRelu),
    ("laplace", Activation::Laplace),
    ("linear", Activation::Linear),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
];

/// Activations of transformers that have trained parameters in every layer.
const TRAINED_ACTIVATIONS: [&str; 2] = ["prelu", "xielu"];

impl EncoderConfig {
    pub(super) fn read(object: &Object, defaults: &EncoderDefaults) -> Result<Self, CheckpointError> {
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
            dropout: Dropout::read(object, defaults.dropout)?,
        })
    }
}

impl Dropout {
    fn read(object: &Object, defaults: DropoutDefaults) -> Result<Self, CheckpointError> {
        let share = |key: &str, default: f64| {
            let share = object.number(key, default)?;
            if (0.0..1.0).contains(&share) {
                return Ok(share as f32);
            }
            Err(object.wrong(key, "a number from 0 to below 1", Some(&share.into())))
        };
        Ok(Self {
            hidden: if defaults.is_hidden { share("hidden_dropout_prob", defaults.share)? } else { 0.0 },
            attention: share(defaults.attention_key, defaults.share)?,
            path: defaults.path.map_or(Ok(0.0), |default| share("drop_path_rate", default))?,
        })
    }
}

/// The epsilon of layer norms, from 0 to below 1. With 0, a row whose values are all equal becomes NaN, as in the
/// reference.
pub(super) fn layer_norm_eps(object: &Object, default: f64) -> Result<f32, CheckpointError> {
    let eps = object.number("layer_norm_eps", default)?;
    if !(0.0..1.0).contains(&eps) {
        return Err(object.wrong("layer_norm_eps", "a number from 0 to below 1", Some(&eps.into())));
    }
    Ok(eps as f32)
}

impl Activation {
    pub(super) fn read(object: &Object, key: &str, default: &str) -> Result<Self, CheckpointError> {
        let name = object.text(key, default)?;
        if let Some((_, activation)) = ACTIVATIONS.iter().find(|(known, _)| *known == name) {
            return Ok(*activation);
        }
        let names = ACTIVATIONS.map(|(known, _)| known).join(", ");
        let reason = if TRAINED_ACTIVATIONS.contains(&name.as_str()) {
            format!("it has trained parameters in every layer; train the tower with one of the others: {names}")
        } else {
            format!("activations: {names}")
        };
        Err(object.unsupported(key, format!("{name:?}"), reason))
    }
}
