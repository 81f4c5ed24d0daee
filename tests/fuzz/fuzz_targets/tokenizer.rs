#![no_main]

mod caught;

libfuzzer_sys::fuzz_target!(init: caught::let_panics_be_caught(), |bytes: &[u8]| caught::shown(|| fuzz::tokenizer(bytes)));
