//! BERT and RoBERTa, which differ in how positions are counted.

use candle_core::{Device, Tensor};

use super::pre_norm::kept_values;
use super::{Input, Tokens, Tower};
use crate::checkpoint::{Activation, BertConfig};
use crate::tune::error::TuneError;
use crate::tune::ops::{self, Attention};
use crate::tune::pass::{Pass, first_token};

#[derive(Debug)]
pub(super) struct Bert {
    pub(super) config: BertConfig,
}

/// The tokens of a text tower's input.
pub(super) fn tokens(input: &Input) -> Result<&Tokens, TuneError> {
    match input {
        Input::Tokens(tokens) => Ok(tokens),
        Input::Patches(_) | Input::Computed => Err(candle_core::Error::Msg("a text tower needs tokens".into()).into()),
    }
}

/// The rows `ids` of the table `name` [rows, width].
pub(super) fn embedding(
    pass: &Pass<'_>,
    name: &str,
    ids: &[u32],
    [rows, width]: [usize; 2],
) -> Result<Tensor, TuneError> {
    let table = pass.weight(&format!("{name}.weight"), &[rows, width])?;
    Ok(table.index_select(&Tensor::from_slice(ids, ids.len(), &Device::Cpu)?, 0)?)
}

impl Tower for Bert {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "text_model.encoder.layer."
    }

    fn below(&self) -> &'static [&'static str] {
        &["text_model.embeddings."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let BertConfig { encoder, vocab_size, max_position_embeddings, type_vocab_size, .. } = &self.config;
        let (tokens, hidden) = (tokens(input)?, encoder.hidden_size);
        let named = |part: &str| format!("text_model.embeddings.{part}");
        let words = embedding(pass, &named("word_embeddings"), &tokens.ids, [*vocab_size, hidden])?;
        let types = embedding(pass, &named("token_type_embeddings"), &tokens.types, [*type_vocab_size, hidden])?;
        let name = named("position_embeddings");
        let positions = embedding(pass, &name, &tokens.positions, [*max_position_embeddings, hidden])?;
        let x = ((words + types)? + positions)?.reshape((tokens.batch, tokens.length(), hidden))?;
        pass.dropout(pass.layer_norm(&named("LayerNorm"), &x, encoder)?, encoder.dropout.hidden)
    }

    /// A layer with layer norm after each block.
    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, input: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let hidden = encoder.hidden_size;
        let named = |part: &str| format!("{}{index}.{part}", self.layer_prefix());
        let names = ["query", "key", "value"].map(|part| named(&format!("attention.self.{part}")));
        let qkv = pass.linears(names.each_ref().map(String::as_str), x, hidden, [true; 3])?;
        let attention = Attention {
            heads: encoder.heads,
            causal: false,
            mask: Some(tokens(input)?.mask.clone()),
            dropped: pass.dropped(encoder.dropout.attention, false),
        };
        let context = ops::attention(&qkv, None, attention)?;
        let (context, x) = match index + 1 == encoder.layers {
            true => (first_token(&context)?, first_token(x)?),
            false => (context, x.clone()),
        };
        let y = pass.linear(&named("attention.output.dense"), &context, [hidden, hidden], true)?;
        let x = pass.sum_norm(&named("attention.output.LayerNorm"), &x, &y, encoder)?;
        let y = pass.feed_forward([&named("intermediate.dense"), &named("output.dense")], &x, encoder)?;
        pass.sum_norm(&named("output.LayerNorm"), &x, &y, encoder)
    }

    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        pass.dense_pooler("text_model.pooler", x, self.config.encoder.hidden_size, Activation::Tanh)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        kept_values(&self.config.encoder, tokens)
    }
}
