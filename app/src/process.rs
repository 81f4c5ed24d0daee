//! This process: its threads, the programs it has started, the signals that control it, its memory.

pub(crate) mod children;
mod control;
pub(crate) mod group;
pub(crate) mod last_words;
pub(crate) mod memory;
mod stop;
pub(crate) mod supervise;
pub(crate) mod wake;

pub use control::LoopControl;
pub use stop::Stop;
pub(crate) use stop::{OnSet, STOP_CHECK};
