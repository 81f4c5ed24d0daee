//! The live loop around the engine: sources, outputs, configuration, commands.
#![warn(missing_docs)]

pub mod bench;
pub mod bundles;
pub mod check;
pub mod classify;
pub mod cli;
pub mod compute;
pub mod config;
pub mod console;
pub mod decode;
pub mod demo;
pub mod doctor;
pub mod embedder;
pub mod governor;
pub mod label_file;
pub mod labels;
mod lint;
pub mod live;
mod metrics;
pub mod output;
pub mod pipeline;
pub mod recognizer;
pub mod service;
mod signals;
pub mod slot;
pub mod snapshot;
pub mod source;
pub mod store;
mod supervise;
pub mod unchanged;
pub mod watch;
