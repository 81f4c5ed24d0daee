//! The steps of a tower, each with a backward pass written by hand.
//!
//! candle's own fused layer norm and softmax have no backward pass and drop gradients silently; these have one, and need
//! less memory than chains of basic operations: what is cheap to compute again is not kept.

mod activation;
mod attention;
mod dropout;
mod layer_norm;
mod linear;
mod math;
mod scale;
mod slices;
mod tokens;

pub(super) use self::activation::activation;
pub(super) use self::attention::{Attention, attention};
pub(super) use self::dropout::{Dropout, dropout};
pub(super) use self::layer_norm::{layer_norm, sum_norm};
pub(super) use self::linear::{activated_linear, linear};
pub(super) use self::math::exp;
pub(super) use self::scale::scale;
pub(super) use self::slices::{floats, tensor, to_vec};
pub(super) use self::tokens::with_tokens;

#[cfg(test)]
mod tests;
