//! Packs weights from the file into the layout of the kernels, one tensor at a time.

use std::io;
use std::sync::Arc;

use super::file::OnnxFile;
use super::int4;
use super::kernels::{Kernels, PackedF32, PackedI8, signed};
use super::program::{Op, Program, WeightSource, Weights};

/// Loads the weights of every step. Neither the whole file nor a float copy of it is ever in memory.
pub(crate) fn load(program: &mut Program, file: &mut OnnxFile<'_>, kernels: &Kernels) -> io::Result<()> {
    let mut bytes = Vec::new();
    let widths: Vec<usize> = program.values.iter().map(|value| value.width).collect();
    for step in &mut program.steps {
        let (weights, inputs, outputs) = match &mut step.op {
            Op::Linear { x, weights, out, .. } => (weights, x.width, widths[*out]),
            Op::PatchEmbedding { patches, weights, out } => {
                let [height, width] = patches.patch;
                (weights, patches.channels * height * width, widths[*out])
            }
            _ => continue,
        };
        let Weights::Unloaded(parts) = &*weights else { continue };
        *weights = if weights.is_i8() {
            let mut packed = PackedI8::new(kernels.layout_i8, inputs, outputs);
            let mut first = 0;
            for part in parts {
                int8_part(file, part, first, &mut packed, &mut bytes)?;
                first += part.outputs;
            }
            #[cfg(target_arch = "x86_64")]
            kernels.limit_pairs(&mut packed);
            Weights::I8(Arc::new(packed))
        } else {
            let mut packed = PackedF32::new(kernels.layout_f32, inputs, outputs);
            let mut first = 0;
            for part in parts {
                float_part(file, part, first, &mut packed)?;
                first += part.outputs;
            }
            Weights::F32(Arc::new(packed))
        };
    }
    Ok(())
}

fn int8_part(
    file: &mut OnnxFile<'_>,
    part: &WeightSource,
    first: usize,
    packed: &mut PackedI8,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    let mut scales = match part.scales {
        Some(scales) => file.floats_of(scales)?,
        None => return Err(io::Error::other("weights without scales")),
    };
    if scales.len() == 1 && part.group.is_none() {
        scales = vec![scales[0]; part.outputs];
    }
    let bias = part.bias.map(|bias| file.floats_of(bias)).transpose()?;
    let tensor = file.graph.initializer[part.weights].clone();
    if let Some(group) = part.group {
        file.int4s(&tensor, bytes)?;
        let mut expanded = Vec::new();
        let scales = int4::expand(bytes, &scales, group, [packed.inputs(), part.outputs], &mut expanded);
        packed.set(first, &expanded, &scales, bias.as_deref());
        return Ok(());
    }
    file.int8s(&tensor, bytes)?;
    if part.transposed {
        let bytes = signed(bytes);
        for (channel, (weights, scale)) in bytes.chunks_exact(packed.inputs()).zip(&scales).enumerate() {
            packed.set_channel(first + channel, weights, *scale);
        }
        packed.set_bias(first, bias.as_deref().unwrap_or_default());
    } else {
        packed.set(first, signed(bytes), &scales, bias.as_deref());
    }
    Ok(())
}

fn float_part(file: &mut OnnxFile<'_>, part: &WeightSource, first: usize, packed: &mut PackedF32) -> io::Result<()> {
    let bias = part.bias.map(|bias| file.floats_of(bias)).transpose()?;
    let values = match part.scales {
        None => file.floats_of(part.weights)?,
        // An integer layer that is merged with a float one.
        Some(scales) => {
            let (scales, mut bytes) = (file.floats_of(scales)?, Vec::new());
            let tensor = file.graph.initializer[part.weights].clone();
            file.int8s(&tensor, &mut bytes)?;
            let inputs = packed.inputs();
            let channel = |i: usize| if part.transposed { i / inputs } else { i % part.outputs };
            let scale = |i: usize| if scales.len() == 1 { scales[0] } else { scales[channel(i)] };
            signed(&bytes).iter().enumerate().map(|(i, w)| f32::from(*w) * scale(i)).collect()
        }
    };
    if part.transposed {
        for (channel, weights) in values.chunks_exact(packed.inputs()).enumerate() {
            packed.set_channel(first + channel, weights);
        }
        packed.set_bias(first, bias.as_deref().unwrap_or_default());
    } else {
        packed.set(first, &values, part.outputs, bias.as_deref());
    }
    Ok(())
}
