//! The live loop around the engine: sources, outputs, configuration.
#![warn(missing_docs)]

pub mod decode;
pub mod source;
