//! Feed-forward blocks and activation functions.

use super::builder::Builder;
use crate::checkpoint::{Activation, CheckpointError, EncoderConfig};
use crate::onnx::{Attribute, Value};

impl Builder<'_> {
    /// The feed-forward block: up, activation, down. The tensor `layer_scale`, if any, multiplies each output channel.
    pub(super) fn feed_forward(
        &mut self,
        [up, down]: [&str; 2],
        x: &Value,
        encoder: &EncoderConfig,
        layer_scale: Option<&str>,
    ) -> Result<Value, CheckpointError> {
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        let x = self.linear(up, x, [hidden, inner], true)?;
        let x = self.activation(up, &x, encoder.activation);
        let x = if encoder.activation == Activation::Relu {
            // Of positive factors, it does not matter whether they come before or after.
            self.divided_by(up, &x);
            x
        } else {
            self.divided_rows(&format!("{up}.activated"), &x)
        };
        self.scaled_linear(down, &x, [inner, hidden], true, layer_scale)
    }

    /// An activation function, of operators that tract, ONNX Runtime and the engine's fused programs know.
    pub(super) fn activation(&mut self, name: &str, x: &Value, activation: Activation) -> Value {
        let result = format!("{name}.activated");
        match activation {
            Activation::Linear => x.clone(),
            Activation::Relu => self.graph.node("Relu", &result, &[x], &[]),
            Activation::Relu6 => {
                let [low, high] = [self.graph.scalar("zero", 0.0), self.graph.scalar("six", 6.0)];
                self.graph.node("Clip", &result, &[x, &low, &high], &[])
            }
            Activation::ReluSquared => {
                let y = self.graph.node("Relu", &format!("{name}.relu"), &[x], &[]);
                self.graph.node("Mul", &result, &[&y, &y], &[])
            }
            Activation::LeakyRelu => self.graph.node("LeakyRelu", &result, &[x], &[("alpha", Attribute::Float(0.01))]),
            Activation::Sigmoid => self.graph.node("Sigmoid", &result, &[x], &[]),
            Activation::Tanh => self.graph.node("Tanh", &result, &[x], &[]),
            Activation::QuickGelu => {
                let factor = self.graph.scalar("quick_gelu_factor", 1.702);
                let y = self.graph.node("Mul", &format!("{name}.gelu_scaled"), &[x, &factor], &[]);
                let y = self.graph.node("Sigmoid", &format!("{name}.gelu_sigmoid"), &[&y], &[]);
                self.graph.node("Mul", &result, &[x, &y], &[])
            }
            Activation::Silu => {
                let y = self.graph.node("Sigmoid", &format!("{name}.silu_sigmoid"), &[x], &[]);
                self.graph.node("Mul", &result, &[x, &y], &[])
            }
            Activation::Mish => {
                let y = self.graph.node("Softplus", &format!("{name}.mish_softplus"), &[x], &[]);
                let y = self.graph.node("Tanh", &format!("{name}.mish_tanh"), &[&y], &[]);
                self.graph.node("Mul", &result, &[x, &y], &[])
            }
            Activation::Laplace => self.laplace(name, &result, x),
            Activation::Gelu => self.gelu(name, &result, x),
            Activation::Gelu10 => {
                let y = self.gelu(name, &format!("{name}.gelu"), x);
                let [low, high] = [self.graph.scalar("minus_ten", -10.0), self.graph.scalar("ten", 10.0)];
                self.graph.node("Clip", &result, &[&y, &low, &high], &[])
            }
            Activation::GeluTanh => self.gelu_tanh(name, &result, x),
        }
    }

    /// Exact GELU, written as `x / sqrt 2, erf, + 1, * x, * 0.5`, which both tract and ONNX Runtime recognise.
    fn gelu(&mut self, name: &str, result: &str, x: &Value) -> Value {
        let graph = &mut self.graph;
        let (root, one) = (graph.scalar("sqrt_2", std::f32::consts::SQRT_2), graph.scalar("one", 1.0));
        let half = graph.scalar("half", 0.5);
        let y = graph.node("Div", &format!("{name}.gelu_scaled"), &[x, &root], &[]);
        let y = graph.node("Erf", &format!("{name}.gelu_erf"), &[&y], &[]);
        let y = graph.node("Add", &format!("{name}.gelu_sum"), &[&y, &one], &[]);
        let y = graph.node("Mul", &format!("{name}.gelu_product"), &[x, &y], &[]);
        graph.node("Mul", result, &[&y, &half], &[])
    }

    /// The approximation of GELU by a hyperbolic tangent.
    fn gelu_tanh(&mut self, name: &str, result: &str, x: &Value) -> Value {
        let graph = &mut self.graph;
        let (three, cubic) = (graph.scalar("three", 3.0), graph.scalar("gelu_cubic", 0.044_715));
        let factor = graph.scalar("sqrt_2_over_pi", (2.0 / std::f64::consts::PI).sqrt() as f32);
        let (one, half) = (graph.scalar("one", 1.0), graph.scalar("half", 0.5));
        let y = graph.node("Pow", &format!("{name}.gelu_cube"), &[x, &three], &[]);
        let y = graph.node("Mul", &format!("{name}.gelu_cubic_term"), &[&y, &cubic], &[]);
        let y = graph.node("Add", &format!("{name}.gelu_inner"), &[x, &y], &[]);
        let y = graph.node("Mul", &format!("{name}.gelu_scaled"), &[&y, &factor], &[]);
        let y = graph.node("Tanh", &format!("{name}.gelu_tanh"), &[&y], &[]);
        let y = graph.node("Add", &format!("{name}.gelu_sum"), &[&y, &one], &[]);
        let y = graph.node("Mul", &format!("{name}.gelu_product"), &[x, &y], &[]);
        graph.node("Mul", result, &[&y, &half], &[])
    }

    /// The share of a normal distribution below `x`, in the reference's order.
    fn laplace(&mut self, name: &str, result: &str, x: &Value) -> Value {
        let graph = &mut self.graph;
        #[allow(clippy::approx_constant, reason = "the reference rounds it to six digits")]
        let mean = graph.scalar("laplace_mean", 0.707_107);
        let deviation = graph.scalar("laplace_deviation", (0.282_095 * std::f64::consts::SQRT_2) as f32);
        let (one, half) = (graph.scalar("one", 1.0), graph.scalar("half", 0.5));
        let y = graph.node("Sub", &format!("{name}.laplace_centred"), &[x, &mean], &[]);
        let y = graph.node("Div", &format!("{name}.laplace_scaled"), &[&y, &deviation], &[]);
        let y = graph.node("Erf", &format!("{name}.laplace_erf"), &[&y], &[]);
        let y = graph.node("Add", &format!("{name}.laplace_sum"), &[&y, &one], &[]);
        graph.node("Mul", result, &[&y, &half], &[])
    }
}
