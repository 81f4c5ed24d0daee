//! Vision Transformer, and DeiT, which has an additional token.

use candle_core::Tensor;

use super::pre_norm::{Layer, VIT_NAMES, among_all, kept_values};
use super::vision::{patch_embedding, positions, with_lead};
use super::{Input, Tower};
use crate::checkpoint::VitConfig;
use crate::towers::Method;
use crate::tune::error::TuneError;
use crate::tune::ops::with_tokens;
use crate::tune::pass::Pass;

#[derive(Debug)]
pub(super) struct Vit {
    pub(super) config: VitConfig,
    /// The leading tokens, the class token first.
    pub(super) tokens: &'static [&'static str],
}

impl Tower for Vit {
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
        let VitConfig { encoder, patching, .. } = &self.config;
        let hidden = encoder.hidden_size;
        let name = "vision_model.embeddings.patch_embeddings.projection";
        let x = patch_embedding(pass, name, input, patching, hidden, true)?;
        let tokens =
            self.tokens.iter().map(|token| pass.weight(&format!("vision_model.embeddings.{token}"), &[1, 1, hidden]));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        let name = "vision_model.embeddings.position_embeddings";
        let table = positions(pass, name, [tokens.len(), hidden], true, patching, Method::Bicubic)?;
        pass.dropout(with_tokens(&x, &with_lead(&table, &tokens)?)?, encoder.dropout.hidden)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let layer = Layer {
            name: format!("{}{index}", self.layer_prefix()),
            names: &VIT_NAMES,
            biases: [self.config.qkv_bias; 3],
            scales: None,
            position_biases: None,
            attention: among_all(encoder),
            first_only: index + 1 == encoder.layers,
            dropped: [encoder.dropout.hidden; 2],
            dropped_path: 0.0,
        };
        layer.run(pass, x, encoder)
    }

    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let x = pass.layer_norm("vision_model.layernorm", x, encoder)?;
        pass.dense_pooler("vision_model.pooler", &x, encoder.hidden_size, self.config.pooler_activation)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}
