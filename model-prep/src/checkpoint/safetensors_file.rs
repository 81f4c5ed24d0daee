//! One safetensors file, read tensor by tensor.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use super::CheckpointError;

/// Headers above this are refused by the safetensors library too.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A file whose header was checked against its size.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    pub(crate) path: PathBuf,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    data_offset: u64,
}

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::io(path, source);
        let broken = |message: String| CheckpointError::Safetensors { path: path.to_owned(), message };
        let mut file = File::open(path).map_err(io)?;
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
        // Checks offsets against shapes and types.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| broken(e.to_string()))?;
        let data_offset = 8 + header_bytes;
        let expected = data_offset + metadata.data_len() as u64;
        if expected != file_bytes {
            return Err(broken(format!("expected {expected} bytes, found {file_bytes}")));
        }
        Ok(Self { path: path.to_owned(), metadata, data_offset })
    }

    /// Names of the tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.tensors().into_keys().collect()
    }

    /// Shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Whether a tensor holds floats.
    pub(crate) fn is_float(&self, name: &str) -> bool {
        self.metadata.info(name).is_some_and(|i| matches!(i.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16))
    }

    /// The values of a tensor as 32-bit floats, all of them finite.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let missing = || CheckpointError::Safetensors { path: self.path.clone(), message: format!("no tensor {name}") };
        let info = self.metadata.info(name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        let io = |source| CheckpointError::io(&self.path, source);
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(self.data_offset + start as u64)).map_err(io)?;
        let mut bytes = vec![0; end - start];
        file.read_exact(&mut bytes).map_err(io)?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16_to_f32(u16::from_le_bytes(*b))).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16_to_f32(u16::from_le_bytes(*b))).collect(),
            other => {
                let (path, tensor, found) = (self.path.clone(), name.to_owned(), format!("{other:?}"));
                return Err(CheckpointError::Dtype { path, tensor, found });
            }
        };
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            let (path, tensor, value) = (self.path.clone(), name.to_owned(), values[index]);
            return Err(CheckpointError::NotFinite { path, tensor, index, value });
        }
        Ok(values)
    }
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE 754 binary16 to binary32, which holds every such value exactly.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Subnormal: fraction times 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 / 16_777_216.0).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 127 - 15) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::{bf16_to_f32, f16_to_f32};

    #[test]
    fn half_precision_to_single() {
        for (bits, expected) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x83ff, -6.097_555e-5),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits), expected, "{bits:#06x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
        for (bits, expected) in [(0x3f80, 1.0), (0xc040, -3.0), (0x3eaa, 0.332_031_25), (0xff80, f32::NEG_INFINITY)] {
            assert_eq!(bf16_to_f32(bits), expected, "{bits:#06x}");
        }
    }
}
