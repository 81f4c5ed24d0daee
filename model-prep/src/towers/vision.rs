//! Parts that image towers share: patch embeddings, leading tokens, position embeddings, means.

use spotter_engine::bundle::{LayerKind, Weights};

use super::builder::Builder;
use super::resample::{Method, resampled};
use crate::checkpoint::{CheckpointError, Patching};
use crate::onnx::{Attribute, Value};
use crate::quantize::quantize;

/// The patch embedding of an image tower.
pub(super) struct PatchEmbedding<'a> {
    /// Name of the convolution.
    pub(super) name: &'a str,
    pub(super) patching: &'a Patching,
    pub(super) hidden: usize,
    pub(super) bias: bool,
    /// Rows and columns of zeros that are appended to the pixels.
    pub(super) padding: [usize; 2],
}

impl Builder<'_> {
    /// The patch embedding, a convolution whose stride is its size, as tokens: [batch, patches, hidden].
    pub(super) fn patches(&mut self, pixels: &Value, patches: &PatchEmbedding<'_>) -> Result<Value, CheckpointError> {
        let PatchEmbedding { name, patching, hidden, bias, padding } = *patches;
        let [height, width] = patching.patch_size;
        let shape = [hidden, 3, height, width];
        let weight_name = format!("{name}.weight");
        let weight = self.tensor(&weight_name, &shape)?;
        let weight = match self.storage(name, LayerKind::PatchEmbedding, &weight, 3 * height * width) {
            Weights::F32 => self.graph.floats(&weight_name, &shape, &weight),
            Weights::F16 => self.halves(&weight_name, &shape, &weight),
            Weights::Int8 | Weights::Int4 => {
                let int8 = quantize(&weight, 3 * height * width);
                self.dequantized(&weight_name, &shape, &int8.values, &int8.scales, 0)
            }
        };
        let mut inputs = vec![pixels.clone(), weight];
        if bias {
            inputs.push(self.floats(&format!("{name}.bias"), &[hidden])?);
        }
        let step = [height as i64, width as i64];
        let pads = [0, 0, padding[0] as i64, padding[1] as i64];
        let mut attributes = vec![("kernel_shape", Attribute::Ints(&step)), ("strides", Attribute::Ints(&step))];
        if padding != [0, 0] {
            attributes.push(("pads", Attribute::Ints(&pads)));
        }
        let x = self.graph.node("Conv", name, &inputs.iter().collect::<Vec<_>>(), &attributes);
        let rows = self.graph.list("shape.patch_rows", &[0, hidden as i64, -1]);
        let x = self.graph.node("Reshape", &format!("{name}.rows"), &[&x, &rows], &[]);
        let perm = [("perm", Attribute::Ints(&[0, 2, 1]))];
        Ok(self.graph.node("Transpose", &format!("{name}.tokens"), &[&x], &perm))
    }

    /// Prepends rows of zeros to the tokens `x` [batch, patches, hidden]. The leading tokens are added there together
    /// with the position embeddings.
    pub(super) fn rows_before(&mut self, x: &Value, rows: usize) -> Value {
        let name = if rows == 1 { "one_row_before".to_owned() } else { format!("{rows}_rows_before") };
        let pads = self.graph.list(&name, &[0, rows as i64, 0, 0, 0, 0]);
        self.graph.node("Pad", "vision_model.embeddings.tokens", &[x, &pads], &[])
    }

    /// Adds the constant `table` [tokens, hidden], called `name`, to `x` [batch, tokens, hidden].
    pub(super) fn add_table(&mut self, name: &str, x: &Value, table: &[f32], hidden: usize) -> Value {
        let table = self.graph.floats(name, &[1, table.len() / hidden, hidden], table);
        self.graph.node("Add", "vision_model.embeddings", &[x, &table], &[])
    }

    /// The position embeddings `name` of `lead` leading tokens and all patches, resampled to the input's size:
    /// [lead + patches, hidden]. In the checkpoint they have a leading axis of 1 if `batch`.
    pub(super) fn positions(
        &mut self,
        name: &str,
        [lead, hidden]: [usize; 2],
        batch: bool,
        patching: &Patching,
        method: Method,
    ) -> Result<Vec<f32>, CheckpointError> {
        let rows = lead + patching.trained_patches();
        let shape: &[usize] = if batch { &[1, rows, hidden] } else { &[rows, hidden] };
        let table = self.tensor(name, shape)?;
        let Some(side) = patching.interpolated_from() else { return Ok(table) };
        let (before, grid) = table.split_at(lead * hidden);
        Ok([before, &resampled(grid, [side; 2], patching.grid(), method)].concat())
    }

    /// The mean of the tokens of `x` [batch, n, hidden] from index `first` on, as [batch, 1, hidden].
    pub(super) fn mean_from(&mut self, name: &str, all: &Value, first: usize) -> Value {
        let axis = self.graph.list("index_1", &[1]);
        let x = if first == 0 {
            all.clone()
        } else {
            let start = self.graph.list(&format!("index_{first}"), &[first as i64]);
            let end = self.graph.list("index_end", &[i64::MAX]);
            self.graph.node("Slice", &format!("{name}.tokens"), &[all, &start, &end, &axis], &[])
        };
        let mean =
            self.graph.node("ReduceMean", &format!("{name}.mean"), &[&x, &axis], &[("keepdims", Attribute::Int(1))]);
        self.same_channels(all, mean)
    }
}
