//! What the programs promise, tested from outside and against the Python reference.

mod accuracy;
mod bad_inputs;
mod cache;
mod classify;
mod pictures;
mod reload;
mod shapes;
mod towers;
