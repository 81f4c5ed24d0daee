//! Loads constants that are stored in files next to the ONNX file.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use spotter_engine::files;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

use super::error::ImportError;

/// Loads the data of all constants that are stored outside of the file `onnx`.
pub(super) fn load(graph: &mut pb::GraphProto, onnx: &Path) -> Result<(), ImportError> {
    for tensor in &mut graph.initializer {
        if tensor.data_location == Some(DataLocation::External as i32) {
            load_tensor(tensor, onnx)?;
        }
    }
    Ok(())
}

fn load_tensor(tensor: &mut pb::TensorProto, onnx: &Path) -> Result<(), ImportError> {
    let wrong = |expected: &str, found: String| ImportError::Graph {
        path: onnx.to_owned(),
        what: format!("constant {}", tensor.name),
        expected: expected.to_owned(),
        found,
    };
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| wrong("a whole number", format!("{key} {text:?}"))),
    };
    let location = entry("location").unwrap_or_default();
    let plain = |path: &Path| matches!(path.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    if !plain(Path::new(location)) {
        return Err(wrong("data in a file next to the ONNX file", format!("location {location:?}")));
    }
    let expected =
        bytes_of(tensor).ok_or_else(|| wrong("a valid shape and a numeric type", format!("{:?}", tensor.dims)))?;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(expected));
    if length != expected {
        return Err(wrong(&format!("{expected} bytes, as shape and type say"), format!("length {length}")));
    }
    let path = onnx.with_file_name(location);
    let io = |source| ImportError::Io { path: path.clone(), source };
    let mut file = files::open_contained(&path).map_err(io)?;
    let there = file.metadata().map_err(io)?.len();
    if offset.checked_add(length).is_none_or(|end| end > there) {
        return Err(wrong(&format!("{length} bytes at {offset} of {location}"), format!("{there} bytes")));
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    // No allocation in advance: the buffer grows with what is read.
    let mut data = Vec::new();
    file.take(length).read_to_end(&mut data).map_err(io)?;
    (tensor.raw_data, tensor.data_location) = (data, None);
    tensor.external_data.clear();
    Ok(())
}

fn bytes_of(tensor: &pb::TensorProto) -> Option<u64> {
    let size = match DataType::try_from(tensor.data_type).ok()? {
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
        _ => return None,
    };
    tensor.dims.iter().try_fold(size, |bytes: u64, dim| bytes.checked_mul(u64::try_from(*dim).ok()?))
}
