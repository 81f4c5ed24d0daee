//! Small changes of a graph that change no value.

use tract_onnx::pb;

/// Calls the value `from` `to`, wherever it is made or used.
pub(super) fn value(graph: &mut pb::GraphProto, from: &str, to: &str) {
    if from == to {
        return;
    }
    let names = graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    let names = names.chain(graph.initializer.iter_mut().map(|tensor| &mut tensor.name));
    names.filter(|name| *name == from).for_each(|name| *name = to.to_owned());
}

/// `Constant` nodes with a tensor become initializers.
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
