//! SigLIP's image tower.

use candle_core::{D, Tensor};

use super::clip::layer;
use super::pre_norm::{among_all, kept_values};
use super::vision::{patch_embedding, positions};
use super::{Input, Tower};
use crate::checkpoint::SiglipVisionConfig;
use crate::towers::Method;
use crate::tune::error::TuneError;
use crate::tune::ops::{linear, with_tokens};
use crate::tune::pass::Pass;

#[derive(Debug)]
pub(super) struct SiglipVision {
    pub(super) config: SiglipVisionConfig,
}

impl Tower for SiglipVision {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "vision_model.encoder.layers."
    }

    fn below(&self) -> &'static [&'static str] {
        &["vision_model.embeddings."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let SiglipVisionConfig { encoder, patching } = &self.config;
        let hidden = encoder.hidden_size;
        let x = patch_embedding(pass, "vision_model.embeddings.patch_embedding", input, patching, hidden, true)?;
        let name = "vision_model.embeddings.position_embedding.weight";
        Ok(with_tokens(&x, &positions(pass, name, [0, hidden], false, patching, Method::Bicubic)?)?)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        layer(format!("{}{index}", self.layer_prefix()), among_all(encoder), false).run(pass, x, encoder)
    }

    /// The attention pooling head: one learned query attends to all tokens, followed by a feed-forward block.
    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let (hidden, heads) = (encoder.hidden_size, encoder.heads);
        let (batch, tokens, _) = x.dims3()?;
        let dim = hidden / heads;
        let named = |part: &str| format!("vision_model.head.{part}");
        let x = pass.layer_norm("vision_model.post_layernorm", x, encoder)?;
        let weight = pass.weight(&named("attention.in_proj_weight"), &[3 * hidden, hidden])?;
        let bias = pass.weight(&named("attention.in_proj_bias"), &[3 * hidden])?;
        let probe = pass.weight(&named("probe"), &[1, 1, hidden])?.reshape((1, hidden))?;
        let query_weight = weight.narrow(0, 0, hidden)?;
        let query = linear(&probe, &query_weight, Some(&bias.narrow(0, 0, hidden)?))?;
        let rest = [weight.narrow(0, hidden, 2 * hidden)?, bias.narrow(0, hidden, 2 * hidden)?];
        let both = linear(&x, &rest[0], Some(&rest[1]))?;
        // [batch, tokens, hidden] to [batch, heads, tokens, dim].
        let split = |first: usize| -> Result<Tensor, TuneError> {
            let part = both.narrow(D::Minus1, first, hidden)?.contiguous()?.reshape((batch, tokens, heads, dim))?;
            Ok(part.transpose(1, 2)?.contiguous()?)
        };
        let (key, value) = (split(0)?, split(hidden)?);
        let query = (query.reshape((1, heads, 1, dim))? * (dim as f64).sqrt().recip())?;
        let query = query.broadcast_as((batch, heads, 1, dim))?.contiguous()?;
        let scores = query.matmul(&key.transpose(2, 3)?.contiguous()?)?;
        let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let shares = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
        let context = shares.matmul(&value)?.transpose(1, 2)?.contiguous()?.reshape((batch, hidden))?;
        let x = pass.linear(&named("attention.out_proj"), &context, [hidden, hidden], true)?;
        let normed = pass.layer_norm(&named("layernorm"), &x, encoder)?;
        let y = pass.feed_forward([&named("mlp.fc1"), &named("mlp.fc2")], &normed, encoder)?;
        Ok((x + y)?)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}
