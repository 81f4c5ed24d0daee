//! Where and how a tensor is stored in a weights file.

use safetensors::Dtype;

/// Where and how a tensor is stored in a file. The reader of the file has checked that it holds the whole tensor, and
/// that the tensor has no more elements than the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Stride of each axis in elements, if the tensor is not in row-major order.
    pub(crate) strides: Option<Vec<usize>>,
    /// Offset of its first element in the file, in bytes.
    pub(crate) start: u64,
}

impl StoredTensor {
    /// Returns whether its elements are floats.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size of one element in bytes.
    pub(crate) fn element_bytes(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Size of all elements in bytes.
    pub(crate) fn byte_count(&self) -> u64 {
        (self.elements() * self.element_bytes()) as u64
    }

    /// Number of elements in the file from the tensor's first to its last, including those in between that are not part
    /// of it.
    pub(crate) fn span(&self, strides: &[usize]) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        self.shape.iter().zip(strides).map(|(extent, stride)| (extent - 1) * stride).sum::<usize>() + 1
    }
}
