//! What the programs promise, tested from outside and against the Python reference.

mod pictures;
mod towers;
