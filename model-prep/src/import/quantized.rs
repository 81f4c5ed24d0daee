//! Quantises the weights of any graph to 8 bits: linear layers, convolutions and large embedding tables.
//!
//! Rounding the few weights of a depthwise convolution can move its results by some amount on average, which all that
//! follows then reads. Where the plan has the means of what convolutions read, their biases take that amount back (bias
//! correction, arXiv 1906.04721).

use std::collections::{BTreeSet, HashMap};

use spotter_engine::bundle::{LayerKind, Weights};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

use super::graph::initializer;
use crate::half::{fits_half, to_half};
use crate::plan::{ChannelMeans, Layer, Plan};
use crate::quantize::{Quantized, quantize, transpose};

/// Tables with fewer rows stay in float: position and token type embeddings.
const TABLE_ROWS_MIN: usize = 1000;

/// Weights with fewer values stay in float, since they save little.
const WEIGHT_VALUES_MIN: usize = 256;

/// Share of the weights of convolutions, and size of each, of those that stay 16-bit floats.
const SMALL_SHARE: f64 = 0.01;
const SMALL_VALUES_MAX: i64 = 8192;

/// The role of a constant in the nodes that use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A weight with its output channels along this axis.
    Channels(usize),
    /// The table of a `Gather`.
    Table,
    /// Another role, or several.
    Other,
}

/// Quantises all weights that the plan stores as integers and that have a known role, with one scale per output channel
/// or table row. Returns the layers.
pub(super) fn quantize_weights(graph: &mut pb::GraphProto, plan: &Plan) -> Vec<Layer> {
    let mut roles: HashMap<String, Role> = HashMap::new();
    for node in &graph.node {
        for (index, name) in node.input.iter().enumerate() {
            let role = role(node, index);
            roles
                .entry(name.clone())
                .and_modify(|known| *known = if *known == role { role } else { Role::Other })
                .or_insert(role);
        }
    }
    let small = small_convolutions(graph, &roles);
    let (mut before, mut layers, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for tensor in std::mem::take(&mut graph.initializer) {
        let role = roles.get(&tensor.name).copied().unwrap_or(Role::Other);
        let Some((kind, width)) = layer(&tensor, role) else {
            graph.initializer.push(tensor);
            continue;
        };
        let count = tensor.dims.iter().product::<i64>();
        let (name, weights) = (tensor.name.clone(), usize::try_from(count).unwrap_or(0));
        let values = floats(&tensor).filter(|_| plan.of(&name) != Weights::F32);
        let fine = is_depthwise(&tensor, role) || small.contains(&name);
        if let Some(values) = values.as_ref().filter(|values| fine && fits_half(values)) {
            halves(&tensor, values, graph, &mut before);
            layers.push(Layer { unit: name.clone(), name, kind, stored: Weights::F16, weights, width });
            continue;
        }
        let done = values.map(|values| match role {
            Role::Channels(axis) => {
                let quantized = channels(&tensor, &values, axis, graph, &mut before);
                if let ([_, _, _, _], Some(means)) = (&tensor.dims[..], &plan.means) {
                    losses.extend(loss(graph, &tensor, &values, &quantized, means));
                }
            }
            Role::Table | Role::Other => table(&tensor, &values, graph),
        });
        let stored = if done.is_some() { Weights::Int8 } else { Weights::F32 };
        layers.push(Layer { unit: name.clone(), name, kind, stored, weights, width });
        if done.is_none() {
            graph.initializer.push(tensor);
        }
    }
    for (name, lost) in losses {
        correct_bias(graph, &name, lost);
    }
    graph.node.splice(0..0, before);
    layers
}

/// Kind of layer, and number of values that share a scale; `None` for constants that always stay in float.
fn layer(tensor: &pb::TensorProto, role: Role) -> Option<(LayerKind, usize)> {
    let dims = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0));
    let dims = dims.collect::<Option<Vec<_>>>()?;
    let count = dims.iter().try_fold(1_usize, |n, dim| n.checked_mul(*dim))?;
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    match (role, &dims[..]) {
        (Role::Channels(0), [outputs, _, _, _]) => Some((LayerKind::PatchEmbedding, count / outputs)),
        (Role::Channels(axis), [_, _]) if count >= WEIGHT_VALUES_MIN => Some((LayerKind::Linear, count / dims[axis])),
        (Role::Table, [rows, width]) if *rows >= TABLE_ROWS_MIN => Some((LayerKind::Embedding, *width)),
        _ => None,
    }
}

fn role(node: &pb::NodeProto, input: usize) -> Role {
    let int = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.i);
    match (node.op_type.as_str(), input) {
        ("MatMul", 1) => Role::Channels(1),
        ("Gemm", 1) => Role::Channels(usize::from(int("transB").unwrap_or(0) == 0)),
        ("Conv", 1) => Role::Channels(0),
        ("Gather", 0) if int("axis").unwrap_or(0) == 0 => Role::Table,
        _ => Role::Other,
    }
}

/// True for the weights of a depthwise convolution: few, of which rounding moves the results most, and which the engine
/// computes as floats in any case.
fn is_depthwise(tensor: &pb::TensorProto, role: Role) -> bool {
    role == Role::Channels(0)
        && matches!(tensor.dims[..], [outputs, 1, height, width] if outputs > 1 && height * width > 1)
}

/// The smallest convolutions of a tower of them: the first ones, on whose results all others depend, and which take more
/// time for the pixels than for the products. Together they have at most [`SMALL_SHARE`] of the weights.
fn small_convolutions(graph: &pb::GraphProto, roles: &HashMap<String, Role>) -> BTreeSet<String> {
    let of_convolution =
        |tensor: &&pb::TensorProto| tensor.dims.len() == 4 && roles.get(&tensor.name) == Some(&Role::Channels(0));
    let count = |tensor: &pb::TensorProto| tensor.dims.iter().product::<i64>();
    let mut all: Vec<(i64, &str)> =
        graph.initializer.iter().filter(of_convolution).map(|tensor| (count(tensor), tensor.name.as_str())).collect();
    all.sort_unstable();
    let mut left = (all.iter().map(|(count, _)| *count as f64).sum::<f64>() * SMALL_SHARE) as i64;
    let mut fits = |(count, _): &&(i64, &str)| {
        left -= count;
        left >= 0 && *count <= SMALL_VALUES_MAX
    };
    // A transformer has one convolution, of patches.
    if all.len() == 1 {
        BTreeSet::new()
    } else {
        all.iter().take_while(|one| fits(one)).map(|(_, name)| (*name).to_owned()).collect()
    }
}

/// Stores a weight as 16-bit floats; a `Cast` node restores it.
fn halves(tensor: &pb::TensorProto, values: &[f32], graph: &mut pb::GraphProto, nodes: &mut Vec<pb::NodeProto>) {
    let name = format!("{}.half", tensor.name);
    let bytes = values.iter().flat_map(|value| to_half(*value).to_le_bytes()).collect();
    let dims: Vec<usize> = tensor.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    graph.initializer.push(initializer(&name, DataType::Float16, &dims, bytes));
    nodes.push(node("Cast", &[&name], &tensor.name, vec![int("to", DataType::Float as i64)]));
}

/// An attribute of an integer.
fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), i: value, r#type: AttributeType::Int.into(), ..Default::default() }
}

/// The values of a float constant, in either encoding; `None` if it is invalid.
fn floats(tensor: &pb::TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    let count = tensor.dims.iter().try_fold(1_usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?))?;
    let values: Vec<f32> = if tensor.raw_data.is_empty() {
        tensor.float_data.clone()
    } else {
        tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    (values.len() == count && values.iter().all(|v| v.is_finite())).then_some(values)
}

/// What the results of the convolution with this weight lose on average when its values are quantised, with the name of the
/// weight; `None` if no convolution, or several, have it, or nothing is known of what it reads.
fn loss(
    graph: &pb::GraphProto,
    weight: &pb::TensorProto,
    values: &[f32],
    quantized: &Quantized,
    means: &ChannelMeans,
) -> Option<(String, Vec<f32>)> {
    let mut nodes = graph.node.iter().filter(|node| node.input.get(1) == Some(&weight.name));
    let (Some(node), None) = (nodes.next(), nodes.next()) else { return None };
    let [outputs, inputs] = [0, 1].map(|axis: usize| usize::try_from(weight.dims[axis]).unwrap_or(0));
    let means = means.get(node.output.first()?)?;
    // A depthwise convolution reads one channel for each result.
    let depthwise = inputs == 1 && means.len() == outputs;
    if outputs == 0 || inputs == 0 || !(depthwise || means.len() == inputs) {
        return None;
    }
    let pixels = values.len() / (outputs * inputs);
    let mut lost = vec![0.0_f32; outputs];
    for (index, (value, byte)) in values.iter().zip(&quantized.values).enumerate() {
        let output = index / (inputs * pixels);
        let channel = if depthwise { output } else { index / pixels % inputs };
        lost[output] += (value - f32::from(*byte) * quantized.scales[output]) * means[channel];
    }
    Some((weight.name.clone(), lost))
}

/// Adds `lost` to the bias of the convolution with the weight called `weight`.
fn correct_bias(graph: &mut pb::GraphProto, weight: &str, lost: Vec<f32>) {
    let reads = |node: &pb::NodeProto| node.input.get(1).is_some_and(|name| name == weight);
    let Some(at) = graph.node.iter().position(reads) else { return };
    let old = graph.node[at].input.get(2).filter(|name| !name.is_empty()).cloned();
    let bias = match &old {
        None => lost,
        Some(name) => {
            let tensor = graph.initializer.iter().find(|tensor| tensor.name == *name);
            let Some(bias) = tensor.and_then(floats).filter(|bias| bias.len() == lost.len()) else { return };
            bias.iter().zip(lost).map(|(bias, lost)| bias + lost).collect()
        }
    };
    // A tensor of its own, since another node may read the old one, which is dropped if none does.
    let name = format!("{weight}.bias");
    graph.node[at].input.resize(3, String::new());
    graph.node[at].input[2].clone_from(&name);
    push_scales(graph, &name, &[bias.len()], &bias);
    if let Some(old) = old
        && !graph.node.iter().any(|node| node.input.contains(&old))
    {
        graph.initializer.retain(|tensor| tensor.name != old);
    }
}

/// Quantises a weight; a `DequantizeLinear` node restores it. Returns what it restores, in the order of the weight.
fn channels(
    tensor: &pb::TensorProto,
    values: &[f32],
    axis: usize,
    graph: &mut pb::GraphProto,
    nodes: &mut Vec<pb::NodeProto>,
) -> Quantized {
    let dims: Vec<usize> = tensor.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    let outputs = dims[axis];
    let quantized = if axis == 0 {
        quantize(values, values.len() / outputs)
    } else {
        let inputs = values.len() / outputs;
        let quantized = quantize(&transpose(values, outputs), inputs);
        Quantized { values: transpose(&quantized.values, inputs), ..quantized }
    };
    let (name, scale) = (format!("{}.int8", tensor.name), format!("{}.scale", tensor.name));
    push_int8(graph, &name, &dims, &quantized.values);
    push_scales(graph, &scale, &[outputs], &quantized.scales);
    nodes.push(node("DequantizeLinear", &[&name, &scale], &tensor.name, vec![int("axis", axis as i64)]));
    quantized
}

/// Quantises a table. Integers and scales are looked up and then multiplied, so the table is never dequantised as a
/// whole.
fn table(tensor: &pb::TensorProto, values: &[f32], graph: &mut pb::GraphProto) {
    let width = tensor.dims.last().and_then(|width| usize::try_from(*width).ok()).unwrap_or(1);
    let rows = values.len() / width;
    let quantized = quantize(values, width);
    let (name, scale) = (format!("{}.int8", tensor.name), format!("{}.scale", tensor.name));
    push_int8(graph, &name, &[rows, width], &quantized.values);
    push_scales(graph, &scale, &[rows, 1], &quantized.scales);
    for old in std::mem::take(&mut graph.node) {
        let (Some(ids), Some(out)) = (old.input.get(1), old.output.first()) else {
            graph.node.push(old);
            continue;
        };
        if old.op_type != "Gather" || old.input[0] != tensor.name {
            graph.node.push(old);
            continue;
        }
        let named = |part: &str| format!("{out}.{part}");
        let new = [
            node("Gather", &[&name, ids], &named("int8"), vec![]),
            node("Cast", &[&named("int8")], &named("float"), vec![int("to", DataType::Float as i64)]),
            node("Gather", &[&scale, ids], &named("scale"), vec![]),
            node("Mul", &[&named("float"), &named("scale")], out, vec![]),
        ];
        graph.node.extend(new);
    }
}

fn push_int8(graph: &mut pb::GraphProto, name: &str, shape: &[usize], values: &[i8]) {
    let bytes = values.iter().map(|v| v.to_le_bytes()[0]).collect();
    graph.initializer.push(initializer(name, DataType::Int8, shape, bytes));
}

fn push_scales(graph: &mut pb::GraphProto, name: &str, shape: &[usize], values: &[f32]) {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    graph.initializer.push(initializer(name, DataType::Float, shape, bytes));
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<pb::AttributeProto>) -> pb::NodeProto {
    pb::NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        attribute,
        ..Default::default()
    }
}
