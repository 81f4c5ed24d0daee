//! How long work reports that it is still going.

/// Called often during long work, so that the caller can show progress.
pub type Tick<'a> = &'a dyn Fn();
