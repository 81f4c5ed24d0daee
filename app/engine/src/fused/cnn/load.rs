//! Packs the weights of a convolutional tower, one tensor at a time, with the factors of batch norms in them.

use std::io;
use std::sync::Arc;

use super::program::{Depthwise, Op, Program, Source, Weights, Window};
use crate::fused::file::OnnxFile;
use crate::fused::kernels::{Kernels, PackedF32, PackedI8, signed};

/// Loads the weights of every step.
pub(crate) fn load(program: &mut Program, file: &mut OnnxFile<'_>, kernels: &Kernels) -> io::Result<()> {
    let channels: Vec<usize> = program.maps.iter().map(|map| map.channels).collect();
    for step in &mut program.steps {
        let (inputs, outputs) = (channels[step.x], channels[step.out]);
        let Op::Convolution { window, depthwise, weights } = &mut step.op else { continue };
        let Weights::Unloaded(source) = &*weights else { continue };
        *weights = if *depthwise {
            Weights::Depthwise(Arc::new(read_depthwise(file, source, *window, outputs)?))
        } else if source.scales.is_some() {
            Weights::I8(Arc::new(read_int8(file, source, *window, [inputs, outputs], kernels)?))
        } else {
            Weights::F32(Arc::new(read_float(file, source, *window, [inputs, outputs], kernels)?))
        };
    }
    Ok(())
}

/// Factor and bias of each output channel.
fn affine(file: &mut OnnxFile<'_>, source: &Source, outputs: usize) -> io::Result<[Vec<f32>; 2]> {
    let bias = source.bias.map(|bias| file.floats_of(bias)).transpose()?.unwrap_or_else(|| vec![0.0; outputs]);
    let [factors, terms] = source.affine.clone().unwrap_or_else(|| [vec![1.0; outputs], vec![0.0; outputs]]);
    let bias = bias.iter().zip(&factors).zip(terms).map(|((bias, factor), term)| bias * factor + term).collect();
    Ok([factors, bias])
}

fn scales(file: &mut OnnxFile<'_>, number: usize, outputs: usize) -> io::Result<Vec<f32>> {
    let scales = file.floats_of(number)?;
    match scales[..] {
        [scale] => Ok(vec![scale; outputs]),
        _ if scales.len() == outputs => Ok(scales),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "scales that are not per output channel")),
    }
}

/// The weights as floats, in the order of the file.
fn values(file: &mut OnnxFile<'_>, source: &Source, outputs: usize) -> io::Result<Vec<f32>> {
    let Some(number) = source.scales else { return file.floats_of(source.weights) };
    let (scales, tensor, mut bytes) =
        (scales(file, number, outputs)?, file.graph.initializer[source.weights].clone(), Vec::new());
    file.int8s(&tensor, &mut bytes)?;
    let per_channel = (bytes.len() / outputs).max(1);
    let channel = |i: usize| if source.outputs_last { i % outputs } else { i / per_channel };
    Ok(signed(&bytes).iter().enumerate().map(|(i, w)| f32::from(*w) * scales[channel(i)]).collect())
}

/// Rearranges the weights of one output channel from `[inputs][height][width]` to `[height][width][inputs]`.
fn side_by_side<T: Copy>(weights: &[T], window: Window, inputs: usize, out: &mut Vec<T>) {
    let pixels = window.kernel[0] * window.kernel[1];
    out.clear();
    out.extend((0..pixels).flat_map(|pixel| (0..inputs).map(move |input| weights[input * pixels + pixel])));
}

fn read_int8(
    file: &mut OnnxFile<'_>,
    source: &Source,
    window: Window,
    [inputs, outputs]: [usize; 2],
    kernels: &Kernels,
) -> io::Result<PackedI8> {
    let [factors, bias] = affine(file, source, outputs)?;
    let scales = match source.scales {
        Some(number) => scales(file, number, outputs)?,
        None => return Err(io::Error::other("weights without scales")),
    };
    let scales: Vec<f32> = scales.iter().zip(factors).map(|(scale, factor)| scale * factor).collect();
    let (tensor, mut bytes) = (file.graph.initializer[source.weights].clone(), Vec::new());
    file.int8s(&tensor, &mut bytes)?;
    let depth = window.kernel[0] * window.kernel[1] * inputs;
    let mut packed = PackedI8::new(kernels.layout_i8, depth, outputs);
    if source.outputs_last {
        packed.set(0, signed(&bytes), &scales, Some(&bias));
    } else {
        let mut channel = Vec::new();
        for (index, (weights, scale)) in signed(&bytes).chunks_exact(depth).zip(&scales).enumerate() {
            side_by_side(weights, window, inputs, &mut channel);
            packed.set_channel(index, &channel, *scale);
        }
        packed.set_bias(0, &bias);
    }
    #[cfg(target_arch = "x86_64")]
    kernels.limit_pairs(&mut packed);
    Ok(packed)
}

fn read_float(
    file: &mut OnnxFile<'_>,
    source: &Source,
    window: Window,
    [inputs, outputs]: [usize; 2],
    kernels: &Kernels,
) -> io::Result<PackedF32> {
    let [factors, bias] = affine(file, source, outputs)?;
    let mut values = values(file, source, outputs)?;
    let depth = window.kernel[0] * window.kernel[1] * inputs;
    let mut packed = PackedF32::new(kernels.layout_f32, depth, outputs);
    if source.outputs_last {
        for row in values.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&factors).for_each(|(w, factor)| *w *= factor);
        }
        packed.set(0, &values, outputs, Some(&bias));
    } else {
        let mut channel = Vec::new();
        for (index, (weights, factor)) in values.chunks_exact_mut(depth).zip(factors).enumerate() {
            weights.iter_mut().for_each(|w| *w *= factor);
            side_by_side(weights, window, inputs, &mut channel);
            packed.set_channel(index, &channel);
        }
        packed.set_bias(0, &bias);
    }
    Ok(packed)
}

fn read_depthwise(file: &mut OnnxFile<'_>, source: &Source, window: Window, channels: usize) -> io::Result<Depthwise> {
    let [factors, bias] = affine(file, source, channels)?;
    let values = values(file, source, channels)?;
    let pixels = window.kernel[0] * window.kernel[1];
    if values.len() != pixels * channels {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "weights of another size than their shape"));
    }
    let at = |pixel: usize, channel: usize| values[channel * pixels + pixel] * factors[channel];
    let values = (0..pixels).flat_map(|pixel| (0..channels).map(move |channel| at(pixel, channel))).collect();
    Ok(Depthwise { values, bias })
}
