//! What the board and its system do to the program: heat and CPU quotas, the service manager, signals.

pub(crate) mod governor;
pub(crate) mod service;
pub(crate) mod signals;
