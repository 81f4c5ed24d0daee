//! Towers that other exporters wrote, against transformers 4.56.2 (`tests/reference/make_onnx_towers.py`).

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::PathBuf;

use model_prep::import::{Modality, Options, Projection, tower};
use ndarray::{Array2, Array4};
use safetensors::SafeTensors;
use spotter_engine::bundle::{Bundle, Manifest, Weights};
use spotter_engine::tokenize::Encoding;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/onnx").join(file)
}

struct Goldens(Vec<u8>);

impl Goldens {
    fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        let (shape, values) = self.floats(name);
        Array2::from_shape_vec((shape[0], shape[1]), values).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<Vec<i64>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        values.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
    }
}

/// The demo bundle's manifest with the towers of `exporter` in it.
fn manifest(vision: &model_prep::towers::TowerFile, text: &model_prep::towers::TowerFile) -> Manifest {
    let mut manifest = Bundle::open(&e2e::root().join("config/demo")).unwrap().manifest().clone();
    manifest.projection_dim = 12;
    for (tower, built) in [(&mut manifest.vision, vision), (&mut manifest.text, text)] {
        tower.inputs = built.inputs.clone();
        tower.output = built.output.clone();
        tower.features = Some(built.features.clone());
    }
    manifest.tokenizer.max_length = 16;
    manifest
}

#[test]
fn towers_of_both_exporters_give_the_reference_features() {
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let (shape, pixels) = goldens.floats("pixel_values");
    let pixels = Array4::from_shape_vec((shape[0], shape[1], shape[2], shape[3]), pixels).unwrap();
    let (ids, mask) = (goldens.integers("input_ids"), goldens.integers("attention_mask"));
    let types = goldens.integers("token_type_ids");
    let encodings: Vec<_> = (0..ids.len())
        .map(|i| Encoding {
            ids: ids[i].clone(),
            mask: mask[i].clone(),
            type_ids: types[i].clone(),
            position_ids: (0..).take(ids[i].len()).collect(),
        })
        .collect();
    let (_, weight) = goldens.floats("visual_projection");
    let tokenizer = std::fs::read(golden("tokenizer/tokenizer.json")).unwrap();
    for exporter in ["script", "dynamo"] {
        for (weights, tolerance) in [(Weights::F32, 1e-4), (Weights::Int8, 0.05)] {
            // The newer exporter was given the tower without its projection.
            let projection = (exporter == "dynamo").then(|| Projection { weight: weight.clone(), from: 16 });
            let modality = Modality::Image([20, 20]);
            let options = Options { modality, output: None, projection };
            let vision = tower(&golden(&format!("{exporter}/vision.onnx")), &options, &weights.into()).unwrap();
            let options = Options { modality: Modality::Text, output: None, projection: None };
            let text = tower(&golden(&format!("{exporter}/text.onnx")), &options, &weights.into()).unwrap();
            let manifest = manifest(&vision, &text);
            let image = ImageTower::from_reader(vision.onnx.reader(), &manifest, &Threads::default()).unwrap();
            let mut words =
                TextTower::from_reader(text.onnx.reader(), &tokenizer, &manifest, &Threads::default()).unwrap();
            let first = pixels.index_axis(ndarray::Axis(0), 0);
            let unfused = image.profile(first.as_slice().unwrap(), &|| 0).unwrap().unfused;
            println!("{exporter}: left to tract: {unfused:?}");
            assert!(exporter == "script" || unfused.is_none(), "{exporter}: {unfused:?}");
            for (what, found, expected) in [
                ("image", image.features_batch(pixels.view()).unwrap(), goldens.matrix("image_features")),
                ("text", words.features_batch(&encodings).unwrap(), goldens.matrix("text_features")),
            ] {
                let worst = (&found - &expected).iter().fold(0.0_f32, |worst, v| worst.max(v.abs()));
                println!("{exporter}, {weights:?}, {what}: worst difference {worst:.2e}");
                assert!(worst <= tolerance, "{exporter}, {weights:?}, {what}: {worst}, at most {tolerance} wanted");
            }
        }
    }
}

/// `model-prep` run with `arguments`: exit code, standard output, standard error.
fn model_prep(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(e2e::program("model-prep")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A folder with the tokenizer and a recipe for pictures of 20 x 20.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("preprocessor_config.json"), r#"{"size": 20}"#).unwrap();
    folder
}

#[test]
fn onnx_towers_become_a_bundle() {
    let folder = folder();
    let out = folder.path().join("bundle");
    let file = |name: &str| golden(name).display().to_string();
    let projection = format!("{}:visual_projection", file("goldens.safetensors"));
    let (folder, out) = (folder.path().display().to_string(), out.display().to_string());
    let (vision, text) = (file("dynamo/vision.onnx"), file("script/text.onnx"));
    let towers = ["--vision-onnx", &vision, "--text-onnx", &text, "--vision-projection", &projection];
    let arguments = [&["export", &folder, "--out", &out], &towers[..], &["--logit-scale", "x100"]].concat();
    let (code, stdout, stderr) = model_prep(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    println!("{stdout}");
    let bundle = Bundle::open(std::path::Path::new(&out)).unwrap();
    let manifest = bundle.manifest();
    assert!((manifest.logit_scale - 100_f32.ln()).abs() < 1e-6 && manifest.projection_dim == 12, "{manifest:?}");
    let mut tower = TextTower::open(&bundle, &Threads::default()).unwrap();
    let goldens = Goldens(std::fs::read(golden("goldens.safetensors")).unwrap());
    let found = tower.embed("a photo of a red circle").unwrap();
    let expected = goldens.matrix("text_features").row(1).to_vec();
    let cosine = found.iter().zip(&expected).map(|(a, b)| a * b).sum::<f32>()
        / expected.iter().map(|v| v * v).sum::<f32>().sqrt();
    assert!(cosine > 0.995, "{cosine}");

    // What is wrong is named.
    let check = |change: &dyn Fn(&mut Vec<String>), parts: &[&str]| {
        let mut arguments: Vec<String> = arguments.iter().map(|part| (*part).to_owned()).collect();
        change(&mut arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, _, stderr) = model_prep(&arguments);
        assert_ne!(code, Some(0), "{arguments:?}");
        println!("{}", stderr.trim());
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
    };
    let replace = |from: &'static str, to: String| {
        move |arguments: &mut Vec<String>| {
            let at = arguments.iter().position(|argument| argument == from).unwrap() + 1;
            arguments[at] = to.clone();
        }
    };
    check(&|arguments| arguments.truncate(arguments.len() - 2), &["--logit-scale"]);
    check(&replace("--vision-onnx", text.clone()), &["text.onnx", "inputs", "one, of pixels"]);
    check(&replace("--text-onnx", vision.clone()), &["input image", "input_ids"]);
    check(&replace("--text-onnx", file("goldens.safetensors")), &["goldens.safetensors", "not an ONNX file"]);
    check(&replace("--text-onnx", file("none.onnx")), &["none.onnx", "No such file"]);
    check(&replace("--vision-projection", "x".into()), &["the name of a tensor"]);
    let wrong = format!("{}:text_features", file("goldens.safetensors"));
    check(&replace("--vision-projection", wrong), &["output pooled", "expected 12 values", "found 16"]);
    check(&replace("--logit-scale", "x-1".into()), &["logarithm"]);
    let recipe = std::path::Path::new(&folder).join("preprocessor_config.json");
    std::fs::write(recipe, r#"{"size": 24}"#).unwrap();
    check(&|_| (), &["input image", "[batch, 3, 24, 24]", "[1, 3, 20, 20]"]);
}
