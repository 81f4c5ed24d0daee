//! Layers with layer norm before each block.

use candle_core::Tensor;

use crate::checkpoint::EncoderConfig;
use crate::tune::error::TuneError;
use crate::tune::ops::{self, Attention};
use crate::tune::pass::{Pass, first_token};

/// Names of a layer's parts, appended to the layer's own name.
pub(super) struct LayerNames {
    pub(super) norms: [&'static str; 2],
    pub(super) attention: [&'static str; 3],
    pub(super) output: &'static str,
    pub(super) feed_forward: [&'static str; 2],
}

/// ViT, DeiT and BEiT.
pub(super) const VIT_NAMES: LayerNames = LayerNames {
    norms: ["layernorm_before", "layernorm_after"],
    attention: ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    output: "attention.output.dense",
    feed_forward: ["intermediate.dense", "output.dense"],
};

/// CLIP and SigLIP, in their image and text towers.
pub(super) const CLIP_NAMES: LayerNames = LayerNames {
    norms: ["layer_norm1", "layer_norm2"],
    attention: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    output: "self_attn.out_proj",
    feed_forward: ["mlp.fc1", "mlp.fc2"],
};

/// A layer with layer norm before each block.
pub(super) struct Layer<'a> {
    /// Its own name.
    pub(super) name: String,
    pub(super) names: &'a LayerNames,
    /// Whether query, key and value have biases.
    pub(super) biases: [bool; 3],
    /// The tensors that multiply the output channels of each block (layer scale), if there are any.
    pub(super) scales: Option<[&'static str; 2]>,
    /// Position biases that are added to the attention scores [heads, tokens, tokens].
    pub(super) position_biases: Option<Tensor>,
    pub(super) attention: Attention,
    /// Whether only the first token is computed, because only it is pooled.
    pub(super) first_only: bool,
    /// Shares of values that are dropped after the attention block and the feed-forward block.
    pub(super) dropped: [f32; 2],
    /// Share of the samples whose blocks are dropped.
    pub(super) dropped_path: f32,
}

impl Layer<'_> {
    pub(super) fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// Layer norm and attention, with the residual connection.
    pub(super) fn attention_block(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        encoder: &EncoderConfig,
    ) -> Result<Tensor, TuneError> {
        let hidden = encoder.hidden_size;
        let normed = pass.layer_norm(&self.named(self.names.norms[0]), x, encoder)?;
        let names = self.names.attention.map(|part| self.named(part));
        let qkv = pass.linears(names.each_ref().map(String::as_str), &normed, hidden, self.biases)?;
        let attention = Attention { dropped: pass.dropped(encoder.dropout.attention, false), ..self.attention.clone() };
        let context = ops::attention(&qkv, self.position_biases.as_ref(), attention)?;
        let (context, x) =
            if self.first_only { (first_token(&context)?, first_token(x)?) } else { (context, x.clone()) };
        let y = pass.linear(&self.named(self.names.output), &context, [hidden, hidden], true)?;
        self.added(pass, &x, y, 0, hidden)
    }

    /// Layer norm and feed-forward block, with the residual connection.
    pub(super) fn feed_forward_block(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        encoder: &EncoderConfig,
    ) -> Result<Tensor, TuneError> {
        let normed = pass.layer_norm(&self.named(self.names.norms[1]), x, encoder)?;
        let [up, down] = self.names.feed_forward.map(|part| self.named(part));
        let y = pass.feed_forward([&up, &down], &normed, encoder)?;
        self.added(pass, x, y, 1, encoder.hidden_size)
    }

    /// Drops and scales the output `y` of a block, and adds it to `x`.
    pub(super) fn added(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        y: Tensor,
        block: usize,
        hidden: usize,
    ) -> Result<Tensor, TuneError> {
        let y = pass.dropout(y, self.dropped[block])?;
        let y = match self.scales {
            Some(scales) => ops::scale(&y, &pass.weight(&self.named(scales[block]), &[hidden])?)?,
            None => y,
        };
        Ok((x + pass.drop_path(y, self.dropped_path)?)?)
    }

    /// The whole layer.
    pub(super) fn run(&self, pass: &Pass<'_>, x: &Tensor, encoder: &EncoderConfig) -> Result<Tensor, TuneError> {
        let x = self.attention_block(pass, x, encoder)?;
        self.feed_forward_block(pass, &x, encoder)
    }
}

/// Attention among all tokens.
pub(super) fn among_all(encoder: &EncoderConfig) -> Attention {
    Attention { heads: encoder.heads, causal: false, mask: None, dropped: None }
}

/// Rough number of values that the backward pass of an encoder needs for a sample of `tokens` tokens.
pub(super) fn kept_values(encoder: &EncoderConfig, tokens: usize) -> usize {
    // Per token: norms, queries, keys, values, context, block outputs and residuals; and the input of the activation.
    // Temporary values of one layer come on top.
    tokens * (encoder.layers + 1) * (10 * encoder.hidden_size + encoder.intermediate_size)
}
