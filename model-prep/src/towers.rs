//! From a checkpoint's tensors to ONNX graphs: the blocks that towers share, and one file per architecture.
//!
//! Graphs end in the bias-free projection, where the checkpoint has one, and the division by the L2 norm. Where only one
//! token reaches the pooler, the last layer computes its queries and everything behind them for that token alone, which
//! changes no value.

mod beit;
mod bert;
mod clip_layer;
mod clip_text;
mod clip_vision;
mod deit;
mod dinov2;
mod mpnet;
mod pre_norm;
mod resample;
mod siglip_text;
mod siglip_vision;
mod swin;
mod vision;
mod vit;

use std::collections::HashMap;

use spotter_engine::bundle::{Architecture, Dim, Dtype, LayerKind, TensorSpec, Weights};

use crate::checkpoint::{Activation, Checkpoint, CheckpointError, EncoderConfig, Tensors, TextConfig, VisionConfig};
use crate::onnx::{Attribute, Graph, OnnxFile, Value};
use crate::plan::{Layer, Target};
use crate::progress::Tick;
use crate::quantize::{GROUP, quantize, quantize_groups, transpose};

/// Outputs of an image tower: the embedding, and the features that it is made of.
pub(crate) const IMAGE_OUTPUTS: [&str; 2] = ["image_embeds", "image_features"];

/// Outputs of a text tower.
pub(crate) const TEXT_OUTPUTS: [&str; 2] = ["text_embeds", "text_features"];

/// A tower, ready to be written.
#[derive(Debug)]
pub struct TowerFile {
    /// Its architecture.
    pub architecture: Architecture,
    /// Inputs in the order of the graph.
    pub inputs: Vec<TensorSpec>,
    /// The normalised embedding.
    pub output: TensorSpec,
    /// The embedding before its division by the L2 norm.
    pub features: TensorSpec,
    /// The layers that [`crate::plan::Plan`] speaks of, in the order of the graph.
    pub layers: Vec<Layer>,
    /// The ONNX file.
    pub onnx: OnnxFile,
}

impl TowerFile {
    /// Width of the embedding.
    pub fn projection_dim(&self) -> usize {
        match self.output.shape.last() {
            Some(Dim::Fixed(width)) => *width,
            _ => 0,
        }
    }
}

/// Builds the image tower; `tick` is called once for each tensor read.
pub fn vision(checkpoint: &Checkpoint, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    let mut builder = Builder::new("image tower", checkpoint, target, tick);
    let config = &checkpoint.config.vision;
    let [height, width] = config.patching().image_size;
    let shape = vec![Dim::Named("batch".into()), Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)];
    let input = TensorSpec { name: "pixel_values".into(), dtype: Dtype::F32, shape };
    let pixels = builder.graph.input(&input);
    let pooled = match config {
        VisionConfig::Vit(config) => vit::pooled(&mut builder, &pixels, config, &["cls_token"])?,
        VisionConfig::Deit(config) => deit::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Beit(config) => beit::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Clip(config) => clip_vision::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Dinov2(config) => dinov2::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Siglip(config) => siglip_vision::pooled(&mut builder, &pixels, config)?,
        VisionConfig::Swin(config) => swin::pooled(&mut builder, &pixels, config)?,
    };
    let x = builder.projection(checkpoint, "visual_projection", &pooled, config.pooled_width())?;
    builder.finish(config.architecture(), vec![input], &x, IMAGE_OUTPUTS)
}

/// Builds the text tower; `tick` is called once for each tensor read.
pub fn text(checkpoint: &Checkpoint, target: Target<'_>, tick: Tick<'_>) -> Result<TowerFile, CheckpointError> {
    let mut builder = Builder::new("text tower", checkpoint, target, tick);
    let config = &checkpoint.config.text;
    let shape = vec![Dim::Named("batch".into()), Dim::Named("sequence".into())];
    let spec = |name: &&str| TensorSpec { name: (*name).into(), dtype: Dtype::I64, shape: shape.clone() };
    let inputs: Vec<_> = checkpoint.text_inputs().iter().map(spec).collect();
    inputs.iter().for_each(|input| drop(builder.graph.input(input)));
    let pooled = match config {
        TextConfig::Bert(config) => bert::pooled(&mut builder, config)?,
        TextConfig::Roberta(config) => bert::pooled(&mut builder, &config.bert)?,
        TextConfig::Mpnet(config) => mpnet::pooled(&mut builder, config)?,
        TextConfig::Clip(config) => clip_text::pooled(&mut builder, config)?,
        TextConfig::Siglip(config) => {
            siglip_text::pooled(&mut builder, config, inputs.iter().any(|input| input.name == "attention_mask"))?
        }
    };
    let x = builder.projection(checkpoint, "text_projection", &pooled, config.pooled_width())?;
    builder.finish(config.architecture(), inputs, &x, TEXT_OUTPUTS)
}

/// A graph together with the tensors it is made of.
struct Builder<'a> {
    graph: Graph,
    tensors: &'a Tensors,
    target: Target<'a>,
    layers: Vec<Layer>,
    /// The first linear layer that reads each value, by the value's name.
    units: HashMap<String, String>,
    projection_dim: usize,
    tick: Tick<'a>,
}

/// The four linear layers of an attention block.
struct AttentionLayers {
    query: String,
    key: String,
    value: String,
    output: String,
    /// Whether query, key and value have biases.
    biases: [bool; 3],
    /// The tensor that multiplies each channel of the output, where there is one (layer scale).
    layer_scale: Option<String>,
}

impl<'a> Builder<'a> {
    fn new(name: &str, checkpoint: &'a Checkpoint, target: Target<'a>, tick: Tick<'a>) -> Self {
        let (tensors, projection_dim) = (&checkpoint.tensors, checkpoint.config.projection_dim);
        let graph = Graph::new(name, target.scratch);
        Self { graph, tensors, target, layers: Vec::new(), units: HashMap::new(), projection_dim, tick }
    }

    /// The input called `name`, which [`vision`] or [`text`] declared.
    fn input(&self, name: &str) -> Value {
        Value::named(name)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors.read(name, shape)?;
        (self.tick)();
        Ok(values)
    }

    /// Takes note of a layer, and says how it is stored.
    fn storage(&mut self, name: &str, kind: LayerKind, weights: usize, width: usize) -> Weights {
        let mut stored = self.target.plan.of(name);
        let whole_groups = kind != LayerKind::PatchEmbedding && width.is_multiple_of(GROUP);
        if stored == Weights::Int4 && !whole_groups {
            stored = Weights::Int8;
        }
        let name = name.to_owned();
        self.layers.push(Layer { unit: name.clone(), name, kind, stored, weights, width });
        stored
    }

    /// A tensor of the checkpoint as it is.
    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Value, CheckpointError> {
        let values = self.tensor(name, shape)?;
        Ok(self.graph.floats(name, shape, &values))
    }

    /// `x W^T + b`, of the tensors `{name}.weight` [to, from] and, with `bias`, `{name}.bias` [to].
    fn linear(&mut self, name: &str, x: &Value, [from, to]: [usize; 2], bias: bool) -> Result<Value, CheckpointError> {
        self.scaled_linear(name, x, [from, to], bias, None)
    }

    /// The same, each channel of the result multiplied by its value of the tensor `layer_scale` [to]: the factors become
    /// part of weights and bias.
    fn scaled_linear(
        &mut self,
        name: &str,
        x: &Value,
        [from, to]: [usize; 2],
        bias: bool,
        layer_scale: Option<&str>,
    ) -> Result<Value, CheckpointError> {
        let mut weight = self.tensor(&format!("{name}.weight"), &[to, from])?;
        let mut bias = if bias { Some(self.tensor(&format!("{name}.bias"), &[to])?) } else { None };
        if let Some(scale) = layer_scale {
            let scale = self.tensor(scale, &[to])?;
            let rows = weight.chunks_exact_mut(from).zip(&scale);
            rows.for_each(|(row, factor)| row.iter_mut().for_each(|w| *w *= factor));
            bias.iter_mut().flatten().zip(&scale).for_each(|(b, factor)| *b *= factor);
        }
        Ok(self.linear_of(name, x, &weight, bias.as_deref(), from))
    }

    /// `x W^T + b` of values; the weight [to, from] is stored as [from, to], which is how a matrix product takes it.
    fn linear_of(&mut self, name: &str, x: &Value, weight: &[f32], bias: Option<&[f32]>, from: usize) -> Value {
        let (weight_name, to) = (format!("{name}.weight"), weight.len() / from);
        let stored = self.storage(name, LayerKind::Linear, weight.len(), from);
        // Whoever runs the graph may make one layer of those that read the same.
        let unit = self.units.entry(x.name().to_owned()).or_insert_with(|| name.to_owned());
        if let Some(layer) = self.layers.last_mut() {
            layer.unit.clone_from(unit);
        }
        let weight = match stored {
            Weights::F32 => self.graph.floats(&weight_name, &[from, to], &transpose(weight, from)),
            Weights::Int8 => {
                let int8 = quantize(weight, from);
                self.dequantized(&weight_name, &[from, to], &transpose(&int8.values, from), &int8.scales, 1)
            }
            Weights::Int4 => {
                let int4 = quantize_groups(weight, from);
                let scales = transpose(&int4.scales, from / GROUP);
                self.dequantized_groups(&weight_name, [from, to], &transpose(&int4.values, from), &scales, 0)
            }
        };
        let Some(bias) = bias else { return self.graph.node("MatMul", name, &[x, &weight], &[]) };
        let product = self.graph.node("MatMul", &format!("{name}.product"), &[x, &weight], &[]);
        let bias = self.graph.floats(&format!("{name}.bias"), &[to], bias);
        self.graph.node("Add", name, &[&product, &bias], &[])
    }

    /// Integers that are turned into floats by a scale for each index of `axis`.
    fn dequantized(&mut self, name: &str, shape: &[usize], values: &[i8], scales: &[f32], axis: i64) -> Value {
        let values = self.graph.int8s(&format!("{name}.int8"), shape, values);
        let scales = self.graph.floats(&format!("{name}.scale"), &[scales.len()], scales);
        self.graph.node("DequantizeLinear", name, &[&values, &scales], &[("axis", Attribute::Int(axis))])
    }

    /// The same of 4-bit integers, by a scale for each [`GROUP`] of them along `axis`: groups of input channels or of a row.
    fn dequantized_groups(
        &mut self,
        name: &str,
        shape: [usize; 2],
        values: &[i8],
        scales: &[f32],
        axis: usize,
    ) -> Value {
        let mut groups = shape;
        groups[axis] /= GROUP;
        let values = self.graph.int4s(&format!("{name}.int4"), &shape, values);
        let scales = self.graph.floats(&format!("{name}.scale"), &groups, scales);
        let attributes = [("axis", Attribute::Int(axis as i64)), ("block_size", Attribute::Int(GROUP as i64))];
        self.graph.node("DequantizeLinear", name, &[&values, &scales], &attributes)
    }

    /// Rows of the table `{name}.weight` that `ids` choose. Integers are looked up first and turned into floats after,
    /// so that nobody has to expand the table.
    fn embedding(&mut self, name: &str, ids: &Value, [rows, width]: [usize; 2]) -> Result<Value, CheckpointError> {
        let stored = self.storage(name, LayerKind::Embedding, rows * width, width);
        if stored == Weights::F32 {
            return self.float_embedding(name, ids, [rows, width]);
        }
        let table_name = format!("{name}.weight");
        let table = self.tensor(&table_name, &[rows, width])?;
        if stored == Weights::Int4 {
            let int4 = quantize_groups(&table, width);
            let table = self.dequantized_groups(&table_name, [rows, width], &int4.values, &int4.scales, 1);
            return Ok(self.graph.node("Gather", name, &[&table, ids], &[]));
        }
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
    /// `added` are added to the scores [batch, heads, n, m]: masks, position biases.
    fn attention(
        &mut self,
        layers: &AttentionLayers,
        [queries, states]: [&Value; 2],
        added: &[&Value],
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        let square = [encoder.hidden_size; 2];
        let [split, merged] = self.head_shapes(encoder);
        let mut heads = |name: &str, x: &Value, bias: bool, perm: &[i64; 4]| {
            let x = self.linear(name, x, square, bias)?;
            Ok::<_, CheckpointError>(self.heads(name, &x, &split, perm))
        };
        let query = heads(&layers.query, queries, layers.biases[0], &[0, 2, 1, 3])?;
        let key = heads(&layers.key, states, layers.biases[1], &[0, 2, 3, 1])?;
        let value = heads(&layers.value, states, layers.biases[2], &[0, 2, 1, 3])?;
        self.same_storage([&layers.query, &layers.key, &layers.value]);
        let context = self.context([&layers.query, &layers.output], [&query, &key, &value], added, &merged, encoder);
        self.scaled_linear(&layers.output, &context, square, true, layers.layer_scale.as_deref())
    }

    /// Layers that read the same rows are stored in one way, so that the engine can compute them as one.
    fn same_storage(&mut self, names: [&str; 3]) {
        for layer in self.layers.iter_mut().filter(|layer| names.contains(&layer.name.as_str())) {
            names[0].clone_into(&mut layer.unit);
        }
    }

    /// The shapes [batch, n, heads, dim] and [batch, n, hidden].
    fn head_shapes(&mut self, encoder: &EncoderConfig) -> [Value; 2] {
        let (hidden, heads) = (encoder.hidden_size as i64, encoder.heads as i64);
        // 0 keeps an axis as it is.
        let split = self.graph.list("shape.split_heads", &[0, 0, heads, hidden / heads]);
        [split, self.graph.list("shape.merged_heads", &[0, 0, hidden])]
    }

    /// `x` [batch, n, hidden] split into heads [batch, n, heads, dim], the axes then in the order of `perm`.
    fn heads(&mut self, name: &str, x: &Value, split: &Value, perm: &[i64; 4]) -> Value {
        let x = self.graph.node("Reshape", &format!("{name}.split"), &[x, split], &[]);
        self.graph.node("Transpose", &format!("{name}.heads"), &[&x], &[("perm", Attribute::Ints(perm))])
    }

    /// What heads of queries [batch, heads, n, dim] find among keys [batch, heads, dim, m] and values
    /// [batch, heads, m, dim], side by side: [batch, n, hidden]. Nodes are called after the first and last layer.
    fn context(
        &mut self,
        [first, last]: [&str; 2],
        [query, key, value]: [&Value; 3],
        added: &[&Value],
        merged: &Value,
        encoder: &EncoderConfig,
    ) -> Value {
        let graph = &mut self.graph;
        let head_dim = encoder.hidden_size / encoder.heads;
        let named = |what: &str| format!("{last}.{what}");
        let scale = graph.scalar("attention_scale", (head_dim as f32).sqrt().recip());
        let query = graph.node("Mul", &format!("{first}.scaled"), &[query, &scale], &[]);
        let mut scores = graph.node("MatMul", &named("scores"), &[&query, key], &[]);
        for (index, term) in added.iter().enumerate() {
            scores = graph.node("Add", &named(&format!("scores_with_{index}")), &[&scores, term], &[]);
        }
        let shares = graph.node("Softmax", &named("probabilities"), &[&scores], &[("axis", Attribute::Int(-1))]);
        let context = graph.node("MatMul", &named("context"), &[&shares, value], &[]);
        let perm = [("perm", Attribute::Ints(&[0, 2, 1, 3]))];
        let context = graph.node("Transpose", &named("context_rows"), &[&context], &perm);
        graph.node("Reshape", &named("context_merged"), &[&context, merged], &[])
    }

    /// The feed-forward block: up, activation, down; `layer_scale` as in [`AttentionLayers`].
    fn feed_forward(
        &mut self,
        [up, down]: [&str; 2],
        x: &Value,
        encoder: &EncoderConfig,
        layer_scale: Option<&str>,
    ) -> Result<Value, CheckpointError> {
        let (hidden, inner) = (encoder.hidden_size, encoder.intermediate_size);
        let x = self.linear(up, x, [hidden, inner], true)?;
        let x = self.activation(up, &x, encoder.activation);
        self.scaled_linear(down, &x, [inner, hidden], true, layer_scale)
    }

    /// Exact GELU is written as `x / sqrt 2, erf, + 1, * x, * 0.5`, which both tract and ONNX Runtime recognise.
    fn activation(&mut self, name: &str, x: &Value, activation: Activation) -> Value {
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

    /// Token 0 of `x` [batch, n, hidden], as [batch, 1, hidden].
    fn first_token(&mut self, name: &str, x: &Value) -> Value {
        let (zero, one) = (self.graph.list("index_0", &[0]), self.graph.list("index_1", &[1]));
        self.graph.node("Slice", name, &[x, &zero, &one, &one], &[])
    }

    /// The last token of `x` [batch, n, hidden], as [batch, 1, hidden].
    fn last_token(&mut self, name: &str, x: &Value) -> Value {
        let (last, end) = (self.graph.list("index_last", &[-1]), self.graph.list("index_end", &[i64::MAX]));
        let axis = self.graph.list("index_1", &[1]);
        self.graph.node("Slice", name, &[x, &last, &end, &axis], &[])
    }

    /// Row 0 of `x` [batch, n, hidden] through a dense layer and an activation: [batch, hidden].
    fn dense_pooler(
        &mut self,
        name: &str,
        x: &Value,
        hidden: usize,
        activation: Activation,
    ) -> Result<Value, CheckpointError> {
        let x = self.only_row(name, x);
        let x = self.linear(&format!("{name}.dense"), &x, [hidden, hidden], true)?;
        Ok(self.activation(name, &x, activation))
    }

    /// [batch, 1, hidden] as [batch, hidden].
    fn only_row(&mut self, name: &str, x: &Value) -> Value {
        let axis = self.graph.list("index_1", &[1]);
        self.graph.node("Squeeze", &format!("{name}.row"), &[x, &axis], &[])
    }

    /// The projection of what was pooled [batch, width] into the shared space, where the checkpoint has one.
    fn projection(
        &mut self,
        checkpoint: &Checkpoint,
        name: &str,
        pooled: &Value,
        width: usize,
    ) -> Result<Value, CheckpointError> {
        if !checkpoint.config.family.projects() {
            return Ok(pooled.clone());
        }
        self.linear(name, pooled, [width, self.projection_dim], false)
    }

    /// Ends the graph: `x` [batch, projection_dim] are the features, which divided by their L2 norm are the embedding.
    fn finish(
        mut self,
        architecture: Architecture,
        inputs: Vec<TensorSpec>,
        x: &Value,
        outputs: [&str; 2],
    ) -> Result<TowerFile, CheckpointError> {
        let last = self.graph.list("last_axis", &[-1]);
        let features = self.graph.node("Identity", outputs[1], &[x], &[]);
        let norm = self.graph.node("ReduceL2", "l2_norm", &[&features, &last], &[("keepdims", Attribute::Int(1))]);
        self.graph.node("Div", outputs[0], &[&features, &norm], &[]);
        let [output, features] = outputs.map(|name| {
            let shape = vec![Dim::Named("batch".into()), Dim::Fixed(self.projection_dim)];
            let spec = TensorSpec { name: name.into(), dtype: Dtype::F32, shape };
            self.graph.output(&spec);
            spec
        });
        let scratch = self.target.scratch;
        let onnx = self.graph.finish().map_err(|source| CheckpointError::io(scratch, source))?;
        Ok(TowerFile { architecture, inputs, output, features, layers: self.layers, onnx })
    }
}

/// 0 for a token and the lowest float for padding: [batch, 1, 1, sequence].
fn additive_mask(builder: &mut Builder<'_>) -> Value {
    let mask = &builder.input("attention_mask");
    let graph = &mut builder.graph;
    // 1 is FLOAT in ONNX.
    let mask = graph.node("Cast", "attention_mask.float", &[mask], &[("to", Attribute::Int(1))]);
    let one = graph.scalar("one", 1.0);
    let padding = graph.node("Sub", "padding_mask", &[&one, &mask], &[]);
    let lowest = graph.scalar("lowest_float", f32::MIN);
    let mask = graph.node("Mul", "padding_mask.lowest", &[&padding, &lowest], &[]);
    let axes = graph.list("head_and_query_axes", &[1, 2]);
    graph.node("Unsqueeze", "additive_mask", &[&mask, &axes], &[])
}
