//! The program's side of the board and its system: heat and CPU quotas, the service manager, signals.

pub(crate) mod governor;
pub(crate) mod service;
pub(crate) mod signals;
