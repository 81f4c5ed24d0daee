//! The weights of a new checkpoint.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;

use super::draw::{Distribution, Random};
use crate::checkpoint::Tensors;
use crate::error::Error;
use crate::progress::Tick;
use crate::tensor_file::{self, Entry};

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
    // The reference writes this metadata, and its loader requires it.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let entries = planned.iter().map(|tensor| Entry {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        write: Box::new(move |out: &mut dyn Write| tensor.write(out, path, seed)),
    });
    tensor_file::write(path, format, entries.collect(), tick)
}

impl Planned<'_> {
    fn write(&self, out: &mut dyn Write, path: &Path, seed: u64) -> Result<(), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        match &self.values {
            Values::Copied { tensors, name } => return tensors.write_to(name, out, path),
            Values::Drawn(distribution) => {
                let mut random = Random::new(seed, &self.name);
                let mut values = (0..self.shape.iter().product()).map(|_| distribution.draw(&mut random));
                values.try_for_each(|value| out.write_all(&value.to_le_bytes()))
            }
            Values::Integers(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        }
        .map_err(io)
    }
}
