//! A minimal ONNX graph writer: nodes, weights, inputs and outputs, in the order in which they are added.
//!
//! The output is deterministic. Added weights do not stay in memory: they are written to a temporary file, from which
//! the finished [`OnnxFile`] is read.

mod spool;

pub use spool::{OnnxFile, OnnxReader};

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use prost::Message as _;
use spotter_engine::bundle::{Dim, Dtype, TensorSpec};
use spotter_engine::onnx::INT4;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

use crate::half::to_half;
use spool::{Data, Spool};

/// Operator set of the graphs: the newest that tract is tested with. Layer norm needs 17 or newer.
const OPSET: i64 = 18;

/// Version of the file format for operator set 18.
const IR_VERSION: i64 = 8;

/// Operator set and format version of files with 4-bit integers, which need them.
pub(crate) const OPSET_INT4: i64 = 21;
const IR_VERSION_INT4: i64 = 10;

/// Protobuf field numbers: the graph of a model, the constants of a graph, the data of a tensor.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// Number of values that are converted to bytes at a time.
const PIECE: usize = 1 << 16;

/// A value of the graph, identified by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// The value of the input or node called `name`.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// The value of a node's attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attribute<'a> {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A list of integers.
    Ints(&'a [i64]),
}

/// A graph under construction.
#[derive(Debug)]
pub struct Graph {
    /// The graph, without the data of its constants.
    proto: pb::GraphProto,
    /// The data of each constant, or its location.
    data: Vec<Data>,
    spool: Spool,
    has_int4: bool,
}

impl Graph {
    /// An empty graph; `name` is for display. Weights are kept in an unnamed temporary file in the folder `scratch`.
    pub fn new(name: &str, scratch: &Path) -> Self {
        let proto = pb::GraphProto { name: name.to_owned(), ..Default::default() };
        Self { proto, data: Vec::new(), spool: Spool::new(scratch), has_int4: false }
    }

    /// Declares an input.
    pub fn input(&mut self, spec: &TensorSpec) -> Value {
        self.proto.input.push(value_info(spec));
        Value(spec.name.clone())
    }

    /// Declares the value of the node called `spec.name` as an output.
    pub fn output(&mut self, spec: &TensorSpec) {
        self.proto.output.push(value_info(spec));
    }

    /// Adds a node with one output of the same name.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&Value], attributes: &[(&str, Attribute<'_>)]) -> Value {
        self.proto.node.push(pb::NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, *value)).collect(),
            ..Default::default()
        });
        Value(name.to_owned())
    }

    /// Adds a constant of 32-bit floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let pieces = values.chunks(PIECE).map(|piece| piece.iter().flat_map(|v| v.to_le_bytes()).collect());
        self.initializer(name, DataType::Float as i32, shape, 4 * values.len(), pieces)
    }

    /// Adds a constant of 16-bit floats.
    pub(crate) fn halves(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let pieces = values.chunks(PIECE).map(|piece| piece.iter().flat_map(|v| to_half(*v).to_le_bytes()).collect());
        self.initializer(name, DataType::Float16 as i32, shape, 2 * values.len(), pieces)
    }

    /// Adds a constant of 8-bit integers.
    pub fn int8s(&mut self, name: &str, shape: &[usize], values: &[i8]) -> Value {
        let pieces = values.chunks(PIECE).map(|piece| piece.iter().map(|v| v.cast_unsigned()).collect());
        self.initializer(name, DataType::Int8 as i32, shape, values.len(), pieces)
    }

    /// Adds a constant of integers between -8 and 7, two per byte. The file then uses a newer operator set.
    pub fn int4s(&mut self, name: &str, shape: &[usize], values: &[i8]) -> Value {
        self.has_int4 = true;
        let byte = |pair: &[i8]| match pair {
            [low, high] => low.cast_unsigned() & 15 | high.cast_unsigned() << 4,
            rest => rest.first().map_or(0, |low| low.cast_unsigned() & 15),
        };
        let pieces = values.chunks(PIECE).map(|piece| piece.chunks(2).map(byte).collect());
        self.initializer(name, INT4, shape, values.len().div_ceil(2), pieces)
    }

    /// Adds a constant list of 64-bit integers, such as a shape, axes, or bounds.
    pub fn list(&mut self, name: &str, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, DataType::Int64 as i32, &[values.len()], 8 * values.len(), [bytes])
    }

    /// Adds a constant scalar.
    pub fn scalar(&mut self, name: &str, value: f32) -> Value {
        self.floats(name, &[], &[value])
    }

    /// Adds a constant, unless there is one called `name` already: constants are shared by name.
    fn initializer(
        &mut self,
        name: &str,
        data_type: i32,
        shape: &[usize],
        len: usize,
        pieces: impl IntoIterator<Item = Vec<u8>>,
    ) -> Value {
        if !self.proto.initializer.iter().any(|tensor| tensor.name == name) {
            self.proto.initializer.push(pb::TensorProto {
                name: name.to_owned(),
                data_type,
                dims: shape.iter().map(|n| *n as i64).collect(),
                ..Default::default()
            });
            self.data.push(self.spool.add(len, pieces));
        }
        Value(name.to_owned())
    }

    /// Finishes the ONNX file.
    ///
    /// # Errors
    /// Weights could not be written to the scratch folder, or the file would be larger than the format allows.
    pub fn finish(mut self) -> io::Result<OnnxFile> {
        let tensors = std::mem::take(&mut self.proto.initializer);
        let (input, output) = (std::mem::take(&mut self.proto.input), std::mem::take(&mut self.proto.output));
        // Fields are written in the order of their numbers, as in all protobuf writers.
        let mut parts = vec![Data::Bytes(self.proto.encode_to_vec())];
        let mut floats = BTreeMap::new();
        for (tensor, data) in tensors.into_iter().zip(self.data) {
            let mut body = tensor.encode_to_vec();
            if data.len() > 0 {
                put_length(&mut body, RAW_DATA, data.len());
            }
            let mut head = Vec::new();
            put_length(&mut head, INITIALIZER, body.len() as u64 + data.len());
            head.extend(body);
            parts.extend([Data::Bytes(head), data]);
            if tensor.data_type == DataType::Float as i32 {
                // The head of the file is put before all parts.
                floats.insert(tensor.name, parts.len());
            }
        }
        parts.push(Data::Bytes(pb::GraphProto { input, output, ..Default::default() }.encode_to_vec()));
        let (version, ir_version) = if self.has_int4 { (OPSET_INT4, IR_VERSION_INT4) } else { (OPSET, IR_VERSION) };
        let model = pb::ModelProto { ir_version, producer_name: "model-prep".into(), ..Default::default() };
        let opset_import = vec![pb::OperatorSetIdProto { domain: String::new(), version }];
        let mut head = model.encode_to_vec();
        put_length(&mut head, GRAPH, parts.iter().map(Data::len).sum());
        parts.insert(0, Data::Bytes(head));
        parts.push(Data::Bytes(pb::ModelProto { opset_import, ..Default::default() }.encode_to_vec()));
        let mut file = self.spool.finish(parts)?;
        file.floats = floats;
        Ok(file)
    }
}

impl OnnxFile {
    /// The values of the constant of floats called `name`; `None` if the graph that was written has none.
    pub(crate) fn floats(&self, name: &str) -> io::Result<Option<Vec<f32>>> {
        let Some(part) = self.floats.get(name) else { return Ok(None) };
        Ok(Some(self.part(*part)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

/// Appends the key and length of field `number`, whose bytes follow.
fn put_length(out: &mut Vec<u8>, number: u32, len: u64) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(len, out);
}

fn attribute(name: &str, value: Attribute<'_>) -> pb::AttributeProto {
    let mut proto = pb::AttributeProto { name: name.to_owned(), ..Default::default() };
    let kind = match value {
        Attribute::Int(i) => {
            proto.i = i;
            AttributeType::Int
        }
        Attribute::Float(f) => {
            proto.f = f;
            AttributeType::Float
        }
        Attribute::Ints(ints) => {
            proto.ints = ints.to_vec();
            AttributeType::Ints
        }
    };
    proto.r#type = kind.into();
    proto
}

/// Name, type and shape of an input or output.
pub(crate) fn value_info(spec: &TensorSpec) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = spec.shape.iter().map(|dim| {
        let value = match dim {
            Dim::Fixed(n) => Value::DimValue(*n as i64),
            Dim::Named(name) => Value::DimParam(name.clone()),
        };
        Dimension { value: Some(value), ..Default::default() }
    });
    let elem_type = match spec.dtype {
        Dtype::F32 => DataType::Float,
        Dtype::I64 => DataType::Int64,
    };
    let tensor = pb::type_proto::Tensor {
        elem_type: elem_type.into(),
        shape: Some(pb::TensorShapeProto { dim: dim.collect() }),
    };
    pb::ValueInfoProto {
        name: spec.name.clone(),
        r#type: Some(pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
