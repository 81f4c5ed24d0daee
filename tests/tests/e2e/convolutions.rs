//! Convolutional image towers against torch (`tests/reference/make_convolutions.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};

use model_prep::import::{Options, TowerInput, tower};
use model_prep::plan::Target;
use safetensors::SafeTensors;
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::tower::{ImageTower, Threads, Work};

const NAMES: [&str; 4] = ["bottleneck", "inverted", "squeezed", "mixed"];

/// The least cosine to float of a photograph, and the least share of photographs of which int8 names the same class.
const REAL_COSINE_MIN: f32 = 0.995;
const REAL_COSINE_MEAN_MIN: f32 = 0.998;
const REAL_AGREEMENT_MIN: f64 = 0.95;

fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/convolutions").join(file)
}

/// A tensor of floats of the goldens, with its shape.
fn floats(name: &str) -> (Vec<usize>, Vec<f32>) {
    floats_in(&golden("goldens.safetensors"), name)
}

fn floats_in(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
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

/// Called by `tests/reference/check_convolutions.py`, which makes the files.
#[test]
fn real_weights_hold_in_int8() {
    let Ok(folder) = std::env::var("SPOTTER_CONVOLUTIONS") else {
        println!("skipped: check_convolutions.py calls this with real weights");
        return;
    };
    let (folder, made) = (PathBuf::from(folder), tempfile::tempdir().unwrap());
    let goldens = folder.join("goldens.safetensors");
    let projection = format!("{}:text", goldens.display());
    let text = e2e::root().join("tests/golden/onnx/script/text.onnx");
    let tokenizer = e2e::root().join("tests/golden/onnx/tokenizer");
    for name in ["lite0", "lite2"] {
        let (from, out) = (made.path().join(name), made.path().join(format!("{name}-int8")));
        std::fs::create_dir(&from).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(tokenizer.join(file), from.join(file)).unwrap();
        }
        std::fs::copy(folder.join(format!("{name}.json")), from.join("preprocessor_config.json")).unwrap();
        let output = std::process::Command::new(e2e::program("model-prep"))
            .arg("export")
            .args([&from, Path::new("--out"), &out, Path::new("--vision-onnx"), &folder.join(format!("{name}.onnx"))])
            .args([Path::new("--text-onnx"), &text, Path::new("--text-projection"), Path::new(&projection)])
            .args(["--logit-scale", "x1"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("{}", String::from_utf8_lossy(&output.stdout));
        let tower = ImageTower::open(&Bundle::open(&out).unwrap(), &Threads::new(2).unwrap()).unwrap();
        assert_eq!(tower.unfused(), None, "{name}");
        let (shape, pixels) = floats_in(&goldens, &format!("{name}.pixels"));
        let (_, expected) = floats_in(&goldens, &format!("{name}.features"));
        let (classes, weights) = floats_in(&goldens, &format!("{name}.classes"));
        let class = |features: &[f32]| {
            let score = |row: &[f32]| row.iter().zip(features).map(|(w, v)| w * v).sum::<f32>();
            let scores: Vec<f32> = weights.chunks_exact(classes[1]).map(score).collect();
            (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap()
        };
        let (mut cosines, mut same) = (Vec::new(), 0);
        for (pixels, expected) in pixels.chunks_exact(pixels.len() / shape[0]).zip(expected.chunks_exact(classes[1])) {
            let found = tower.embed(pixels).unwrap();
            cosines.push(cosine(&found, expected));
            same += usize::from(class(&found) == class(expected));
        }
        let least = cosines.iter().fold(1.0_f32, |least, cosine| least.min(*cosine));
        let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
        let share = same as f64 / cosines.len() as f64;
        println!("{name}, {} photographs: cosine least {least}, mean {mean}; same class {share}", cosines.len());
        assert!(least >= REAL_COSINE_MIN && mean >= REAL_COSINE_MEAN_MIN && share >= REAL_AGREEMENT_MIN, "{name}");
    }
}
