//! Activation functions.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{erf, exp, sigmoid, tanh};
use super::slices::{floats, slice, tensor};
use crate::checkpoint::Activation;

/// Values that one thread computes at a time.
const CHUNK: usize = 16 << 10;

/// Square root of 2 / pi, of the approximation of GELU by a hyperbolic tangent.
const GELU_TANH: f32 = 0.797_884_6;

/// The factor of the cubic term in it.
const GELU_CUBIC: f32 = 0.044_715;

/// The slope of a leaky ReLU below 0.
const LEAK: f32 = 0.01;

/// Mean, and standard deviation times the square root of 2, of the normal distribution of `laplace`.
#[allow(clippy::approx_constant, reason = "the reference rounds both to six digits")]
const LAPLACE: [f32; 2] = [0.707_107, 0.398_942_57];

/// 1 / sqrt(2 pi), of the normal density.
const DENSITY: f32 = 0.398_942_3;

/// Applies an activation function to every value.
pub(in crate::tune) fn activation(x: &Tensor, function: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Activate(function))
}

/// The values of the function.
pub(super) fn activated(x: &[f32], function: Activation) -> Vec<f32> {
    match function {
        Activation::Gelu => mapped(x, gelu),
        Activation::GeluTanh => mapped(x, |x| 0.5 * x * (1.0 + tanh(GELU_TANH * (x + GELU_CUBIC * x * x * x)))),
        Activation::QuickGelu => mapped(x, |x| x * sigmoid(1.702 * x)),
        Activation::Silu => mapped(x, |x| x * sigmoid(x)),
        Activation::Gelu10 => mapped(x, |x| gelu(x).min(10.0)),
        Activation::Mish => mapped(x, |x| x * tanh_of_softplus(x)),
        Activation::Relu => mapped(x, |x| x.max(0.0)),
        Activation::Relu6 => mapped(x, |x| x.clamp(0.0, 6.0)),
        Activation::ReluSquared => mapped(x, |x| x.max(0.0) * x.max(0.0)),
        Activation::LeakyRelu => mapped(x, |x| if x > 0.0 { x } else { LEAK * x }),
        Activation::Laplace => mapped(x, |x| 0.5 * (1.0 + erf(laplace_argument(x)))),
        Activation::Linear => x.to_vec(),
        Activation::Sigmoid => mapped(x, sigmoid),
        Activation::Tanh => mapped(x, tanh),
    }
}

/// The gradient of the argument `x` for that of the values.
pub(super) fn gradient(x: &[f32], grad: &[f32], function: Activation) -> Vec<f32> {
    match function {
        Activation::Gelu => product(x, grad, gelu_slope),
        Activation::GeluTanh => product(x, grad, gelu_tanh_slope),
        Activation::QuickGelu => product(x, grad, |x| silu_slope(1.702 * x)),
        Activation::Silu => product(x, grad, silu_slope),
        Activation::Gelu10 => product(x, grad, |x| if gelu(x) <= 10.0 { gelu_slope(x) } else { 0.0 }),
        Activation::Mish => product(x, grad, mish_slope),
        Activation::Relu => product(x, grad, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Relu6 => product(x, grad, |x| if x > 0.0 && x < 6.0 { 1.0 } else { 0.0 }),
        Activation::ReluSquared => product(x, grad, |x| 2.0 * x.max(0.0)),
        Activation::LeakyRelu => product(x, grad, |x| if x > 0.0 { 1.0 } else { LEAK }),
        Activation::Laplace => product(x, grad, laplace_slope),
        Activation::Linear => grad.to_vec(),
        Activation::Sigmoid => product(x, grad, |x| {
            let y = sigmoid(x);
            y * (1.0 - y)
        }),
        Activation::Tanh => product(x, grad, |x| {
            let y = tanh(x);
            1.0 - y * y
        }),
    }
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = activated(slice(storage, layout)?, self.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let out = floats(x, |x| floats(grad, |grad| Ok(gradient(x, grad, self.0))))?;
        Ok(Some(tensor(out, x.dims())?))
    }
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `tanh(ln(1 + exp x))`, in a form in which nothing cancels.
#[inline(always)]
fn tanh_of_softplus(x: f32) -> f32 {
    // Beyond 20 it is 1.
    let n = exp(x.min(20.0));
    let y = n * (n + 2.0);
    y / (y + 2.0)
}

#[inline(always)]
fn mish_slope(x: f32) -> f32 {
    let y = tanh_of_softplus(x);
    y + x * sigmoid(x) * (1.0 - y * y)
}

#[inline(always)]
fn laplace_argument(x: f32) -> f32 {
    (x - LAPLACE[0]) / LAPLACE[1]
}

#[inline(always)]
fn laplace_slope(x: f32) -> f32 {
    let y = laplace_argument(x);
    DENSITY * std::f32::consts::SQRT_2 / LAPLACE[1] * exp(-y * y)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x)
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let y = tanh(GELU_TANH * (x + GELU_CUBIC * x * x * x));
    0.5 * (1.0 + y) + 0.5 * x * (1.0 - y * y) * GELU_TANH * (1.0 + 3.0 * GELU_CUBIC * x * x)
}

/// The derivative of `x sigmoid(x)`, and at `a x` that of `x sigmoid(a x)`.
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let y = sigmoid(x);
    y + x * y * (1.0 - y)
}

fn mapped(x: &[f32], function: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = function(*x));
    });
    out
}

/// Gradients of the argument: `grad` times the slope at `x`.
fn product(x: &[f32], grad: &[f32], slope: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK)).for_each(|((out, x), grad)| {
        out.iter_mut().zip(x).zip(grad).for_each(|((out, x), grad)| *out = grad * slope(*x));
    });
    out
}
