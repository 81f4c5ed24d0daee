//! `vision_config` of a Swin Transformer, of the first or second version.

use std::path::Path;

use serde_json::Value;

use super::dinov2::scaled;
use super::encoder::{Activation, Dropout, EncoderConfig, layer_norm_eps};
use super::patching::{Patching, wrong_size};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::json::{Object, count};

/// Largest number of stages, above that of any real model. The width doubles with each stage.
const STAGES_MAX: usize = 8;

/// Largest side of a window: there is a bias for each pair of its tokens and each head, 64 MiB a head.
const WINDOW_MAX: usize = 64;

/// A Swin Transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct SwinConfig {
    /// Sizes of the input and the patches; the input is padded to whole patches.
    pub patching: Patching,
    /// Parameters of each stage's layers. A stage halves height and width of the previous one and doubles the channels.
    pub stages: Vec<EncoderConfig>,
    /// Side of an attention window, in tokens.
    pub window: usize,
    /// What the second version has for each stage; `None` for the first.
    pub second: Option<Vec<SecondStage>>,
    /// True if query, key and value have biases.
    pub qkv_bias: bool,
    /// True if there are absolute position embeddings.
    pub absolute_positions: bool,
}

/// Windows of a stage of Swin Transformer v2, which depend on the size that it was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecondStage {
    /// Side of a window, in tokens.
    pub window: usize,
    /// Tokens by which every other layer shifts its windows.
    pub shift: usize,
    /// Side of the windows that distances are relative to, minus 1; 0 if there is only one distance.
    pub farthest: usize,
}

impl SwinConfig {
    /// Reads the second version's configuration.
    pub(super) fn read_second(object: &Object) -> Result<Self, CheckpointError> {
        let config = Self::read(object)?;
        if config.absolute_positions {
            let reason = "transformers 4.56.2 fails to add them; train a tower without";
            return Err(object.unsupported("use_absolute_embeddings", true, reason));
        }
        let expected = format!("{} whole numbers, each 0, or 2 and more, one per entry of depths", config.stages.len());
        let number =
            |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n != 1 && *n <= WINDOW_MAX);
        let pretrained =
            object.or("pretrained_window_sizes", vec![0; config.stages.len()], &expected, |v| match v {
                Value::Array(values) if values.len() == config.stages.len() => values.iter().map(number).collect(),
                _ => None,
            })?;
        let [rows, columns] = config.patching.grid();
        let stage = |(index, pretrained): (usize, &usize)| {
            let sides = [rows >> index, columns >> index];
            // The reference takes the window's height for both.
            let window = sides[0].min(config.window);
            if window == 0 {
                let expected = format!("at least one row of tokens in each of {} stages", config.stages.len());
                return Err(object.wrong("image_size", &expected, object.get("image_size")));
            }
            let shift = if sides[0] <= window { 0 } else { config.window / 2 };
            let farthest = if *pretrained > 0 { pretrained - 1 } else { window - 1 };
            Ok(SecondStage { window, shift, farthest })
        };
        let second = pretrained.iter().enumerate().map(stage).collect::<Result<_, _>>()?;
        Ok(Self { second: Some(second), ..config })
    }

    /// Reads the first version's configuration.
    pub(super) fn read(object: &Object) -> Result<Self, CheckpointError> {
        let patching = Patching::read(object, 224, 4)?;
        let width = object.count("embed_dim", 96)?;
        let depths = counts(object, "depths", &[2, 2, 6, 2])?;
        let heads = counts(object, "num_heads", &[3, 6, 12, 24])?;
        if heads.len() != depths.len() {
            let expected = format!("{} numbers, one per entry of depths", depths.len());
            return Err(object.wrong("num_heads", &expected, object.get("num_heads")));
        }
        let activation = Activation::read(object, "hidden_act", "gelu")?;
        let layer_norm_eps = layer_norm_eps(object, 1e-5)?;
        let absolute_positions = object.flag("use_absolute_embeddings", false)?;
        let stage = |(index, (&layers, &heads)): (usize, (&usize, &usize))| {
            let hidden_size = width << index;
            if !hidden_size.is_multiple_of(heads) {
                let expected = format!("divisors of the stages' widths, {width} times powers of 2");
                return Err(object.wrong("num_heads", &expected, object.get("num_heads")));
            }
            let intermediate_size = scaled(object, "mlp_ratio", 4.0, hidden_size)?;
            // Swin is not trained here.
            let dropout = Dropout::default();
            Ok(EncoderConfig { hidden_size, intermediate_size, layers, heads, activation, layer_norm_eps, dropout })
        };
        Ok(Self {
            patching: Patching { any_size: !absolute_positions, ..patching },
            stages: depths.iter().zip(&heads).enumerate().map(stage).collect::<Result<_, _>>()?,
            window: object.or("window_size", 7, &format!("a whole number from 1 to {WINDOW_MAX}"), |v| {
                count(v).filter(|side| *side <= WINDOW_MAX)
            })?,
            second: None,
            qkv_bias: object.flag("qkv_bias", true)?,
            absolute_positions,
        })
    }

    /// Width of the pooler output.
    pub(super) fn pooled_width(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.hidden_size)
    }

    /// Rows and columns of tokens of each stage.
    pub(crate) fn grids(&self) -> Vec<[usize; 2]> {
        let ([height, width], [rows, columns]) = (self.patching.image_size, self.patching.patch_size);
        let first = [height.div_ceil(rows), width.div_ceil(columns)];
        std::iter::successors(Some(first), |grid| Some(grid.map(|side| side.div_ceil(2))))
            .take(self.stages.len())
            .collect()
    }

    /// Refuses input sizes that the reference cannot run.
    pub(super) fn check(&self, config: &Path) -> Result<(), CheckpointError> {
        let refused = |expected: &str| Err(wrong_size(config, self.patching.image_size, expected));
        // The second version pads a grid that is smaller than a window.
        if self.second.is_some() {
            return Ok(());
        }
        let grids = self.grids();
        if grids.iter().flatten().any(|side| *side < self.window) {
            return refused(&format!(
                "at least as many tokens as the side of a window, {}, in every stage",
                self.window
            ));
        }
        if !self.absolute_positions {
            return Ok(());
        }
        self.patching.check_positions(config)?;
        if grids.first().is_some_and(|grid| *grid != self.patching.grid()) {
            let [rows, columns] = self.patching.patch_size;
            return refused(&format!(
                "multiples of the patch size {rows} x {columns}, for absolute position embeddings"
            ));
        }
        Ok(())
    }
}

/// Reads a list of one or more whole numbers.
fn counts(object: &Object, key: &str, default: &[usize]) -> Result<Vec<usize>, CheckpointError> {
    let expected = format!("1 to {STAGES_MAX} whole numbers above 0");
    object.or(key, default.to_vec(), &expected, |v| match v {
        Value::Array(values) if (1..=STAGES_MAX).contains(&values.len()) => values.iter().map(count).collect(),
        _ => None,
    })
}
