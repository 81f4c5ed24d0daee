//! Reads the tensors of one weights file, in either format, piece by piece.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use spotter_engine::magic;

use super::error::CheckpointError;
use super::stored::StoredTensor;
use super::{bounded, safetensors_file, torch_file};

/// Size of a read: fits the cache, and system calls cost little. A multiple of the size of every element type.
const PIECE_BYTES: usize = 256 << 10;

/// A weights file whose table of tensors was checked against the file's size.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    pub(crate) path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
}

impl WeightsFile {
    /// Reads the table of tensors of a `.safetensors` file or of a `.bin` file written by `torch.save`.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut file = bounded::open(path)?;
        let mut start = Vec::new();
        // Long enough for the first line of a Git LFS pointer.
        const START_BYTES: u64 = 40;
        (&mut file).take(START_BYTES).read_to_end(&mut start).map_err(|source| CheckpointError::io(path, source))?;
        if start.starts_with(magic::LFS) {
            return Err(CheckpointError::LfsPointer { path: path.to_owned() });
        }
        let torch = path.extension().is_some_and(|extension| extension == "bin");
        let tensors = if torch { torch_file::read(path)? } else { safetensors_file::read(path)? };
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// All tensors, with their names in the file.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&String, &StoredTensor)> {
        self.tensors.iter()
    }

    /// The tensor called `name` in the file.
    pub(crate) fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// Passes the values of a float tensor to `take` as 32-bit floats, in pieces and in row-major order.
    ///
    /// # Errors
    /// The tensor is missing, its element type is not a float, or one of its values is NaN or infinite.
    pub(crate) fn floats(&self, name: &str, take: Take<'_, f32>) -> Result<(), CheckpointError> {
        let stored = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let dtype = stored.dtype;
        if !stored.is_float() {
            let (path, tensor, found) = (self.path.clone(), name.to_owned(), format!("{dtype:?}"));
            return Err(CheckpointError::Dtype { path, tensor, found });
        }
        let (mut values, mut done) = (Vec::new(), 0);
        self.bytes(name, &mut |bytes| {
            values.clear();
            match dtype {
                Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                // Rounds to nearest, as PyTorch does.
                Dtype::F64 => values.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
                Dtype::BF16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16_to_f32(u16::from_le_bytes(*b)))),
                _ => values.extend(bytes.as_chunks().0.iter().map(|b| f16_to_f32(u16::from_le_bytes(*b)))),
            }
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                let (path, tensor, value) = (self.path.clone(), name.to_owned(), values[index]);
                return Err(CheckpointError::NotFinite { path, tensor, index: done + index, value });
            }
            done += values.len();
            take(&values)
        })
    }

    /// Passes the stored elements of a tensor to `take`, little-endian, in pieces of whole elements and in row-major
    /// order.
    pub(crate) fn bytes(&self, name: &str, take: Take<'_, u8>) -> Result<(), CheckpointError> {
        let stored = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let io = |source| CheckpointError::io(&self.path, source);
        let mut file = bounded::open(&self.path)?;
        file.seek(SeekFrom::Start(stored.start)).map_err(io)?;
        if let Some(strides) = &stored.strides {
            let mut span = vec![0; stored.span(strides) * stored.element_bytes()];
            file.read_exact(&mut span).map_err(io)?;
            return gather(&span, stored, strides, take);
        }
        let mut left = stored.elements() * stored.element_bytes();
        let mut piece = vec![0; PIECE_BYTES.min(left)];
        while left > 0 {
            let piece = &mut piece[..PIECE_BYTES.min(left)];
            file.read_exact(piece).map_err(io)?;
            take(piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: Vec::new(),
            hint: "",
        }
    }
}

/// Receives a tensor piece by piece.
pub(crate) type Take<'a, T> = &'a mut dyn FnMut(&[T]) -> Result<(), CheckpointError>;

/// Copies strided elements of `span` into row-major order.
fn gather(span: &[u8], stored: &StoredTensor, strides: &[usize], take: Take<'_, u8>) -> Result<(), CheckpointError> {
    let (count, width) = (stored.elements(), stored.element_bytes());
    let mut index = vec![0; stored.shape.len()];
    let mut at = 0;
    let mut piece = Vec::with_capacity(PIECE_BYTES.min(count * width));
    for _ in 0..count {
        piece.extend_from_slice(&span[at * width..(at + 1) * width]);
        if piece.len() == PIECE_BYTES {
            take(&piece)?;
            piece.clear();
        }
        // Advance to the next index in row-major order.
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < stored.shape[axis] {
                break;
            }
            at -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    if piece.is_empty() { Ok(()) } else { take(&piece) }
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Converts IEEE 754 binary16 to binary32, exactly.
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
    use std::io::Write as _;

    use super::*;

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

    /// Reads a tensor of a file with the bytes 0, 1, 2, ...
    fn read(shape: &[usize], strides: Option<&[usize]>, start: u64) -> Vec<u8> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&(0..=255).collect::<Vec<u8>>()).expect("writes");
        let strides = strides.map(<[usize]>::to_vec);
        let stored = StoredTensor { dtype: Dtype::U8, shape: shape.to_vec(), strides, start };
        let weights = WeightsFile { path: file.path().to_owned(), tensors: BTreeMap::from([("t".to_owned(), stored)]) };
        let mut found = Vec::new();
        let take: Take<'_, u8> = &mut |piece| {
            found.extend_from_slice(piece);
            Ok(())
        };
        weights.bytes("t", take).expect("reads");
        found
    }

    #[test]
    fn elements_in_row_major_order() {
        let check = |shape: &[usize], strides: Option<&[usize]>, start, expected: &[u8]| {
            assert_eq!(read(shape, strides, start), expected, "{shape:?} {strides:?} from {start}");
        };
        check(&[], None, 3, &[3]);
        check(&[2, 3], None, 4, &[4, 5, 6, 7, 8, 9]);
        check(&[2, 3], Some(&[1, 2]), 0, &[0, 2, 4, 1, 3, 5]);
        check(&[2, 2, 2], Some(&[1, 10, 100]), 7, &[7, 107, 17, 117, 8, 108, 18, 118]);
        check(&[3, 2], Some(&[0, 5]), 1, &[1, 6, 1, 6, 1, 6]);
        check(&[0, 4], Some(&[9, 9]), 200, &[]);
        check(&[4, 0], None, 255, &[]);
    }
}
