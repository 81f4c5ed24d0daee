//! How the loop is controlled from outside.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Stop;

/// Controls a running loop from another thread; clones share the flags.
#[derive(Debug, Clone)]
pub struct LoopControl {
    /// Ends the loop.
    pub stop: Stop,
    /// Set once a signal asked for the end.
    pub signalled: Arc<AtomicBool>,
    /// Set by the loop once everything is loaded: from then on it notices `stop` at once.
    pub running: Arc<AtomicBool>,
    /// Set to have the label file read again.
    pub reload: Arc<AtomicBool>,
    /// Labelled frames after which the loop ends; `None` for no limit.
    pub frames: Option<u64>,
    /// The root of the file system that temperatures and CPU quotas are read from: `/` outside of tests.
    pub root: PathBuf,
}

impl Default for LoopControl {
    fn default() -> Self {
        Self {
            stop: Stop::new(),
            signalled: Arc::default(),
            running: Arc::default(),
            reload: Arc::default(),
            frames: None,
            root: PathBuf::from("/"),
        }
    }
}
