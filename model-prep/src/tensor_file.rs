//! Writes safetensors files tensor by tensor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::Error;
use crate::progress::Tick;

/// What writes the elements of a tensor.
type WriteElements<'a> = dyn Fn(&mut dyn Write) -> Result<(), Error> + 'a;

/// A tensor of a new file.
pub(crate) struct Entry<'a> {
    /// Its name.
    pub(crate) name: String,
    /// Type of its elements.
    pub(crate) dtype: Dtype,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// Writes its elements, little-endian and in row-major order.
    pub(crate) write: Box<WriteElements<'a>>,
}

impl<'a> Entry<'a> {
    /// A tensor of 32-bit floats.
    pub(crate) fn floats(name: String, shape: Vec<usize>, values: &'a [f32], path: &'a Path) -> Self {
        let write = Box::new(move |out: &mut dyn Write| {
            let io = |source| Error::Io { path: path.to_owned(), source };
            values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())).map_err(io)
        });
        Self { name, dtype: Dtype::F32, shape, write }
    }
}

/// Writes the file `path`, syncs it to disk, and returns its size in bytes. Calls `tick` once per tensor.
pub(crate) fn write(
    path: &Path,
    metadata: HashMap<String, String>,
    entries: Vec<Entry<'_>>,
    tick: Tick<'_>,
) -> Result<u64, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut order = entries;
    // Wide types come first, so that every tensor is aligned.
    order.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
    let mut end = 0;
    let infos = order.iter().map(|tensor| {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    });
    let metadata = Metadata::new(Some(metadata), infos.collect()).map_err(|e| io(std::io::Error::other(e)))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| io(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for tensor in order {
        (tensor.write)(&mut file)?;
        tick();
    }
    let file = file.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(8 + header.len() as u64 + end as u64)
}
