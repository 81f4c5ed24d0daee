//! Towers as fused int8 or float programs, and the kernels that run them.
//!
//! [`file`] reads the ONNX file without its weights, [`lower`] lowers the graph to a [`program`] of a few large steps,
//! [`load`] packs the weights for the [`kernels`] of this CPU, [`run`] computes embeddings on one or more threads without
//! allocating. A graph that `lower` does not support runs in tract.

mod attention;
mod attributes;
pub(crate) mod cnn;
mod file;
mod function;
mod int4;
mod kernels;
mod load;
mod lower;
mod phases;
mod program;
mod quantized;
mod run;
mod unsupported;

pub(crate) use file::{OnnxFile, OnnxSource};
pub(crate) use int4::at as int4_at;
pub(crate) use kernels::{Kernels, Pool, lock};
pub(crate) use load::load;
pub(crate) use lower::{Inputs, Outcome, lower};
pub(crate) use phases::Watch;
pub(crate) use program::{Op, Program, Rows, Weights};
pub(crate) use run::{Input, Runner};
pub(crate) use unsupported::UnsupportedGraph;
