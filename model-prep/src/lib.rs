//! Turns a Hugging Face `VisionTextDualEncoder` checkpoint into the bundle that Spotter runs.

pub mod checkpoint;
pub mod onnx;
pub mod quantize;
pub mod towers;
