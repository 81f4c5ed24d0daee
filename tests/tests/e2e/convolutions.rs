//! Convolutional image towers against torch (`tests/reference/make_convolutions.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::PathBuf;

use model_prep::import::{Options, TowerInput, tower};
use model_prep::plan::Target;
use safetensors::SafeTensors;
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::tower::{ImageTower, Threads, Work};

const NAMES: [&str; 4] = ["bottleneck", "inverted", "squeezed", "mixed"];

fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/convolutions").join(file)
}

/// A tensor of floats of the goldens, with its shape.
fn floats(name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(golden("goldens.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    (tensor.shape().to_vec(), tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The file of a tower and a manifest for it.
fn imported(name: &str, weights: Weights) -> (Vec<u8>, Manifest) {
    let ((images, _), (features, _)) = (floats(&format!("{name}.pixels")), floats(&format!("{name}.features")));
    let options = Options { input: TowerInput::Image([images[2], images[3]]), output: None, projection: None };
    let plan = weights.into();
    let target = Target { plan: &plan, scratch: &std::env::temp_dir() };
    let built = tower(&golden(&format!("{name}.onnx")), &options, target).unwrap();
    let mut manifest = Bundle::open(&e2e::root().join("config/demo")).unwrap().manifest().clone();
    manifest.projection_dim = features[1];
    manifest.vision.inputs = built.inputs.clone();
    manifest.vision.output = built.output.clone();
    manifest.vision.features = Some(built.features.clone());
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut built.onnx.reader(), &mut bytes).unwrap();
    (bytes, manifest)
}

/// Embeddings of the goldens' images.
fn embeddings(tower: &ImageTower, name: &str) -> Vec<Vec<f32>> {
    let (shape, pixels) = floats(&format!("{name}.pixels"));
    pixels.chunks_exact(pixels.len() / shape[0]).map(|pixels| tower.embed(pixels).unwrap()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn towers_give_the_features_of_torch() {
    for name in NAMES {
        let (shape, expected) = floats(&format!("{name}.features"));
        for (weights, least) in [(Weights::F32, 0.999_999), (Weights::Int8, 0.997)] {
            let (onnx, manifest) = imported(name, weights);
            for kernels in Threads::available_kernels() {
                let threads = Threads::default().with_kernels(kernels).unwrap();
                let tower = ImageTower::load(&onnx, &manifest, &threads).unwrap();
                assert_eq!(tower.unfused(), None, "{name}");
                for (found, expected) in embeddings(&tower, name).iter().zip(expected.chunks_exact(shape[1])) {
                    let cosine = cosine(found, expected);
                    println!("{name}, {weights:?}, {kernels}: cosine {cosine}");
                    assert!(cosine >= least, "{name}, {weights:?}, {kernels}: cosine {cosine}, at least {least}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for name in NAMES {
        for weights in [Weights::F32, Weights::Int8] {
            let (onnx, manifest) = imported(name, weights);
            let of = |threads: usize| {
                let tower = ImageTower::load(&onnx, &manifest, &Threads::new(threads).unwrap()).unwrap();
                embeddings(&tower, name)
            };
            let one = of(1);
            for threads in 2..6 {
                assert!(of(threads) == one, "{name}, {weights:?}: {threads} threads give other bits than one");
            }
        }
    }
}

#[test]
fn fused_towers_agree_with_tract() {
    for name in NAMES {
        let (onnx, manifest) = imported(name, Weights::F32);
        let tract = Threads::default().with_kernels("tract").unwrap();
        let (fused, tract) = (Threads::default(), tract);
        let [fused, tract] = [fused, tract].map(|threads| ImageTower::load(&onnx, &manifest, &threads).unwrap());
        for (found, expected) in embeddings(&fused, name).iter().zip(embeddings(&tract, name)) {
            let worst = found.iter().zip(&expected).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 1e-5, "{name}: {worst}");
        }
    }
}

#[test]
fn steps_are_told_with_their_arithmetic() {
    let (onnx, manifest) = imported("inverted", Weights::Int8);
    let tower = ImageTower::load(&onnx, &manifest, &Threads::default()).unwrap();
    let kinds: Vec<&str> = tower.layers().iter().map(|layer| layer.kind.as_str()).collect();
    println!("{kinds:?}");
    // Batch norms, activations and sums are part of the convolutions.
    assert!(!kinds.iter().any(|kind| matches!(*kind, "batch norm" | "elementwise" | "scale")), "{kinds:?}");
    assert!(kinds.contains(&"depthwise convolution + activation") && kinds.contains(&"mean of pixels"), "{kinds:?}");
    assert!(kinds.contains(&"pointwise convolution + residual"), "{kinds:?}");
    let int8 = tower.layers().iter().filter(|layer| matches!(layer.work, Work::Int8(_))).count();
    let float = tower.layers().iter().filter(|layer| matches!(layer.work, Work::Float(_))).count();
    assert_eq!((int8, float), (12, 5), "{:?}", tower.layers());
}
