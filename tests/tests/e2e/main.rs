//! What the programs promise, tested from outside and against the Python reference.
