//! Runs one function of the engine's kernels a given number of times, so that its instructions can be counted: `kernels
//! NAME WHAT ROWS INPUTS OUTPUTS TIMES`. Not part of any build; `kernel_driver.sh` compiles it.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod fused {
    pub mod kernels;
}
use fused::kernels::{Activation, Kernels, PackedF32, PackedI8, QuantizedRows};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, what, sizes @ ..] = arguments.as_slice() else {
        let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name).collect();
        println!("{}; best: {}", names.join(" "), Kernels::best().name);
        return;
    };
    let sizes: Vec<usize> = sizes.iter().map(|size| size.parse().expect("a number")).collect();
    let [rows, inputs, outputs, times] = sizes[..] else { panic!("ROWS INPUTS OUTPUTS TIMES") };
    let kernels =
        *Kernels::available().iter().find(|kernels| kernels.name == name).expect("a kernel that this CPU runs");

    let x: Vec<f32> = (0..rows * inputs).map(|i| (i * 31 % 997) as f32 / 500.0 - 1.0).collect();
    let ones = vec![1.0f32; inputs];
    let mut out = vec![0.0f32; rows * outputs.max(inputs)];
    let stride = inputs.next_multiple_of(64);
    let mut values = vec![0u8; rows * stride];
    let (mut scales, mut zero_points) = (vec![0.01f32; rows], vec![3i32; rows]);
    let mut weights_i8 = PackedI8::new(kernels.layout_i8, inputs, if what == "i8" { outputs } else { 1 });
    let mut weights_f32 = PackedF32::new(kernels.layout_f32, inputs, if what == "f32" { outputs } else { 1 });
    for column in 0..weights_i8.outputs() {
        weights_i8.set_channel(column, &vec![(column % 100) as i8 - 50; inputs], 0.01);
    }
    weights_f32.set(0, &vec![0.5; inputs * weights_f32.outputs()], weights_f32.outputs(), None);

    for _ in 0..times {
        match what.as_str() {
            "i8" => {
                let a = QuantizedRows { values: &values, stride, scales: &scales, zero_points: &zero_points };
                for panel in 0..weights_i8.panels() {
                    kernels.panel_i8(&a, &weights_i8, panel, &mut out, outputs, false);
                }
            }
            "f32" => {
                for panel in 0..weights_f32.panels() {
                    kernels.panel_f32(&x, inputs, rows, &weights_f32, panel, &mut out, outputs, false);
                }
            }
            "quantize" => {
                for (row, x) in x.chunks(inputs).enumerate() {
                    let bytes = &mut values[row * stride..][..inputs.next_multiple_of(16)];
                    (scales[row], zero_points[row]) = kernels.quantize(x, bytes);
                }
            }
            "layer_norm" => {
                for (x, out) in x.chunks(inputs).zip(out.chunks_mut(inputs)) {
                    kernels.layer_norm(x, &ones, &ones, 1e-6, out);
                }
            }
            "softmax" => {
                out[..x.len()].copy_from_slice(&x);
                for (scores, bytes) in out.chunks_mut(inputs).zip(values.chunks_mut(stride)) {
                    kernels.softmax_bytes(&mut scores[..inputs], bytes);
                }
            }
            "gelu" => kernels.activate(Activation::Gelu, &mut out, inputs, inputs),
            "quick_gelu" => kernels.activate(Activation::QuickGelu, &mut out, inputs, inputs),
            _ => panic!("i8, f32, quantize, layer_norm, softmax, gelu or quick_gelu"),
        }
    }
    std::hint::black_box((&out, &values));
}
