//! Reads the table of tensors of a safetensors file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

use super::bounded;
use super::error::CheckpointError;
use super::stored::StoredTensor;

/// Largest header in bytes: fits the names of 100 000 tensors. The library's limit of 100 MB would take a gigabyte of
/// memory.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// Reads and checks the table of tensors of the file `path`.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let broken = |message: String| CheckpointError::Safetensors { path: path.to_owned(), message };
    let mut file = bounded::open(path)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    if file_bytes < 8 {
        return Err(broken(format!("expected at least 8 bytes, found {file_bytes}")));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let header_bytes = u64::from_le_bytes(length);
    let room = (file_bytes - 8).min(HEADER_BYTES_MAX);
    if header_bytes > room {
        return Err(broken(format!("expected a header of at most {room} bytes, found {header_bytes}")));
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(io)?;
    // Parsing checks offsets against shapes and types: no gap, no overlap, no overflow.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| broken(e.to_string()))?;
    let data_offset = 8 + header_bytes;
    let expected = data_offset.saturating_add(metadata.data_len() as u64);
    if expected != file_bytes {
        return Err(broken(format!("expected {expected} bytes, found {file_bytes}")));
    }
    let stored = metadata.tensors().into_iter().map(|(name, info)| {
        let start = data_offset + info.data_offsets.0 as u64;
        (name, StoredTensor { dtype: info.dtype, shape: info.shape.clone(), strides: None, start })
    });
    Ok(stored.collect())
}
