//! The Spotter engine: pixels and strings in, scores and decisions out.
//!
//! The engine reads a [`bundle::Bundle`] (two ONNX towers, a tokenizer and a manifest), turns images into
//! image embeddings and prompts into text embeddings, and scores the one against the other as
//! `VisionTextDualEncoderModel` of transformers 4.56.2 does; [`decide`] turns the scores of a stream into states and events. It
//! knows nothing of cameras, networks, clocks, environment variables or command lines: images, prompts, times and the paths of files
//! come in as arguments.
//!
//! A tower has two outputs: the features, and the embedding, which is the normalised features. A bundle has no hidden
//! states and attention maps; get them from the checkpoint in Python.
#![warn(missing_docs)]

pub mod bundle;
pub mod console;
pub mod decide;
pub mod embedding;
pub mod files;
mod fused;
pub mod hash;
pub mod labels;
pub mod magic;
pub mod onnx;
pub mod picture;
pub mod preprocess;
pub mod printable;
pub mod score;
pub mod staging;
pub mod tokenize;
pub mod tower;
pub mod view;
pub mod vocabulary;
