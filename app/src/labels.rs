//! Labels: the file that names them, what is doubtful about it, and their embeddings.

pub mod demo;
pub mod embedder;
pub(crate) mod examples;
pub mod label_file;
pub(crate) mod lint;
pub(crate) mod typed;
