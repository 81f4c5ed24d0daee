//! Trains dual encoders: contrastive training of both towers, or of one while the other is locked (LiT).
//!
//! Tensors, automatic differentiation and matrix products are candle's; every step between the products has a backward
//! pass of its own (`ops`). burn 0.21 was weighed against it: it locks about 320 packages that this workspace did not have,
//! where candle locks 36, and what it has beyond candle (optimizers, schedules, clipping) is a page of code here, which must
//! give PyTorch's numbers in any case.
//!
//! Both towers embed the whole batch first, then the loss gives the gradient of every embedding, then each part of the
//! batch is embedded again with its intermediate values and takes its gradient back to the weights (gradient caching, Gao
//! et al. 2021): memory depends on the part, not on the batch. A batch of one part is embedded once.

mod augment;
mod error;
mod evaluation;
mod features;
mod frozen;
mod inputs;
mod lock;
mod loss;
mod model;
mod ops;
mod optimizer;
mod output;
mod pairs;
mod parameters;
mod pass;
mod plot;
mod random;
mod replace;
mod run;
mod state;
mod towers;

pub use self::error::TuneError;
pub use self::lock::{Lock, Locking};
pub use self::run::{Event, Listener, Options, Report, tune};
pub use self::state::Epoch;

#[cfg(test)]
mod tests;
