//! Convolutional image towers: ResNet, MobileNet, EfficientNet and the like.
//!
//! A value is a feature map in NHWC order. [`lower`] makes a list of steps of an ONNX graph and fuses
//! them, [`load`] packs the weights, [`chains`] divides the steps into chains, and [`run`] computes them.
//!
//! A chain is run strip by strip, a strip being a few rows of its last map: the maps within a chain, which are the
//! largest of the tower, are never in memory as a whole. Pointwise and dense convolutions are matrix products by the panels
//! of [`super::kernels`]; depthwise ones, a tenth of the arithmetic, are computed in floats.

mod chains;
mod fuse;
mod load;
mod lower;
mod program;
mod run;

pub(crate) use chains::Plan;
pub(crate) use load::load;
pub(crate) use lower::lower;
pub(crate) use program::Program;
pub(crate) use run::Runner;
