//! The live loop around the engine: sources, outputs, configuration.
#![warn(missing_docs)]

pub mod config;
pub mod decode;
pub mod label_file;
pub mod slot;
pub mod source;
pub mod store;
pub mod watch;
