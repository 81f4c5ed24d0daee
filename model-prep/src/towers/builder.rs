//! Builds a tower's graph from a checkpoint's tensors: linear layers, embeddings, norms, and the end of the graph.

use spotter_engine::bundle::{Architecture, Dim, Dtype, LayerKind, TensorSpec, Weights};
use spotter_engine::onnx::product_node;

use super::End;
use super::tower_file::TowerFile;
use crate::checkpoint::{Activation, Checkpoint, CheckpointError, EncoderConfig, Tensors};
use crate::half::fits_half;
use crate::onnx::{Attribute, Graph, Value};
use crate::plan::{Layer, Site, Target};
use crate::progress::Tick;
use crate::quantize::{GROUP, Groups, Rounding, quantize, quantize_groups, transpose};

/// A graph under construction, with the tensors that it is built from.
pub(super) struct Builder<'a> {
    pub(super) graph: Graph,
    pub(super) tensors: &'a Tensors,
    pub(super) target: Target<'a>,
    pub(super) layers: Vec<Layer>,
    pub(super) sites: Vec<Site>,
    /// Values that may be divided by factors, with the name of their site.
    pub(super) divided: Vec<(Value, String)>,
    /// Sites whose division is a node of its own.
    pub(super) own_nodes: Vec<String>,
    pub(super) projects: bool,
    projection_dim: usize,
    pub(super) end: End,
    tick: Tick<'a>,
}

impl<'a> Builder<'a> {
    /// An empty graph; `name` is for display.
    pub(super) fn new(name: &str, checkpoint: &'a Checkpoint, target: Target<'a>, tick: Tick<'a>) -> Self {
        let (tensors, projection_dim) = (&checkpoint.tensors, checkpoint.config.projection_dim);
        let graph = Graph::new(name, target.scratch);
        let projects = checkpoint.config.family.projects();
        let (layers, sites, divided, own_nodes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            graph,
            tensors,
            target,
            layers,
            sites,
            divided,
            own_nodes,
            projects,
            projection_dim,
            end: End::Projection,
            tick,
        }
    }

    /// Sets what the graph ends in; `width` is that of the pooler output.
    pub(super) fn ending_in(mut self, end: End, width: usize) -> Self {
        self.end = end;
        if end == End::Pooler {
            self.projection_dim = width;
        }
        self
    }

    /// The declared input called `name`.
    pub(super) fn input(&self, name: &str) -> Value {
        Value::named(name)
    }

    /// Reads a tensor of the checkpoint.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors.read(name, shape)?;
        (self.tick)();
        Ok(values)
    }

    /// Records a layer with rows of `width` weights and returns its storage. Patch embeddings are never int4, and weights
    /// beyond the range of 16-bit floats have 32 bits.
    pub(super) fn storage(&mut self, name: &str, kind: LayerKind, weights: &[f32], width: usize) -> Weights {
        let stored = match self.target.plan.of(name) {
            Weights::Int4 if kind == LayerKind::PatchEmbedding => Weights::Int8,
            Weights::F16 if !fits_half(weights) => Weights::F32,
            stored => stored,
        };
        let (name, weights) = (name.to_owned(), weights.len());
        self.layers.push(Layer { unit: name.clone(), name, kind, stored, weights, width });
        stored
    }

    /// Adds a tensor of the checkpoint as floats.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Value, CheckpointError> {
        let values = self.tensor(name, shape)?;
        Ok(self.graph.floats(name, shape, &values))
    }

    /// A linear layer, `x W^T + b`, with the tensors `{name}.weight` [to, from] and, if `bias`, `{name}.bias` [to].
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: &Value,
        [from, to]: [usize; 2],
        bias: bool,
    ) -> Result<Value, CheckpointError> {
        self.scaled_linear(name, x, [from, to], bias, None)
    }

    /// A linear layer whose output channels are multiplied by the tensor `layer_scale` [to], if given. The factors are
    /// folded into weights and bias.
    pub(super) fn scaled_linear(
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
        self.linear_of(name, x, &weight, bias.as_deref(), from)
    }

    /// A linear layer of given values. The weight [to, from] is stored as [from, to], the order of a matrix product.
    pub(super) fn linear_of(
        &mut self,
        name: &str,
        x: &Value,
        weight: &[f32],
        bias: Option<&[f32]>,
        from: usize,
    ) -> Result<Value, CheckpointError> {
        let (weight_name, to) = (format!("{name}.weight"), weight.len() / from);
        let (weight, mut bias) = self.with_factors(name, x, weight, bias, from);
        let weight = &*weight;
        let stored = self.storage(name, LayerKind::Linear, weight, from);
        let weight = match stored {
            Weights::F32 => self.graph.floats(&weight_name, &[from, to], &transpose(weight, from)),
            Weights::F16 => self.halves(&weight_name, &[from, to], &transpose(weight, from)),
            Weights::Int8 => {
                let int8 = quantize(weight, from);
                self.dequantized(&weight_name, &[from, to], &transpose(&int8.values, from), &int8.scales, 1)
            }
            Weights::Int4 => {
                let int4 = self.rounded(name, x, weight, bias.as_deref_mut(), from)?;
                let columns = Groups {
                    values: transpose(&int4.values, from),
                    multiples: transpose(&int4.multiples, from.div_ceil(GROUP)),
                    units: int4.units,
                };
                self.dequantized_groups(&weight_name, [from, to], &columns, 0)
            }
        };
        let Some(bias) = bias else { return Ok(self.graph.node("MatMul", name, &[x, &weight], &[])) };
        let product = self.graph.node("MatMul", &product_node(name), &[x, &weight], &[]);
        let bias = self.graph.floats(&format!("{name}.bias"), &[to], &bias);
        Ok(self.graph.node("Add", name, &[&product, &bias], &[]))
    }

    /// Weights [to, from] as 4-bit integers. If it is known what the layer reads, they are rounded so that its outputs
    /// change least, and the mean of what they change goes into the bias.
    fn rounded(
        &self,
        name: &str,
        x: &Value,
        weight: &[f32],
        bias: Option<&mut [f32]>,
        from: usize,
    ) -> Result<Groups, CheckpointError> {
        let moments = self.target.plan.moments.as_ref().map(|moments| moments.of(name)).transpose();
        let moments = moments.map_err(|source| CheckpointError::io(self.target.scratch, source))?.flatten();
        let Some(moments) = moments.filter(|moments| moments.mean.len() == from) else {
            return Ok(quantize_groups(weight, from));
        };
        let moments = match self.factors_of(x) {
            Some(factors) => moments.divided_by(factors),
            None => moments,
        };
        let int4 = Rounding::new(&moments, bias.is_some()).quantize(weight);
        if let Some(bias) = bias {
            let floats = int4.floats(from);
            for ((b, row), floats) in bias.iter_mut().zip(weight.chunks(from)).zip(floats.chunks(from)) {
                *b += row.iter().zip(floats).zip(&moments.mean).map(|((w, q), mean)| (w - q) * mean).sum::<f32>();
            }
        }
        Ok(int4)
    }

    /// Adds 16-bit floats, as floats.
    pub(super) fn halves(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let values = self.graph.halves(&format!("{name}.half"), shape, values);
        // 1 is FLOAT in ONNX.
        self.graph.node("Cast", name, &[&values], &[("to", Attribute::Int(1))])
    }

    /// Adds integers, dequantised with one scale per index of `axis`.
    pub(super) fn dequantized(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[i8],
        scales: &[f32],
        axis: i64,
    ) -> Value {
        let values = self.graph.int8s(&format!("{name}.int8"), shape, values);
        let scales = self.graph.floats(&format!("{name}.scale"), &[scales.len()], scales);
        self.graph.node("DequantizeLinear", name, &[&values, &scales], &[("axis", Attribute::Int(axis))])
    }

    /// Adds 4-bit integers, dequantised with one scale per [`GROUP`] of them along `axis`. The scales are bytes, dequantised
    /// with one unit per index of the other axis.
    fn dequantized_groups(&mut self, name: &str, shape: [usize; 2], groups: &Groups, axis: usize) -> Value {
        let mut grouped = shape;
        grouped[axis] = shape[axis].div_ceil(GROUP);
        let values = self.graph.int4s(&format!("{name}.int4"), &shape, &groups.values);
        let scales =
            self.dequantized(&format!("{name}.scale"), &grouped, &groups.multiples, &groups.units, 1 - axis as i64);
        let attributes = [("axis", Attribute::Int(axis as i64)), ("block_size", Attribute::Int(GROUP as i64))];
        self.graph.node("DequantizeLinear", name, &[&values, &scales], &attributes)
    }

    /// Looks up the rows `ids` of the table `{name}.weight`. Integers are looked up first and then dequantised, so the
    /// table is never dequantised as a whole.
    pub(super) fn embedding(
        &mut self,
        name: &str,
        ids: &Value,
        [rows, width]: [usize; 2],
    ) -> Result<Value, CheckpointError> {
        let table_name = format!("{name}.weight");
        let table = self.tensor(&table_name, &[rows, width])?;
        let found = match self.storage(name, LayerKind::Embedding, &table, width) {
            Weights::F32 => self.graph.floats(&table_name, &[rows, width], &table),
            Weights::F16 => self.halves(&table_name, &[rows, width], &table),
            Weights::Int4 => self.dequantized_groups(&table_name, [rows, width], &quantize_groups(&table, width), 1),
            Weights::Int8 => return Ok(self.int8_embedding(name, ids, &table, width)),
        };
        Ok(self.graph.node("Gather", name, &[&found, ids], &[]))
    }

    fn int8_embedding(&mut self, name: &str, ids: &Value, table: &[f32], width: usize) -> Value {
        let (table_name, rows) = (format!("{name}.weight"), table.len() / width.max(1));
        let int8 = quantize(table, width);
        let table = self.graph.int8s(&format!("{table_name}.int8"), &[rows, width], &int8.values);
        let scales = self.graph.floats(&format!("{table_name}.scale"), &[rows, 1], &int8.scales);
        let found = self.graph.node("Gather", &format!("{name}.int8"), &[&table, ids], &[]);
        // 1 is FLOAT in ONNX.
        let found = self.graph.node("Cast", &format!("{name}.float"), &[&found], &[("to", Attribute::Int(1))]);
        let scales = self.graph.node("Gather", &format!("{name}.scale"), &[&scales, ids], &[]);
        self.graph.node("Mul", name, &[&found, &scales], &[])
    }

    /// Looks up the rows `ids` of a table that stays in float.
    pub(super) fn float_embedding(
        &mut self,
        name: &str,
        ids: &Value,
        shape: [usize; 2],
    ) -> Result<Value, CheckpointError> {
        let table = self.floats(&format!("{name}.weight"), &shape)?;
        Ok(self.graph.node("Gather", name, &[&table, ids], &[]))
    }

    /// Layer norm with the tensors `{name}.weight` and `{name}.bias`.
    pub(super) fn layer_norm(
        &mut self,
        name: &str,
        x: &Value,
        encoder: &EncoderConfig,
    ) -> Result<Value, CheckpointError> {
        self.layer_norm_divided(name, name, x, (encoder.hidden_size, encoder.layer_norm_eps), None)
    }

    /// The first token of `x` [batch, n, hidden], as [batch, 1, hidden].
    pub(super) fn first_token(&mut self, name: &str, x: &Value) -> Value {
        let (zero, one) = (self.graph.list("index_0", &[0]), self.graph.list("index_1", &[1]));
        let token = self.graph.node("Slice", name, &[x, &zero, &one, &one], &[]);
        self.same_channels(x, token)
    }

    /// The last token of `x` [batch, n, hidden], as [batch, 1, hidden].
    pub(super) fn last_token(&mut self, name: &str, x: &Value) -> Value {
        let (last, end) = (self.graph.list("index_last", &[-1]), self.graph.list("index_end", &[i64::MAX]));
        let axis = self.graph.list("index_1", &[1]);
        let token = self.graph.node("Slice", name, &[x, &last, &end, &axis], &[]);
        self.same_channels(x, token)
    }

    /// A dense layer and an activation on the only token of `x` [batch, 1, hidden]: [batch, hidden].
    pub(super) fn dense_pooler(
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

    /// Reshapes [batch, 1, hidden] to [batch, hidden].
    pub(super) fn only_row(&mut self, name: &str, x: &Value) -> Value {
        let axis = self.graph.list("index_1", &[1]);
        let row = self.graph.node("Squeeze", &format!("{name}.row"), &[x, &axis], &[]);
        self.same_channels(x, row)
    }

    /// Projects the pooler output [batch, width] into the shared embedding space, if the checkpoint has a projection and the
    /// graph is to end in it.
    pub(super) fn projection(&mut self, name: &str, pooled: &Value, width: usize) -> Result<Value, CheckpointError> {
        if !self.projects || self.end == End::Pooler {
            return Ok(pooled.clone());
        }
        self.linear(name, pooled, [width, self.projection_dim], false)
    }

    /// Finishes the graph: the features `x` [batch, projection_dim], divided by their L2 norm, are the embedding.
    pub(super) fn finish(
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
        Ok(TowerFile { architecture, inputs, output, features, layers: self.layers, sites: self.sites, onnx })
    }
}
