//! What the programs promise, tested from outside and against the Python reference.

mod accuracy;
mod allocations;
mod bad_inputs;
mod bench;
mod cache;
mod classify;
mod compose;
mod evaluate;
mod fused;
mod imported;
mod malicious;
mod minilm;
mod overrides;
mod pairs;
mod pictures;
mod processors;
mod quantization;
mod reload;
mod scores;
mod service;
mod shapes;
mod snapshot;
mod text_towers;
mod towers;
mod vision_towers;
mod weights;
