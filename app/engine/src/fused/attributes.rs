//! Access to inputs and attributes of a node.

use tract_onnx::pb;

use super::unsupported::{Lowered, unsupported};

pub(super) fn input(node: &pb::NodeProto, index: usize) -> Lowered<&String> {
    node.input.get(index).map_or_else(|| unsupported(format!("input {index} is missing")), Ok)
}

fn attribute<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a pb::AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

pub(super) fn int(node: &pb::NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

pub(super) fn ints<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a [i64]> {
    attribute(node, name).map(|attribute| &attribute.ints[..])
}

pub(super) fn float(node: &pb::NodeProto, name: &str, absent: f32) -> f32 {
    attribute(node, name).map_or(absent, |attribute| attribute.f)
}

pub(super) fn text<'a>(node: &'a pb::NodeProto, name: &str) -> Option<&'a str> {
    attribute(node, name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
}
