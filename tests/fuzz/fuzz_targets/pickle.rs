//! A `pytorch_model.bin` that is anything: it is refused or read, within bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model_prep::checkpoint::Tensors;

fuzz_target!(|bytes: &[u8]| {
    // Most bytes are no zip archive, so that a pickle alone is put into one.
    let archive;
    let file = match bytes.split_first() {
        Some((b'P', pickle)) if !bytes.starts_with(b"PK") => {
            archive = fuzz::torch_archive(pickle);
            &archive[..]
        }
        _ => bytes,
    };
    fuzz::with_files([("pytorch_model.bin", file)], |folder| fuzz::read_all(Tensors::open(folder)));
});
