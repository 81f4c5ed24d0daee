//! BEiT.

use candle_core::{Device, Tensor};

use super::pre_norm::{Layer, VIT_NAMES, among_all, kept_values};
use super::vision::{patch_embedding, positions, resampling, with_lead};
use super::{Input, Tower};
use crate::checkpoint::BeitConfig;
use crate::towers::Method;
use crate::tune::error::TuneError;
use crate::tune::ops::{tensor, with_tokens};
use crate::tune::pass::Pass;

#[derive(Debug)]
pub(super) struct Beit {
    config: BeitConfig,
    /// For each pair of tokens, the row of the table of position biases [tokens * tokens].
    pairs: Tensor,
}

impl Beit {
    pub(super) fn new(config: BeitConfig) -> Result<Self, TuneError> {
        let pairs = pairs(config.patching.grid());
        let count = pairs.len();
        Ok(Self { config, pairs: Tensor::from_vec(pairs, count, &Device::Cpu)? })
    }

    /// Relative position biases of all pairs of tokens [heads, tokens, tokens], from the table of `owner`.
    fn biases(&self, pass: &Pass<'_>, owner: &str) -> Result<Tensor, TuneError> {
        let heads = self.config.encoder.heads;
        let patching = &self.config.patching;
        let [old_rows, old_columns] = patching.trained_grid().map(|side| 2 * side - 1);
        let old = old_rows * old_columns;
        let name = format!("{owner}.relative_position_bias.relative_position_bias_table");
        let mut table = pass.weight(&name, &[old + 3, heads])?;
        let sides = patching.grid().map(|side| 2 * side - 1);
        // The reference swaps rows and columns here, which matters if the grid is not square.
        if sides != [old_columns, old_rows] {
            let distances = table.narrow(0, 0, old)?.contiguous()?;
            let distances = resampling([old_columns, old_rows], sides, Method::Bilinear)?.matmul(&distances)?;
            table = Tensor::cat(&[distances, table.narrow(0, old, 3)?], 0)?;
        }
        let tokens = 1 + patching.patches();
        let biases = table.index_select(&self.pairs, 0)?.t()?.contiguous()?;
        Ok(biases.reshape((heads, tokens, tokens))?)
    }
}

/// For each pair of tokens, the row of the table: one per distance of two patches, and three for pairs with the class
/// token.
fn pairs(grid: [usize; 2]) -> Vec<u32> {
    let [rows, columns] = grid.map(|side| 2 * side - 1);
    let tokens = 1 + grid[0] * grid[1];
    let place = |token: usize| [(token - 1) / grid[1], (token - 1) % grid[1]];
    let row = |query: usize, key: usize| match (query, key) {
        (0, 0) => rows * columns + 2,
        (0, _) => rows * columns,
        (_, 0) => rows * columns + 1,
        _ => {
            let (a, b) = (place(query), place(key));
            let [down, across] = [0, 1].map(|axis| a[axis] + grid[axis] - 1 - b[axis]);
            down * columns + across
        }
    };
    (0..tokens).flat_map(|query| (0..tokens).map(move |key| row(query, key) as u32)).collect()
}

impl Tower for Beit {
    fn layers(&self) -> usize {
        self.config.encoder.layers
    }

    fn layer_prefix(&self) -> &'static str {
        "vision_model.encoder.layer."
    }

    fn below(&self) -> &'static [&'static str] {
        &["vision_model.embeddings.", "vision_model.encoder.relative_position_bias."]
    }

    fn embed(&self, pass: &Pass<'_>, input: &Input) -> Result<Tensor, TuneError> {
        let BeitConfig { encoder, patching, .. } = &self.config;
        let hidden = encoder.hidden_size;
        let name = "vision_model.embeddings.patch_embeddings.projection";
        let x = patch_embedding(pass, name, input, patching, hidden, true)?;
        let class = pass.weight("vision_model.embeddings.cls_token", &[1, 1, hidden])?;
        let table = if self.config.absolute_positions {
            positions(
                pass,
                "vision_model.embeddings.position_embeddings",
                [1, hidden],
                true,
                patching,
                Method::Bicubic,
            )?
        } else {
            let rows = 1 + patching.patches();
            tensor(vec![0.0; rows * hidden], &[rows, hidden])?
        };
        pass.dropout(with_tokens(&x, &with_lead(&table, &[class])?)?, encoder.dropout.hidden)
    }

    fn layer(&self, pass: &Pass<'_>, index: usize, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        let name = format!("{}{index}", self.layer_prefix());
        let own = match self.config.layer_biases {
            true => Some(self.biases(pass, &format!("{name}.attention.attention"))?),
            false => None,
        };
        let shared = match self.config.shared_biases {
            true => Some(self.biases(pass, "vision_model.encoder")?),
            false => None,
        };
        let position_biases = match (own, shared) {
            (Some(own), Some(shared)) => Some((own + shared)?),
            (own, shared) => own.or(shared),
        };
        // The rates increase linearly from 0 in the first layer to the configured one in the last.
        let dropped_path = encoder.dropout.path * index as f32 / (encoder.layers - 1).max(1) as f32;
        let layer = Layer {
            name,
            names: &VIT_NAMES,
            biases: [true, false, true],
            scales: self.config.layer_scale.then_some(["lambda_1", "lambda_2"]),
            position_biases,
            attention: among_all(encoder),
            first_only: index + 1 == encoder.layers && !self.config.mean_pooling,
            dropped: [encoder.dropout.hidden; 2],
            dropped_path,
        };
        layer.run(pass, x, encoder)
    }

    fn pool(&self, pass: &Pass<'_>, x: &Tensor, _: &Input) -> Result<Tensor, TuneError> {
        let encoder = &self.config.encoder;
        if !self.config.mean_pooling {
            return pass.layer_norm("vision_model.layernorm", &x.squeeze(1)?, encoder);
        }
        let patches = x.narrow(1, 1, x.dim(1)? - 1)?.contiguous()?;
        pass.layer_norm("vision_model.pooler.layernorm", &patches.mean(1)?, encoder)
    }

    fn kept_values(&self, tokens: usize) -> usize {
        let biases = if self.config.layer_biases { self.config.encoder.layers } else { 0 };
        // Biases do not depend on the number of samples; counted as if for eight at a time.
        kept_values(&self.config.encoder, tokens) + biases * self.config.encoder.heads * tokens * tokens / 8
    }
}
