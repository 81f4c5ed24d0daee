//! Name, type and shape of the towers' inputs and outputs: a part of `bundle.json`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Name, type and shape of a tower's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Size of each axis.
    pub shape: Vec<Dim>,
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = match self.dtype {
            Dtype::F32 => "f32",
            Dtype::I64 => "i64",
        };
        let axes = self.shape.iter().map(|dim| match dim {
            Dim::Fixed(extent) => extent.to_string(),
            Dim::Named(name) => name.clone(),
        });
        write!(f, "{} {dtype} [{}]", self.name, axes.collect::<Vec<_>>().join(", "))
    }
}

/// Element types of tower inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
}

/// Size of an axis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// This size.
    Fixed(usize),
    /// Any size, chosen by the caller: `batch` or `sequence`.
    Named(String),
}
