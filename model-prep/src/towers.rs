//! From a checkpoint's tensors to ONNX graphs: the blocks that towers share, and one file per architecture.
//!
//! Graphs end in the bias-free projection and the division by the L2 norm. Only token 0 reaches the pooler, so the
//! last layer computes its queries and everything behind them for that token alone, which changes no value.

mod bert;
mod vit;

use spotter_engine::bundle::{Architecture, Dim, Dtype, TensorSpec, Weights};

use crate::Tick;
use crate::checkpoint::{Activation, Checkpoint, CheckpointError, EncoderConfig, Tensors, TextConfig, VisionConfig};
use crate::onnx::{Attribute, Graph, Value};
use crate::quantize::{quantize, transpose};

/// A tower, ready to be written.
#[derive(Debug)]
pub struct TowerFile {
    /// Its architecture.
    pub architecture: Architecture,
    /// Inputs in the order of the graph.
    pub inputs: Vec<TensorSpec>,
    /// The normalised embedding.
    pub output: TensorSpec,
    /// The ONNX file.
    pub onnx: Vec<u8>,
}

/// Builds the image tower; `tick` is called once for each tensor read.
pub fn vision(checkpoint: &Checkpoint, weights: Weights, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    let builder = Builder::new("image tower", checkpoint, weights, tick);
    match &checkpoint.config.vision {
        VisionConfig::Vit(config) => vit::build(builder, config),
    }
}

/// Builds the text tower; `tick` is called once for each tensor read.
pub fn text(checkpoint: &Checkpoint, weights: Weights, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    let builder = Builder::new("text tower", checkpoint, weights, tick);
    match &checkpoint.config.text {
        TextConfig::Bert(config) => bert::build(builder, config),
    }
}

/// A graph together with the tensors it is made of.
struct Builder<'a> {
    graph: Graph,
    tensors: &'a Tensors,
    weights: Weights,
    projection_dim: usize,
    tick: Tick<'a>,
}

/// Names of the four linear layers of an attention block.
struct AttentionNames {
    query: String,
    key: String,
    value: String,
    output: String,
}

impl<'a> Builder<'a> {
    fn new(name: &str, checkpoint: &'a Checkpoint, weights: Weights, tick: Tick<'a>) -> Self {
        let (tensors, projection_dim) = (&checkpoint.tensors, checkpoint.config.projection_dim);
        Self { graph: Graph::new(name), tensors, weights, projection_dim, tick }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors.read(name, shape)?;
        (self.tick)();
        Ok(values)
    }

    /// A tensor of the checkpoint as it is.
    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Value, CheckpointError> {
        let values = self.tensor(name, shape)?;
        Ok(self.graph.floats(name, shape, &values))
    }

    /// `x W^T + b`; the weight [to, from] is stored as [from, to], which is how a matrix product takes it.
    fn linear(&mut self, name: &str, x: &Value, [from, to]: [usize; 2], bias: bool) -> Result<Value, CheckpointError> {
        let weight_name = format!("{name}.weight");
        let weight = self.tensor(&weight_name, &[to, from])?;
        let weight = match self.weights {
            Weights::F32 => self.graph.floats(&weight_name, &[from, to], &transpose(&weight, from)),
            Weights::Int8 => {
                let int8 = quantize(&weight, from);
                self.dequantized(&weight_name, &[from, to], &transpose(&int8.values, from), &int8.scales, 1)
            }
        };
        if !bias {
            return Ok(self.graph.node("MatMul", name, &[x, &weight], &[]));
        }
        let product = self.graph.node("MatMul", &format!("{name}.product"), &[x, &weight], &[]);
        let bias = self.floats(&format!("{name}.bias"), &[to])?;
        Ok(self.graph.node("Add", name, &[&product, &bias], &[]))
    }

    /// Integers that are turned into floats by a scale for each index of `axis`.
    fn dequantized(&mut self, name: &str, shape: &[usize], values: &[i8], scales: &[f32], axis: i64) -> Value {
        let values = self.graph.int8s(&format!("{name}.int8"), shape, values);
        let scales = self.graph.floats(&format!("{name}.scale"), &[scales.len()], scales);
        self.graph.node("DequantizeLinear", name, &[&values, &scales], &[("axis", Attribute::Int(axis))])
    }

    /// Rows of the table `{name}.weight` that `ids` choose. Integers are looked up first and turned into floats after,
    /// so that nobody has to expand the table.
    fn embedding(&mut self, name: &str, ids: &Value, [rows, width]: [usize; 2]) -> Result<Value, CheckpointError> {
        if self.weights == Weights::F32 {
            return self.float_embedding(name, ids, [rows, width]);
        }
        let table_name = format!("{name}.weight");
        let table = self.tensor(&table_name, &[rows, width])?;
        let int8 = quantize(&table, width);
        let table = self.graph.int8s(&format!("{table_name}.int8"), &[rows, width], &int8.values);
        let scales = self.graph.floats(&format!("{table_name}.scale"), &[rows, 1], &int8.scales);
        let found = self.graph.node("Gather", &format!("{name}.int8"), &[&table, ids], &[]);
        // 1 is FLOAT in ONNX.
        let found = self.graph.node("Cast", &format!("{name}.float"), &[&found], &[("to", Attribute::Int(1))]);
        let scales = self.graph.node("Gather", &format!("{name}.scale"), &[&scales, ids], &[]);
        Ok(self.graph.node("Mul", name, &[&found, &scales], &[]))
    }

    /// Rows of a table that stays float.
    fn float_embedding(&mut self, name: &str, ids: &Value, shape: [usize; 2]) -> Result<Value, CheckpointError> {
        let table = self.floats(&format!("{name}.weight"), &shape)?;
        Ok(self.graph.node("Gather", name, &[&table, ids], &[]))
    }

    fn layer_norm(&mut self, name: &str, x: &Value, encoder: &EncoderConfig) -> Result<Value, CheckpointError> {
        let scale = self.floats(&format!("{name}.weight"), &[encoder.hidden_size])?;
        let bias = self.floats(&format!("{name}.bias"), &[encoder.hidden_size])?;
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(encoder.layer_norm_eps))];
        Ok(self.graph.node("LayerNormalization", name, &[x, &scale, &bias], &attributes))
    }

    /// Multi-head attention of `queries` [batch, n, hidden] over `states` [batch, m, hidden], with its output layer.
    /// `mask` [batch, 1, 1, m] is added to the scores. `bias` is that of query, key and value.
    fn attention(
        &mut self,
        names: &AttentionNames,
        [queries, states]: [&Value; 2],
        mask: Option<&Value>,
        encoder: &EncoderConfig,
        bias: bool,
    ) -> Result<Value, CheckpointError> {
        let hidden = encoder.hidden_size;
        let head_dim = hidden / encoder.heads;
        let square = [hidden, hidden];
        // 0 keeps an axis as it is.
        let split = self.graph.list("shape.split_heads", &[0, 0, encoder.heads as i64, head_dim as i64]);
        let merged = self.graph.list("shape.merged_heads", &[0, 0, hidden as i64]);
        let mut heads = |name: &str, x: &Value, perm: &[i64; 4]| {
            let x = self.linear(name, x, square, bias)?;
            let x = self.graph.node("Reshape", &format!("{name}.split"), &[&x, &split], &[]);
            let perm = [("perm", Attribute::Ints(perm))];
            Ok::<_, CheckpointError>(self.graph.node("Transpose", &format!("{name}.heads"), &[&x], &perm))
        };
        let query = heads(&names.query, queries, &[0, 2, 1, 3])?;
        let key = heads(&names.key, states, &[0, 2, 3, 1])?;
        let value = heads(&names.value, states, &[0, 2, 1, 3])?;
        let graph = &mut self.graph;
        let named = |what: &str| format!("{}.{what}", names.output);
        let scale = graph.scalar("attention_scale", (head_dim as f32).sqrt().recip());
        let query = graph.node("Mul", &format!("{}.scaled", names.query), &[&query, &scale], &[]);
        let mut scores = graph.node("MatMul", &named("scores"), &[&query, &key], &[]);
        if let Some(mask) = mask {
            scores = graph.node("Add", &named("masked_scores"), &[&scores, mask], &[]);
        }
        let shares = graph.node("Softmax", &named("probabilities"), &[&scores], &[("axis", Attribute::Int(-1))]);
        let context = graph.node("MatMul", &named("context"), &[&shares, &value], &[]);
        let perm = [("perm", Attribute::Ints(&[0, 2, 1, 3]))];
        let context = graph.node("Transpose", &named("context_rows"), &[&context], &perm);
        let context = graph.node("Reshape", &named("context_merged"), &[&context, &merged], &[]);
        self.linear(&names.output, &context, square, true)
    }

    /// The feed-forward block: up, activation, down.
    fn feed_forward(
        &mut self,
        [up, down]: [&str; 2],
        x: &Value,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        let x = self.linear(up, x, [hidden, inner], true)?;
        let x = self.activation(up, &x, encoder.activation);
        self.linear(down, &x, [inner, hidden], true)
    }

    /// Exact GELU is written as `x / sqrt 2, erf, + 1, * x, * 0.5`, which both tract and ONNX Runtime recognise.
    fn activation(&mut self, name: &str, x: &Value, activation: Activation) -> Value {
        let graph = &mut self.graph;
        let result = format!("{name}.activated");
        match activation {
            Activation::Relu => graph.node("Relu", &result, &[x], &[]),
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

    /// Token 0 of `x` [batch, n, hidden], as [batch, 1, hidden].
    fn first_token(&mut self, name: &str, x: &Value) -> Value {
        let (zero, one) = (self.graph.list("index_0", &[0]), self.graph.list("index_1", &[1]));
        self.graph.node("Slice", name, &[x, &zero, &one, &one], &[])
    }

    /// Pooler on token 0, projection and division by the L2 norm; `x` is [batch, 1, hidden].
    fn embedding_head(
        mut self,
        [pooler, projection]: [&str; 2],
        x: &Value,
        hidden: usize,
        activation: Activation,
        output: &str,
    ) -> Result<(Graph, TensorSpec), CheckpointError> {
        let axis = self.graph.list("index_1", &[1]);
        let x = self.graph.node("Squeeze", &format!("{pooler}.token_0"), &[x, &axis], &[]);
        let x = self.linear(&format!("{pooler}.dense"), &x, [hidden, hidden], true)?;
        let x = self.activation(pooler, &x, activation);
        let width = self.projection_dim;
        let x = self.linear(projection, &x, [hidden, width], false)?;
        let last = self.graph.list("last_axis", &[-1]);
        let norm = self.graph.node("ReduceL2", "l2_norm", &[&x, &last], &[("keepdims", Attribute::Int(1))]);
        self.graph.node("Div", output, &[&x, &norm], &[]);
        let shape = vec![Dim::Named("batch".into()), Dim::Fixed(width)];
        let spec = TensorSpec { name: output.into(), dtype: Dtype::F32, shape };
        self.graph.output(&spec);
        Ok((self.graph, spec))
    }
}
