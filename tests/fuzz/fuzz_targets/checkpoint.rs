//! A checkpoint whose `config.json` and `model.safetensors` are anything: it is refused or read, within bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model_prep::checkpoint::{DualEncoderConfig, Tensors};

fuzz_target!(|bytes: &[u8]| {
    // Two bytes say where one file ends and the other begins.
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let at = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, weights) = rest.split_at(at);
    fuzz::with_files([("config.json", config), ("model.safetensors", weights)], |folder| {
        let config = DualEncoderConfig::read(&folder.join("config.json"));
        drop(format!("{config:?}"));
        fuzz::read_all(Tensors::open(folder));
    });
});
