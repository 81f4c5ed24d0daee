//! Turns a Hugging Face `VisionTextDualEncoder` checkpoint into the bundle that Spotter runs.

pub mod adapt;
mod assemble;
pub mod calibrate;
pub mod checkpoint;
pub mod commands;
pub mod compare;
pub mod compose;
pub mod console;
mod error;
pub mod evaluate;
pub mod export;
mod half;
mod hub;
pub mod import;
mod migrate;
pub mod model;
mod moments;
mod observe;
pub mod onnx;
pub mod overrides;
pub mod plan;
pub mod probes;
mod progress;
mod quantize;
mod tensor_file;
pub mod towers;
pub mod tune;
pub mod verify;

pub use error::Error;
pub use progress::Tick;
