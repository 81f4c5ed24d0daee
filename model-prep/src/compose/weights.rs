//! Writes a safetensors file tensor by tensor, in pieces.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::draw::{Distribution, Random};
use crate::checkpoint::Tensors;
use crate::error::Error;
use crate::progress::Tick;

/// A tensor of the new file.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values<'a>,
}

/// The source of a tensor's values.
#[derive(Debug)]
pub(super) enum Values<'a> {
    /// A tensor of a checkpoint; floats of any width are converted to 32 bits, as the reference loads them.
    Copied { tensors: &'a Tensors, name: String },
    /// New random floats.
    Drawn(Distribution),
    /// Integers.
    Integers(Vec<i64>),
}

/// Writes the file `path` and returns its size in bytes.
pub(super) fn write(path: &Path, planned: &[Planned<'_>], seed: u64, tick: Tick<'_>) -> Result<u64, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut order: Vec<&Planned<'_>> = planned.iter().collect();
    // Wide types come first, so that every tensor is aligned.
    order.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
    let mut end = 0;
    let infos = order.iter().map(|tensor| {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    });
    // The reference writes this metadata, and its loader requires it.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(|e| io(std::io::Error::other(e)))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| io(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for tensor in order {
        match &tensor.values {
            Values::Copied { tensors, name } => {
                let mut failed = None;
                tensors.bytes(name, &mut |bytes| {
                    failed = failed.take().or(file.write_all(bytes).err());
                    Ok(())
                })?;
                failed.map_or(Ok(()), Err).map_err(io)?;
            }
            Values::Drawn(distribution) => {
                let mut random = Random::new(seed, &tensor.name);
                for _ in 0..tensor.shape.iter().product() {
                    file.write_all(&distribution.draw(&mut random).to_le_bytes()).map_err(io)?;
                }
            }
            Values::Integers(values) => {
                values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes())).map_err(io)?;
            }
        }
        tick();
    }
    let file = file.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(8 + header.len() as u64 + end as u64)
}
