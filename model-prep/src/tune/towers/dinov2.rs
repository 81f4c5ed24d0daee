//! DINOv2, with or without register tokens.

use candle_core::{D, Tensor};

use super::pre_norm::{Layer, LayerNames, VIT_NAMES, among_all, kept_values};
use super::vision::{patch_embedding, positions, with_lead};
use super::{Input, Tower};
use crate::checkpoint::{Activation, Dinov2Config};
use crate::towers::Method;
use crate::tune::error::TuneError;
use crate::tune::ops::{activation, with_tokens};
use crate::tune::pass::Pass;

const NAMES: LayerNames = LayerNames { norms: ["norm1", "norm2"], feed_forward: ["mlp.fc1", "mlp.fc2"], ..VIT_NAMES };

#[derive(Debug)]
pub(super) struct Dinov2 {
    pub(super) config: Dinov2Config,
}

impl Dinov2 {
    /// A gated feed-forward block, `down(silu(gate(x)) * up(x))`, with the residual connection. Gate and up projection are
    /// one layer in transformers 4, two in the modules of transformers 5.
    fn gated(&self, pass: &Pass<'_>, x: &Tensor, layer: &Layer<'_>) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        let normed = pass.layer_norm(&layer.named(layer.names.norms[1]), x, encoder)?;
        let (gate_name, up_name) = (layer.named("mlp.gate_proj"), layer.named("mlp.up_proj"));
        let (gate, up) = if pass.has(&format!("{gate_name}.weight")) {
            let [gate, up] = [gate_name, up_name].map(|name| pass.linear(&name, &normed, [hidden, inner], true));
            (gate?, up?)
        } else {
            let both = pass.linear(&layer.named("mlp.weights_in"), &normed, [hidden, 2 * inner], true)?;
            (both.narrow(D::Minus1, 0, inner)?.contiguous()?, both.narrow(D::Minus1, inner, inner)?.contiguous()?)
        };
        let gated = (activation(&gate, Activation::Silu)? * up)?;
        let y = pass.linear(&layer.named("mlp.weights_out"), &gated, [inner, hidden], true)?;
        layer.added(pass, x, y, 1, hidden)
    }
}

impl Tower for Dinov2 {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "vision_model.encoder.layer."
    }

    fn below(&self) -> &'static [&'static str] {
        &["vision_model.embeddings."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let Dinov2Config { encoder, patching, .. } = &self.config;
        let hidden = encoder.hidden_size;
        let name = "vision_model.embeddings.patch_embeddings.projection";
        let x = patch_embedding(pass, name, input, patching, hidden, true)?;
        let class = pass.weight("vision_model.embeddings.cls_token", &[1, 1, hidden])?;
        // The reference resamples with antialiasing if there are registers, without otherwise.
        let method = if self.config.registers.is_some() { Method::BicubicAntialias } else { Method::Bicubic };
        let name = "vision_model.embeddings.position_embeddings";
        let table = with_lead(&positions(pass, name, [1, hidden], true, patching, method)?, &[class])?;
        let table = match self.config.registers {
            Some(count) if count > 0 => {
                let registers = pass.weight("vision_model.embeddings.register_tokens", &[1, count, hidden])?;
                let rest = table.narrow(0, 1, table.dim(0)? - 1)?;
                Tensor::cat(&[table.narrow(0, 0, 1)?, registers.squeeze(0)?, rest], 0)?
            }
            _ => table,
        };
        pass.dropout(with_tokens(&x, &table)?, encoder.dropout.hidden)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let layer = Layer {
            name: format!("{}{index}", self.layer_prefix()),
            names: &NAMES,
            biases: [self.config.qkv_bias; 3],
            scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
            position_biases: None,
            attention: among_all(encoder),
            first_only: index + 1 == encoder.layers,
            // The feed-forward block has none.
            dropped: [encoder.dropout.hidden, 0.0],
            dropped_path: encoder.dropout.path,
        };
        let x = layer.attention_block(pass, x, encoder)?;
        if self.config.gated { self.gated(pass, &x, &layer) } else { layer.feed_forward_block(pass, &x, encoder) }
    }

    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        pass.layer_norm("vision_model.layernorm", &x.squeeze(1)?, &self.config.encoder)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}
