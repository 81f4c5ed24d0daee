//! CLIP's image and text towers.

use candle_core::{Device, Tensor};

use super::bert::{embedding, tokens};
use super::pre_norm::{CLIP_NAMES, Layer, among_all, kept_values};
use super::vision::{patch_embedding, positions, with_lead};
use super::{Input, Tokens, Tower};
use crate::checkpoint::{ClipPooling, ClipTextConfig, ClipVisionConfig, EncoderConfig};
use crate::towers::Method;
use crate::tune::error::TuneError;
use crate::tune::ops::{Attention, with_tokens};
use crate::tune::pass::Pass;

/// The layer `name` of CLIP or SigLIP.
pub(super) fn layer(name: String, attention: Attention, first_only: bool) -> Layer<'static> {
    Layer {
        name,
        names: &CLIP_NAMES,
        biases: [true; 3],
        scales: None,
        position_biases: None,
        attention,
        first_only,
        dropped: [0.0; 2],
        dropped_path: 0.0,
    }
}

#[derive(Debug)]
pub(super) struct ClipVision {
    pub(super) config: ClipVisionConfig,
}

impl Tower for ClipVision {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "vision_model.encoder.layers."
    }

    fn below(&self) -> &'static [&'static str] {
        // The spelling is the reference's.
        &["vision_model.embeddings.", "vision_model.pre_layrnorm."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let ClipVisionConfig { encoder, patching } = &self.config;
        let hidden = encoder.hidden_size;
        let x = patch_embedding(pass, "vision_model.embeddings.patch_embedding", input, patching, hidden, false)?;
        let class = pass.weight("vision_model.embeddings.class_embedding", &[hidden])?.reshape((1, 1, hidden))?;
        let name = "vision_model.embeddings.position_embedding.weight";
        let table = positions(pass, name, [1, hidden], false, patching, Method::Bicubic)?;
        let x = with_tokens(&x, &with_lead(&table, &[class])?)?;
        pass.layer_norm("vision_model.pre_layrnorm", &x, encoder)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let name = format!("{}{index}", self.layer_prefix());
        layer(name, among_all(encoder), index + 1 == encoder.layers).run(pass, x, encoder)
    }

    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        pass.layer_norm("vision_model.post_layernorm", &x.squeeze(1)?, &self.config.encoder)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}

#[derive(Debug)]
pub(super) struct ClipText {
    pub(super) config: ClipTextConfig,
}

impl Tower for ClipText {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "text_model.encoder.layers."
    }

    fn below(&self) -> &'static [&'static str] {
        &["text_model.embeddings."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let ClipTextConfig { encoder, vocab_size, max_position_embeddings, .. } = &self.config;
        let (tokens, hidden) = (tokens(input)?, encoder.hidden_size);
        let words = embedding(pass, "text_model.embeddings.token_embedding", &tokens.ids, [*vocab_size, hidden])?;
        let name = "text_model.embeddings.position_embedding";
        let positions = embedding(pass, name, &tokens.positions, [*max_position_embeddings, hidden])?;
        Ok((words + positions)?.reshape((tokens.batch, tokens.length(), hidden))?)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, input: &Input) -> Result<Tensor, TuneError> {
        let encoder: &EncoderConfig = &self.config.encoder;
        let mask = Some(tokens(input)?.mask.clone());
        let attention = Attention { heads: encoder.heads, causal: true, mask, dropped: None };
        layer(format!("{}{index}", self.layer_prefix()), attention, false).run(pass, x, encoder)
    }

    /// The hidden state of the end-of-text token.
    fn pool(&self, pass: &Pass<'_>, x: &Tensor, input: &Input) -> Result<Tensor, TuneError> {
        let (tokens, hidden) = (tokens(input)?, self.config.encoder.hidden_size);
        let x = pass.layer_norm("text_model.final_layer_norm", x, &self.config.encoder)?;
        let rows = places(tokens, self.config.pooling);
        let rows = Tensor::from_vec(rows, tokens.batch, &Device::Cpu)?;
        Ok(x.reshape((tokens.ids.len(), hidden))?.index_select(&rows, 0)?)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}

/// The row of the pooled token of each sentence among all tokens.
fn places(tokens: &Tokens, pooling: ClipPooling) -> Vec<u32> {
    let length = tokens.length();
    let place = |ids: &[u32]| match pooling {
        ClipPooling::LargestId => {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest)
        }
        ClipPooling::Eos(eos) => ids.iter().position(|id| i64::from(*id) == eos),
    };
    let rows = tokens.ids.chunks_exact(length).enumerate();
    rows.map(|(sentence, ids)| (sentence * length + place(ids).unwrap_or(0)) as u32).collect()
}
