//! Progress of an evaluation.

/// A step of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This many sentences will be embedded next.
    Sentences(usize),
    /// This many images will be embedded next.
    Images(usize),
    /// One sentence or image is done.
    One,
}

/// Called with each step of an evaluation, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);
