//! Leading tokens and position embeddings.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::linear::column_sums;
use super::slices::{floats, slice, tensor};

/// Puts rows of zeros before the patches `x` [batch, patches, width], then adds `table` [rows + patches, width], which
/// holds the leading tokens and position embeddings.
pub(in crate::tune) fn with_tokens(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&table.contiguous()?, WithTokens)
}

struct WithTokens;

impl CustomOp2 for WithTokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, patches, width) = l1.shape().dims3()?;
        let (tokens, same) = l2.shape().dims2()?;
        if same != width || tokens < patches {
            bail!("tokens: {patches} patches of {width} values for a table [{tokens}, {same}]");
        }
        let (x, table) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0.0; batch * tokens * width];
        out.par_chunks_mut(tokens * width).zip(x.par_chunks(patches * width)).for_each(|(out, x)| {
            out.copy_from_slice(table);
            out[(tokens - patches) * width..].iter_mut().zip(x).for_each(|(out, x)| *out += x);
        });
        Ok((CpuStorage::F32(out), (batch, tokens, width).into()))
    }

    fn bwd(&self, x: &Tensor, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, patches, width) = x.dims3()?;
        let tokens = table.dim(0)?;
        let of_x = match x.track_op() {
            true => {
                let rows = |grad: &[f32]| {
                    let rows = grad.chunks_exact(tokens * width);
                    Ok(rows.flat_map(|row| &row[(tokens - patches) * width..]).copied().collect())
                };
                Some(tensor(floats(grad, rows)?, x.dims())?)
            }
            false => None,
        };
        let of_table = match table.track_op() {
            true => Some(column_sums(grad, tokens * width)?.reshape(table.shape())?),
            false => None,
        };
        Ok((of_x, of_table))
    }
}
