//! A bundle that is anything, as a directory and as a `.tar`: it is refused or read, within bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_engine::bundle::Bundle;

fuzz_target!(|bytes: &[u8]| {
    let (name, folder) = match bytes.split_first() {
        // The manifest alone; its files are empty.
        Some((b'{', _)) => ("bundle.json", true),
        _ => ("bundle.tar", false),
    };
    fuzz::with_files([(name, bytes), ("file", &[])], |path| {
        let path = if folder { path.to_owned() } else { path.join(name) };
        match Bundle::open(&path) {
            Ok(bundle) => drop(bundle.verify()),
            Err(error) => drop(error.to_string()),
        }
    });
});
