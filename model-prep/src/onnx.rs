//! The smallest ONNX graph writer that suffices: nodes, weights, inputs and outputs, in the order they are added.
//!
//! The same calls give the same bytes.

use prost::Message as _;
use spotter_engine::bundle::{Dim, Dtype, TensorSpec};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// Operator set of the graphs: the newest that tract is tested with; layer norm is an operator since 17.
const OPSET: i64 = 18;

/// Version of the file format that came with operator set 18.
const IR_VERSION: i64 = 8;

/// A value of the graph, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// The value of an input or node by that name.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Its name in the graph.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Value of a node's attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attribute<'a> {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Whole numbers.
    Ints(&'a [i64]),
}

/// A graph as it grows.
#[derive(Debug, Default)]
pub struct Graph(pb::GraphProto);

impl Graph {
    /// An empty graph; `name` is for people.
    pub fn new(name: &str) -> Self {
        Self(pb::GraphProto { name: name.to_owned(), ..Default::default() })
    }

    /// Declares an input.
    pub fn input(&mut self, spec: &TensorSpec) -> Value {
        self.0.input.push(value_info(spec));
        Value(spec.name.clone())
    }

    /// Declares the node called `spec.name` an output.
    pub fn output(&mut self, spec: &TensorSpec) {
        self.0.output.push(value_info(spec));
    }

    /// Adds a node with one output, which has the node's name.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&Value], attributes: &[(&str, Attribute<'_>)]) -> Value {
        self.0.node.push(pb::NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(|(name, value)| attribute(name, *value)).collect(),
            ..Default::default()
        });
        Value(name.to_owned())
    }

    /// Adds 32-bit floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, DataType::Float, shape, bytes)
    }

    /// Adds 8-bit integers.
    pub fn int8s(&mut self, name: &str, shape: &[usize], values: &[i8]) -> Value {
        let bytes = values.iter().map(|v| v.to_le_bytes()[0]).collect();
        self.initializer(name, DataType::Int8, shape, bytes)
    }

    /// Adds a list of 64-bit integers: a shape, axes, or bounds.
    pub fn list(&mut self, name: &str, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, DataType::Int64, &[values.len()], bytes)
    }

    /// Adds a float without axes.
    pub fn scalar(&mut self, name: &str, value: f32) -> Value {
        self.floats(name, &[], &[value])
    }

    /// A name that is there already stands for the value it has: constants are shared by using one name.
    fn initializer(&mut self, name: &str, data_type: DataType, shape: &[usize], raw_data: Vec<u8>) -> Value {
        if !self.0.initializer.iter().any(|tensor| tensor.name == name) {
            self.0.initializer.push(pb::TensorProto {
                name: name.to_owned(),
                data_type: data_type.into(),
                dims: shape.iter().map(|n| *n as i64).collect(),
                raw_data,
                ..Default::default()
            });
        }
        Value(name.to_owned())
    }

    /// The bytes of the ONNX file.
    pub fn encode(self) -> Vec<u8> {
        pb::ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "model-prep".into(),
            graph: Some(self.0),
            ..Default::default()
        }
        .encode_to_vec()
    }
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

fn value_info(spec: &TensorSpec) -> pb::ValueInfoProto {
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
