//! The live loop around the engine: sources, outputs, configuration, commands.
//!
//! Each module uses only those before it in this list:
//! - [`process`] (threads, the stop signal), [`store`] (files that are replaced whole), `secret`, `http` (the client);
//! - [`source`] (frames), [`config`], [`console`] (standard output and error);
//! - [`recognizer`] (a frame to scores), [`labels`], [`bundles`], `board` (governor, service manager);
//! - [`output`], `live` (what is loaded and watched), [`pipeline`] (the loop);
//! - [`commands`].
#![warn(missing_docs)]

mod board;
pub mod bundles;
mod calibration;
pub mod commands;
pub mod config;
pub mod console;
#[cfg(feature = "http")]
mod http;
pub mod labels;
mod live;
pub mod output;
pub mod pipeline;
pub mod process;
pub mod recognizer;
pub(crate) mod secret;
pub mod source;
pub mod store;
