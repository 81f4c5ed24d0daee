//! Elementwise functions of one variable, represented by their values at sample points.
//!
//! Exporters write GELU in many ways. Instead of matching each pattern, a chain of elementwise nodes is evaluated at sample
//! points; a function that agrees with a known activation at all of them is that activation.

use tract_onnx::pb;

use super::attributes::{float, text};
use super::kernels::{Activation, LAPLACE};

/// Points at which the known activations differ by far more than rounding; the last two are beyond the bounds of ReLU6 and
/// of the clipped GELU.
const POINTS: [f64; 11] = [-4.0, -2.3, -1.1, -0.35, 0.0, 0.2, 0.9, 1.7, 3.1, 7.6, 12.5];

/// Relative for values above 1, else absolute. Constants in a graph are 32-bit floats.
const TOLERANCE: f64 = 1e-5;

/// A function as code.
type Formula = fn(f64) -> f64;

/// A function by its values at the sample points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Function([f64; POINTS.len()]);

impl Function {
    /// `x`.
    pub(super) fn identity() -> Self {
        Self(POINTS)
    }

    /// `f` of this.
    pub(super) fn then(self, f: impl Fn(f64) -> f64) -> Self {
        Self(self.0.map(f))
    }

    /// `f` of this and another.
    pub(super) fn with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    /// The unary ONNX operator `op` of this; `None` if it is not supported.
    fn unary(self, op: &str) -> Option<Self> {
        Some(match op {
            "Relu" => self.then(|x| x.max(0.0)),
            "Tanh" => self.then(f64::tanh),
            "Erf" => self.then(erf),
            "Sigmoid" => self.then(|x| 1.0 / (1.0 + (-x).exp())),
            "Sqrt" => self.then(f64::sqrt),
            "Exp" => self.then(f64::exp),
            "Neg" => self.then(|x| -x),
            "Softplus" => self.then(softplus),
            "Mish" => self.then(mish),
            "HardSwish" => self.then(|x| x * hard_sigmoid(x)),
            _ => return None,
        })
    }

    /// The unary operator of `node`, with its attributes, of this; `None` if it is not supported.
    pub(super) fn of_node(self, node: &pb::NodeProto) -> Option<Self> {
        let attribute = |name: &str, absent: f32| f64::from(float(node, name, absent));
        Some(match node.op_type.as_str() {
            "Gelu" if text(node, "approximate") == Some("tanh") => self.then(gelu_tanh),
            "Gelu" => self.then(gelu),
            "LeakyRelu" => {
                let slope = attribute("alpha", 0.01);
                self.then(|x| if x < 0.0 { slope * x } else { x })
            }
            "HardSigmoid" => {
                let (slope, middle) = (attribute("alpha", 0.2), attribute("beta", 0.5));
                self.then(|x| (slope * x + middle).clamp(0.0, 1.0))
            }
            op => return self.unary(op),
        })
    }

    /// The binary ONNX operator `op`; `None` if it is not supported.
    pub(super) fn binary(op: &str) -> Option<fn(f64, f64) -> f64> {
        Some(match op {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            "Div" => |a, b| a / b,
            "Pow" => f64::powf,
            _ => return None,
        })
    }

    /// The activation that agrees with this function, if any.
    pub(super) fn activation(self) -> Option<Activation> {
        use Activation::{
            Gelu, Gelu10, GeluTanh, HardSigmoid, HardSwish, Laplace, LeakyRelu, Mish, QuickGelu, Relu, Relu6,
            ReluSquared, Sigmoid, Silu, Tanh,
        };
        let known: [(Activation, Formula); 15] = [
            (Relu, |x| x.max(0.0)),
            (Relu6, |x| x.clamp(0.0, 6.0)),
            (ReluSquared, |x| x.max(0.0).powi(2)),
            (LeakyRelu, |x| if x < 0.0 { 0.01 * x } else { x }),
            (Tanh, f64::tanh),
            (Gelu, gelu),
            (Gelu10, |x| gelu(x).min(10.0)),
            (GeluTanh, gelu_tanh),
            (QuickGelu, |x| x / (1.0 + (-1.702 * x).exp())),
            (Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Silu, |x| x / (1.0 + (-x).exp())),
            (HardSigmoid, hard_sigmoid),
            (HardSwish, |x| x * hard_sigmoid(x)),
            (Mish, mish),
            (Laplace, laplace),
        ];
        let agrees =
            |f: Formula| POINTS.iter().zip(self.0).all(|(x, y)| (f(*x) - y).abs() <= TOLERANCE * f(*x).abs().max(1.0));
        known.into_iter().find(|(_, f)| agrees(*f)).map(|(activation, _)| activation)
    }
}

/// The exact GELU.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The tanh approximation of GELU.
fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn hard_sigmoid(x: f64) -> f64 {
    (x / 6.0 + 0.5).clamp(0.0, 1.0)
}

fn softplus(x: f64) -> f64 {
    x.exp().ln_1p()
}

fn mish(x: f64) -> f64 {
    x * softplus(x).tanh()
}

fn laplace(x: f64) -> f64 {
    let [mean, deviation] = LAPLACE.map(f64::from);
    0.5 * (1.0 + erf((x - mean) / (deviation * std::f64::consts::SQRT_2)))
}

/// The error function by its Taylor series, which is accurate enough for the arguments below 5 that occur.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[cfg(test)]
mod tests {
    use super::{Activation, Function, LAPLACE};

    #[test]
    fn gelu_is_recognised_in_every_form() {
        let x = Function::identity();
        let root = f64::from(std::f32::consts::SQRT_2);
        let erf = x.then(|x| x / root).unary("Erf").unwrap();
        let sum = erf.then(|x| x + 1.0);
        let multiply = Function::binary("Mul").unwrap();
        for gelu in [x.with(sum, multiply).then(|x| x * 0.5), x.then(|x| x * 0.5).with(sum, multiply)] {
            assert_eq!(gelu.activation(), Some(Activation::Gelu));
        }
        assert_eq!(x.with(sum, multiply).activation(), None, "twice GELU");
        let quick = x.with(x.then(|x| 1.702 * x).unary("Sigmoid").unwrap(), multiply);
        assert_eq!(quick.activation(), Some(Activation::QuickGelu));
        let silu = x.with(x.unary("Sigmoid").unwrap(), multiply);
        assert_eq!(silu.activation(), Some(Activation::Silu));
        assert_eq!(x.activation(), None);
    }

    #[test]
    fn clipped_and_composed_activations_are_recognised() {
        let x = Function::identity();
        let relu = x.unary("Relu").unwrap();
        let multiply = Function::binary("Mul").unwrap();
        let mish = x.with(x.unary("Softplus").unwrap().unary("Tanh").unwrap(), multiply);
        let laplace = x.then(|x| (x - f64::from(LAPLACE[0])) / f64::from(0.398_942_57_f32)).unary("Erf").unwrap();
        for (function, expected) in [
            (relu.then(|x| x.min(6.0)), Some(Activation::Relu6)),
            (relu.then(|x| x.min(8.0)), None),
            (relu.with(relu, multiply), Some(Activation::ReluSquared)),
            (x.then(|x| x.max(0.01 * x)), Some(Activation::LeakyRelu)),
            (x.then(|x| x.max(0.02 * x)), None),
            (x.then(super::gelu).then(|x| x.clamp(-10.0, 10.0)), Some(Activation::Gelu10)),
            (mish, Some(Activation::Mish)),
            (x.unary("Mish").unwrap(), Some(Activation::Mish)),
            (x.then(|x| (x + 3.0).clamp(0.0, 6.0) / 6.0), Some(Activation::HardSigmoid)),
            (x.unary("HardSwish").unwrap(), Some(Activation::HardSwish)),
            (laplace.then(|x| 0.5 * (1.0 + x)), Some(Activation::Laplace)),
        ] {
            assert_eq!(function.activation(), expected);
        }
    }
}
