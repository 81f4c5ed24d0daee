//! The values of tensors as slices.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, bail};

/// The values of a contiguous operand.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("an operand is not contiguous: {layout:?}") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Passes the values of `tensor`, in row-major order, to `read`.
pub(in crate::tune) fn floats<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(slice(storage, layout)?),
        _ => bail!("a tensor is not in main memory"),
    }
}

/// Copies the values of `tensor`, in row-major order.
pub(in crate::tune) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    floats(tensor, |values| Ok(values.to_vec()))
}

/// A tensor of these values.
pub(in crate::tune) fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Rows that one thread sums, in order: sums do not depend on the number of threads.
pub(super) const ROWS: usize = 256;
