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
