//! Small edits of an ONNX graph.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

/// Renames the value `from` to `to`, wherever it is produced or used.
pub(super) fn rename_value(graph: &mut pb::GraphProto, from: &str, to: &str) {
    if from == to {
        return;
    }
    let names = graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    let names = names.chain(graph.initializer.iter_mut().map(|tensor| &mut tensor.name));
    names.filter(|name| *name == from).for_each(|name| *name = to.to_owned());
}

/// Turns `Constant` nodes with a tensor into initializers.
pub(super) fn constants_to_initializers(graph: &mut pb::GraphProto) {
    for mut node in std::mem::take(&mut graph.node) {
        let tensor = match (node.op_type.as_str(), &mut node.attribute[..]) {
            ("Constant", [attribute]) => attribute.t.take(),
            _ => None,
        };
        match (tensor, node.output.first()) {
            (Some(tensor), Some(name)) => graph.initializer.push(pb::TensorProto { name: name.clone(), ..tensor }),
            _ => graph.node.push(node),
        }
    }
}

/// A constant from little-endian bytes.
pub(super) fn initializer(name: &str, kind: DataType, shape: &[usize], raw_data: Vec<u8>) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        data_type: kind.into(),
        dims: shape.iter().map(|n| *n as i64).collect(),
        raw_data,
        ..Default::default()
    }
}
