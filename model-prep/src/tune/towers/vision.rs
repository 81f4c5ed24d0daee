//! Parts that image towers share: patches, leading tokens, position embeddings.

use candle_core::Tensor;

use super::Input;
use crate::checkpoint::Patching;
use crate::towers::{Method, resampled};
use crate::tune::error::TuneError;
use crate::tune::ops::{linear, tensor};
use crate::tune::pass::Pass;

/// Cuts the planes of an image [3, height, width] into patches [patches, 3 * height * width of a patch].
pub(in crate::tune) fn patches(pixels: &[f32], patching: &Patching) -> Vec<f32> {
    let [height, width] = patching.image_size;
    let [down, across] = patching.patch_size;
    let [rows, columns] = patching.grid();
    let mut out = Vec::with_capacity(rows * columns * 3 * down * across);
    for row in 0..rows {
        for column in 0..columns {
            for plane in pixels.chunks_exact(height * width) {
                for y in row * down..(row + 1) * down {
                    let start = y * width + column * across;
                    out.extend_from_slice(&plane[start..start + across]);
                }
            }
        }
    }
    out
}

/// The patch embedding `name`: [batch, patches, hidden].
pub(super) fn patch_embedding(
    pass: &Pass<'_>,
    name: &str,
    input: &Input,
    patching: &Patching,
    hidden: usize,
    bias: bool,
) -> Result<Tensor, TuneError> {
    let Input::Patches(patches) = input else {
        return Err(candle_core::Error::Msg("an image tower needs patches".into()).into());
    };
    let [height, width] = patching.patch_size;
    let weight = pass.weight(&format!("{name}.weight"), &[hidden, 3, height, width])?;
    let weight = weight.reshape((hidden, 3 * height * width))?;
    let bias = if bias { Some(pass.weight(&format!("{name}.bias"), &[hidden])?) } else { None };
    Ok(linear(patches, &weight, bias.as_ref())?)
}

/// The position embeddings of `lead` leading tokens and all patches [lead + patches, hidden], from the table `name`, which
/// has a leading axis of 1 if `batch`.
pub(super) fn positions(
    pass: &Pass<'_>,
    name: &str,
    [lead, hidden]: [usize; 2],
    batch: bool,
    patching: &Patching,
    method: Method,
) -> Result<Tensor, TuneError> {
    let rows = lead + patching.trained_patches();
    let table = match batch {
        true => pass.weight(name, &[1, rows, hidden])?.squeeze(0)?,
        false => pass.weight(name, &[rows, hidden])?,
    };
    let Some(side) = patching.interpolated_from() else { return Ok(table) };
    let grid = table.narrow(0, lead, side * side)?.contiguous()?;
    let grid = resampling([side; 2], patching.grid(), method)?.matmul(&grid)?;
    match lead {
        0 => Ok(grid),
        _ => Ok(Tensor::cat(&[table.narrow(0, 0, lead)?, grid], 0)?),
    }
}

/// The matrix [points of `to`, points of `from`] that resamples a table.
pub(super) fn resampling(from: [usize; 2], to: [usize; 2], method: Method) -> Result<Tensor, TuneError> {
    let points = from[0] * from[1];
    let mut identity = vec![0.0; points * points];
    identity.iter_mut().step_by(points + 1).for_each(|value| *value = 1.0);
    Ok(tensor(resampled(&identity, from, to, method), &[to[0] * to[1], points])?)
}

/// Adds leading tokens [1, n, hidden] to the first rows of `positions` [rows, hidden].
pub(super) fn with_lead(positions: &Tensor, tokens: &[Tensor]) -> Result<Tensor, TuneError> {
    let lead = Tensor::cat(tokens, 1)?.squeeze(0)?;
    let count = lead.dim(0)?;
    let first = (positions.narrow(0, 0, count)?.contiguous()? + lead)?;
    let rest = positions.narrow(0, count, positions.dim(0)? - count)?;
    Ok(Tensor::cat(&[first, rest], 0)?)
}
