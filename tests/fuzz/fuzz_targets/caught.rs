//! For targets whose libraries panic and whose callers catch that: libFuzzer's own hook ends the program at any panic.

use std::panic::{UnwindSafe, catch_unwind, resume_unwind, set_hook};
use std::sync::Mutex;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps the message of the last panic, and continues.
pub fn let_panics_be_caught() {
    set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST.lock() {
            *last = panic.to_string();
        }
    }));
}

/// Runs a target. A panic that nobody caught is printed, and ends the program.
pub fn shown(target: impl FnOnce() + UnwindSafe) {
    if let Err(panic) = catch_unwind(target) {
        if let Ok(last) = LAST.lock() {
            eprintln!("{last}");
        }
        resume_unwind(panic);
    }
}
