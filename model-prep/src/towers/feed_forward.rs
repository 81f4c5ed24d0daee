//! Feed-forward blocks and activation functions.

use super::builder::Builder;
use crate::checkpoint::{Activation, CheckpointError, EncoderConfig};
use crate::onnx::Value;

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

    /// An activation function. Exact GELU is written as `x / sqrt 2, erf, + 1, * x, * 0.5`, which both tract and ONNX
    /// Runtime recognise.
    pub(super) fn activation(&mut self, name: &str, x: &Value, activation: Activation) -> Value {
        let graph = &mut self.graph;
        let result = format!("{name}.activated");
        match activation {
            Activation::Relu => graph.node("Relu", &result, &[x], &[]),
            Activation::QuickGelu => {
                let factor = graph.scalar("quick_gelu_factor", 1.702);
                let y = graph.node("Mul", &format!("{name}.gelu_scaled"), &[x, &factor], &[]);
                let y = graph.node("Sigmoid", &format!("{name}.gelu_sigmoid"), &[&y], &[]);
                graph.node("Mul", &result, &[x, &y], &[])
            }
            Activation::Silu => {
                let y = graph.node("Sigmoid", &format!("{name}.silu_sigmoid"), &[x], &[]);
                graph.node("Mul", &result, &[x, &y], &[])
            }
            Activation::Tanh => graph.node("Tanh", &result, &[x], &[]),
            Activation::Gelu => {
                let (root, one) = (graph.scalar("sqrt_2", std::f32::consts::SQRT_2), graph.scalar("one", 1.0));
                let half = graph.scalar("half", 0.5);
                let y = graph.node("Div", &format!("{name}.gelu_scaled"), &[x, &root], &[]);
                let y = graph.node("Erf", &format!("{name}.gelu_erf"), &[&y], &[]);
                let y = graph.node("Add", &format!("{name}.gelu_sum"), &[&y, &one], &[]);
                let y = graph.node("Mul", &format!("{name}.gelu_product"), &[x, &y], &[]);
                graph.node("Mul", &result, &[&y, &half], &[])
            }
            Activation::GeluTanh => {
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
                graph.node("Mul", &result, &[&y, &half], &[])
            }
        }
    }
}
