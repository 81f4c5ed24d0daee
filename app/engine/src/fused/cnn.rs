//! Convolutional image towers: ResNet, MobileNet, EfficientNet and the like.
//!
//! A value is a map of pixels whose channels lie side by side. [`lower`] makes a list of steps of an ONNX graph and fuses
//! them, [`load`] packs the weights, [`chains`] divides the steps into chains, and [`run`] computes them.
//!
//! A chain is run strip by strip, a strip being a few rows of its last map: the maps within a chain, which are the
//! largest of the tower, are never in memory as a whole. Convolutions over all channels are products of matrices by the
//! panels of [`super::kernels`]; depthwise ones are floats, since they are a tenth of the arithmetic.

mod chains;
mod fuse;
mod load;
mod lower;
mod program;
mod run;

pub(crate) use load::load;
pub(crate) use lower::lower;
pub(crate) use program::Program;
pub(crate) use run::{Runner, memory, operations};
