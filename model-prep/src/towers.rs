//! Builds ONNX graphs from a checkpoint's tensors: the blocks that towers share, and one file per architecture.
//!
//! Graphs end in the bias-free projection, if the checkpoint has one, and the division by the L2 norm. If the pooler
//! uses one token only, the last layer computes queries and everything after them for that token alone, which does not
//! change the result.

mod attention;
mod beit;
mod bert;
mod builder;
mod clip_layer;
mod clip_text;
mod clip_vision;
mod deit;
mod dinov2;
mod distances;
mod factors;
mod feed_forward;
mod mpnet;
mod pre_norm;
mod resample;
mod siglip_text;
mod siglip_vision;
mod swin;
mod tower_file;
mod vision;
mod vit;

use spotter_engine::bundle::{Dim, Dtype, TensorSpec};

use self::builder::Builder;
pub(crate) use self::resample::{Method, resampled};
pub use self::tower_file::TowerFile;
pub(crate) use self::tower_file::{IMAGE_OUTPUTS, TEXT_OUTPUTS};
use crate::checkpoint::{Checkpoint, CheckpointError, TextConfig, VisionConfig};
use crate::plan::Target;
use crate::progress::Tick;

/// What a tower's graph ends in, before the division by the L2 norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The projection into the shared embedding space, if the checkpoint has one.
    Projection,
    /// The pooler.
    Pooler,
}

/// Builds the image tower. Calls `tick` once per tensor.
pub fn vision(checkpoint: &Checkpoint, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    vision_to(End::Projection, checkpoint, target, tick)
}

/// Builds the image tower up to `end`.
pub(crate) fn vision_to(
    end: End,
    checkpoint: &Checkpoint,
    target: Target<'_>,
    tick: Tick<'_>,
) -> Result<TowerFile, CheckpointError> {
    let config = &checkpoint.config.vision;
    let pooled_width = config.pooled_width();
    let mut builder = Builder::new("image tower", checkpoint, target, tick).ending_in(end, pooled_width);
    let [height, width] = config.patching().image_size;
    let shape = vec![Dim::Named("batch".into()), Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)];
    let input = TensorSpec { name: "pixel_values".into(), dtype: Dtype::F32, shape };
    let pixels = builder.graph.input(&input);
    let pooled = match config {
        VisionConfig::Vit(config) => vit::pooled(&mut builder, &pixels, config, &["cls_token"])?,
        VisionConfig::Deit(config) => deit::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Beit(config) => beit::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Clip(config) => clip_vision::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Dinov2(config) => dinov2::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Siglip(config) => siglip_vision::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Swin(config) => swin::pooled(&mut builder, &pixels, config)?,
    };
    let x = builder.projection("visual_projection", &pooled, pooled_width)?;
    builder.finish(config.architecture(), vec![input], &x, IMAGE_OUTPUTS)
}

/// Builds the text tower. Calls `tick` once per tensor.
pub fn text(checkpoint: &Checkpoint, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    text_to(End::Projection, checkpoint, target, tick)
}

/// Builds the text tower up to `end`.
pub(crate) fn text_to(
    end: End,
    checkpoint: &Checkpoint,
    target: Target<'_>,
    tick: Tick<'_>,
) -> Result<TowerFile, CheckpointError> {
    let config = &checkpoint.config.text;
    let pooled_width = config.pooled_width();
    let mut builder = Builder::new("text tower", checkpoint, target, tick).ending_in(end, pooled_width);
    let shape = vec![Dim::Named("batch".into()), Dim::Named("sequence".into())];
    let spec = |name: &&str| TensorSpec { name: (*name).into(), dtype: Dtype::I64, shape: shape.clone() };
    let inputs: Vec<_> = checkpoint.text_inputs().iter().map(spec).collect();
    inputs.iter().for_each(|input| drop(builder.graph.input(input)));
    let pooled = match config {
        TextConfig::Bert(config) => bert::pooled(&mut builder, config)?,
        TextConfig::Roberta(config) => bert::pooled(&mut builder, &config.bert)?,
        TextConfig::Mpnet(config) => mpnet::pooled(&mut builder, config)?,
        TextConfig::Clip(config) => clip_text::pooled(&mut builder, config)?,
        TextConfig::Siglip(config) => {
            siglip_text::pooled(&mut builder, config, inputs.iter().any(|input| input.name == "attention_mask"))?
        }
    };
    let x = builder.projection("text_projection", &pooled, pooled_width)?;
    builder.finish(config.architecture(), inputs, &x, TEXT_OUTPUTS)
}
