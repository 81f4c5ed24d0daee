use std::io::Cursor;

use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::{NODES_MAX, OnnxFile, SMALL_BYTES, from_half};

fn tensor(name: &str, data_type: DataType, dims: &[i64], raw_data: Vec<u8>) -> pb::TensorProto {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    pb::TensorProto { name, data_type: data_type.into(), dims, raw_data, ..Default::default() }
}

fn example() -> Vec<u8> {
    let large = 2 * SMALL_BYTES as usize;
    let node = pb::NodeProto { op_type: "Identity".into(), output: vec!["y".into()], ..Default::default() };
    let graph = pb::GraphProto {
        node: vec![node],
        initializer: vec![
            tensor("small", DataType::Float, &[2], [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
            tensor("large", DataType::Int8, &[2, large as i64 / 2], (0..large).map(|i| i as u8).collect()),
            tensor("short", DataType::Int8, &[3], vec![1, 2]),
            tensor("list", DataType::Int64, &[1], 7i64.to_le_bytes().to_vec()),
        ],
        ..Default::default()
    };
    pb::ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() }.encode_to_vec()
}

fn open(bytes: &[u8]) -> std::io::Result<OnnxFile<'_>> {
    OnnxFile::read(Box::new(Cursor::new(bytes)))
}

#[test]
fn constants_are_read_on_demand() {
    let bytes = example();
    let mut file = open(&bytes).unwrap();
    assert_eq!(file.graph.node[0].op_type, "Identity");
    let [small, large, short, list] = &file.graph.initializer.clone()[..] else { panic!("four constants") };
    assert!(large.raw_data.is_empty(), "the data of a large constant stays in the file");
    assert_eq!(file.floats(small).unwrap(), [1.5, -2.0]);
    assert_eq!(file.ints(list).unwrap(), [7]);
    let mut values = Vec::new();
    file.int8s(large, &mut values).unwrap();
    assert!(values.iter().enumerate().all(|(i, v)| *v == i as u8) && values.len() == 2 * SMALL_BYTES as usize);
    assert!(file.int8s(short, &mut values).is_err(), "fewer values than the shape says");
    assert!(file.floats(large).is_err(), "another type");
}

#[test]
fn graphs_that_are_too_large_are_refused() {
    let check = |nodes: usize, constants: usize, expected: Option<&str>| {
        let node = pb::NodeProto { op_type: "Identity".into(), ..Default::default() };
        let constant = tensor("c", DataType::Float, &[0], Vec::new());
        let graph =
            pb::GraphProto { node: vec![node; nodes], initializer: vec![constant; constants], ..Default::default() };
        let bytes = pb::ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() }.encode_to_vec();
        let found = open(&bytes).err().map(|error| error.to_string());
        let is_right = found.is_some() == expected.is_some();
        let says = expected.is_none_or(|part| found.as_ref().is_some_and(|found| found.contains(part)));
        assert!(is_right && says, "{nodes} nodes, {constants} constants: {found:?}");
    };
    check(NODES_MAX, NODES_MAX, None);
    check(NODES_MAX + 1, 0, Some("more than 16384 nodes"));
    check(100_000, 0, Some("more than 16384 nodes"));
    check(0, NODES_MAX + 2, Some("more than 16384 constants"));
}

#[test]
fn floats_of_16_bits() {
    for (bits, expected) in [
        (0, 0.0),
        (0x3c00, 1.0),
        (0xc100, -2.5),
        (0x3555, 0.333_251_95),
        (0x7bff, 65_504.0),
        (0x0400, 2.0f32.powi(-14)),
        (0x83ff, -1023.0 * 2.0f32.powi(-24)),
        (0x0001, 2.0f32.powi(-24)),
        (0xfc00, f32::NEG_INFINITY),
    ] {
        assert_eq!(from_half(bits), expected, "{bits:x}");
    }
    assert_eq!(from_half(0x8000).to_bits(), (-0.0f32).to_bits());
    assert!(from_half(0x7e00).is_nan());
}

#[test]
fn damaged_files_are_errors_and_not_panics() {
    let bytes = example();
    for len in (0..bytes.len()).step_by(61).chain(bytes.len() - 40..bytes.len()) {
        // A file that ends between two fields is valid.
        if let Ok(mut file) = open(&bytes[..len]) {
            for tensor in file.graph.initializer.clone() {
                let _ = file.int8s(&tensor, &mut Vec::new());
            }
        }
    }
    for position in (0..bytes.len().min(300)).chain(bytes.len() - 300..bytes.len()) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            if let Ok(mut file) = open(&damaged) {
                for tensor in file.graph.initializer.clone() {
                    let _ = (file.floats(&tensor), file.ints(&tensor), file.int8s(&tensor, &mut Vec::new()));
                }
            }
        }
    }
}
