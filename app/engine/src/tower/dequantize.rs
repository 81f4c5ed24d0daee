//! Converts 4-bit weights to floats for tract, which has no 4-bit integers.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use crate::fused::int4_at;
use crate::onnx::INT4;

/// Replaces every `DequantizeLinear` of 4-bit integers by float weights, which take the memory of float weights.
///
/// # Errors
/// A message, if such a node does not have the inputs and shapes that ONNX requires.
pub(super) fn expand(graph: &mut pb::GraphProto) -> Result<(), String> {
    let places: HashMap<String, usize> =
        graph.initializer.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
    let dequantized = || graph.node.iter().filter(|node| node.op_type == "DequantizeLinear");
    let read: HashSet<&String> = dequantized().filter_map(|node| node.input.get(1)).collect();
    let scales_of: HashMap<String, Vec<f32>> = dequantized()
        .filter(|node| node.output.first().is_some_and(|output| read.contains(output)))
        .filter_map(|node| Some((node.output.first()?.clone(), multiples(graph, &places, node)?)))
        .collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        let packed = node.input.first().and_then(|name| places.get(name));
        let packed = packed.map(|place| &graph.initializer[*place]).filter(|tensor| tensor.data_type == INT4);
        let (true, Some(packed)) = (node.op_type == "DequantizeLinear", packed) else {
            kept.push(node);
            continue;
        };
        let wrong = |why: &str| format!("DequantizeLinear {}: {why}", node.name);
        let scales = node.input.get(1).and_then(|name| match places.get(name) {
            Some(place) => Some(constant(&graph.initializer[*place])),
            None => scales_of.get(name).cloned(),
        });
        let (Some(scales), [name]) = (scales, &node.output[..]) else {
            return Err(wrong("constant scales and one output are needed"));
        };
        if node.input.len() > 2 {
            return Err(wrong("zero points are not supported"));
        }
        let values =
            floats(packed, &scales, &node).ok_or_else(|| wrong("shapes, scales and block_size do not agree"))?;
        let raw_data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let (name, dims) = (name.clone(), packed.dims.clone());
        let data_type = DataType::Float.into();
        graph.initializer.push(pb::TensorProto { name, dims, data_type, raw_data, ..Default::default() });
    }
    graph.node = kept;
    // Their scales may stay; the 4-bit integers must go, since tract cannot read them.
    graph.initializer.retain(|tensor| tensor.data_type != INT4);
    Ok(())
}

/// The values of a constant of floats.
fn constant(tensor: &pb::TensorProto) -> Vec<f32> {
    match &tensor.float_data[..] {
        [] => tensor.raw_data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        values => values.to_vec(),
    }
}

/// Scales that are signed bytes times one unit for each row or column; `None` if the node gives something else.
fn multiples(graph: &pb::GraphProto, places: &HashMap<String, usize>, node: &pb::NodeProto) -> Option<Vec<f32>> {
    let [values, units] = &node.input[..] else { return None };
    let [values, units] = [values, units].map(|name| places.get(name).map(|place| &graph.initializer[*place]));
    let (values, units) = (values?, constant(units?));
    let [rows, columns] = &values.dims[..] else { return None };
    let [rows, columns] = [rows, columns].map(|extent| usize::try_from(*extent).unwrap_or(0));
    let axis = node.attribute.iter().find(|attribute| attribute.name == "axis").map_or(1, |attribute| attribute.i);
    let count = rows.checked_mul(columns)?;
    let right = values.data_type == DataType::Int8 as i32 && values.raw_data.len() == count;
    if !right || units.len() != if axis == 0 { rows } else { columns } {
        return None;
    }
    let unit = |index: usize| if axis == 0 { units[index / columns] } else { units[index % columns] };
    let bytes = values.raw_data.iter().enumerate();
    Some(bytes.map(|(index, byte)| f32::from(byte.cast_signed()) * unit(index)).collect())
}

/// The product of integers and scales; `None` if their shapes do not agree.
fn floats(packed: &pb::TensorProto, scales: &[f32], node: &pb::NodeProto) -> Option<Vec<f32>> {
    let int = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i);
    let dims = packed.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>()?;
    let axis = int("axis").unwrap_or(1);
    let axis = usize::try_from(if axis < 0 { axis + packed.dims.len() as i64 } else { axis }).ok()?;
    let group = usize::try_from(int("block_size")?).ok().filter(|group| *group > 0)?;
    let extent = *dims.get(axis)?;
    let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim))?;
    let inner = dims[axis + 1..].iter().try_fold(1_usize, |inner, dim| inner.checked_mul(*dim))?;
    let groups = extent.div_ceil(group);
    let per_group = count.checked_div(extent).unwrap_or(0) * groups;
    if packed.raw_data.len() != count.div_ceil(2) || scales.len() != per_group {
        return None;
    }
    let float = |index: usize| {
        let (along, outer) = (index / inner % extent, index / inner / extent);
        let scale = scales[(outer * groups + along / group) * inner + index % inner];
        f32::from(int4_at(&packed.raw_data, index)) * scale
    };
    Some((0..count).map(float).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> pb::TensorProto {
        pb::TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data, ..Default::default() }
    }

    /// A graph of one node: integers 0 to 7 and -8 to -1 of shape [4, 4] in groups of two along `axis`.
    fn graph(axis: i64, scales: &[f32], dims: &[i64]) -> pb::GraphProto {
        let int = |name: &str, i| pb::AttributeProto { name: name.into(), i, ..Default::default() };
        let packed = (0..8_u8).map(|pair| (2 * pair) | (2 * pair + 1) << 4).collect();
        pb::GraphProto {
            node: vec![pb::NodeProto {
                op_type: "DequantizeLinear".into(),
                name: "w".into(),
                input: vec!["w.int4".into(), "w.scale".into()],
                output: vec!["w".into()],
                attribute: vec![int("axis", axis), int("block_size", 2)],
                ..Default::default()
            }],
            initializer: vec![
                tensor("w.int4", INT4, &[4, 4], packed),
                tensor("w.scale", 1, dims, scales.iter().flat_map(|v| v.to_le_bytes()).collect()),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn groups_become_floats() {
        let check = |axis: i64, dims: &[i64], expected: [f32; 16]| {
            let mut graph = graph(axis, &[1.0, 10.0, 100.0, 1000.0, 0.5, 5.0, 50.0, 500.0], dims);
            expand(&mut graph).unwrap();
            assert!(graph.node.is_empty() && graph.initializer.iter().all(|tensor| tensor.data_type != INT4));
            let made = graph.initializer.iter().find(|tensor| tensor.name == "w").unwrap();
            let found: Vec<f32> = made.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            assert_eq!((&made.dims[..], &found[..]), (&[4, 4][..], &expected[..]), "axis {axis}");
        };
        let columns = [
            0.0, 10.0, 200.0, 3000.0, 4.0, 50.0, 600.0, 7000.0, -4.0, -35.0, -300.0, -2500.0, -2.0, -15.0, -100.0,
            -500.0,
        ];
        check(0, &[2, 4], columns);
        let rows = [
            0.0, 1.0, 20.0, 30.0, 400.0, 500.0, 6000.0, 7000.0, -4.0, -3.5, -30.0, -25.0, -200.0, -150.0, -1000.0,
            -500.0,
        ];
        check(1, &[4, 2], rows);
        check(-1, &[4, 2], rows);
    }

    #[test]
    fn scales_may_be_multiples_of_a_unit() {
        let check = |axis: i64, units: &[f32]| {
            let multiples: [i8; 8] = [1, 2, 3, 4, 5, 6, 7, 15];
            let unit = |index: usize| if axis == 0 { units[index / 4] } else { units[index % 4] };
            let scales: Vec<f32> = (0..8).map(|index| f32::from(multiples[index]) * unit(index)).collect();
            let (mut plain, mut made) = (graph(0, &scales, &[2, 4]), graph(0, &scales, &[2, 4]));
            made.initializer.pop();
            made.initializer.extend([
                tensor("multiples", DataType::Int8 as i32, &[2, 4], multiples.map(i8::cast_unsigned).to_vec()),
                tensor("units", 1, &[units.len() as i64], units.iter().flat_map(|v| v.to_le_bytes()).collect()),
            ]);
            let scale = pb::NodeProto {
                op_type: "DequantizeLinear".into(),
                input: vec!["multiples".into(), "units".into()],
                output: vec!["w.scale".into()],
                attribute: vec![pb::AttributeProto { name: "axis".into(), i: axis, ..Default::default() }],
                ..Default::default()
            };
            made.node.insert(0, scale);
            let weights = |graph: &mut pb::GraphProto| {
                expand(graph).unwrap();
                graph.initializer.iter().find(|tensor| tensor.name == "w").unwrap().clone()
            };
            assert_eq!(weights(&mut made), weights(&mut plain), "axis {axis}");
        };
        check(0, &[0.5, 3.0]);
        check(1, &[0.5, 3.0, 1.0, 0.25]);
    }

    #[test]
    fn inconsistent_shapes_are_errors() {
        let check = |change: &dyn Fn(&mut pb::GraphProto), expected: &str| {
            let mut graph = graph(0, &[1.0; 8], &[2, 4]);
            change(&mut graph);
            let error = expand(&mut graph).unwrap_err();
            assert!(error.contains("DequantizeLinear w") && error.contains(expected), "{error}");
        };
        check(&|graph| graph.initializer[1].raw_data.truncate(28), "do not agree");
        check(&|graph| graph.initializer[0].raw_data.truncate(7), "do not agree");
        check(&|graph| graph.initializer[0].dims[0] = -4, "do not agree");
        check(&|graph| graph.initializer[0].dims = vec![i64::MAX; 3], "do not agree");
        check(&|graph| graph.node[0].attribute[0].i = 2, "do not agree");
        check(&|graph| graph.node[0].attribute[1].i = 0, "do not agree");
        check(&|graph| drop(graph.initializer.pop()), "constant scales");
        check(&|graph| graph.node[0].input.push("zero".into()), "zero points");
    }
}
