//! Every image tower against transformers (`tests/reference/make_vision_towers.py`), in a dual encoder with the text
//! tower of the tiny checkpoint.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use model_prep::checkpoint::Checkpoint;
use model_prep::compare::Agreement;
use model_prep::export::export;
use model_prep::overrides::{ImageSize, Overrides};
use ndarray::{Array2, Array4, s};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use spotter_engine::bundle::{Bundle, Weights};
use spotter_engine::preprocess::Size;
use spotter_engine::score::ScoringKind;
use spotter_engine::tower::{ImageTower, TextTower, Threads};

use crate::text_towers::json_of;
use crate::towers::{Weight, save, tensors};

pub(crate) fn golden(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/vision").join(file)
}

fn tiny(file: &str) -> PathBuf {
    e2e::root().join("tests/golden/tiny/checkpoint").join(file)
}

/// A configuration, its weights, and the size of the input.
pub(crate) struct Case {
    name: String,
    pub(crate) weights: String,
    pub(crate) vision_config: Value,
    pub(crate) size: [usize; 2],
    /// True if the reference was told to interpolate position embeddings.
    asked: bool,
}

fn cases() -> Vec<Case> {
    let all = json_of(&golden("cases.json"));
    let case = |(name, value): (&String, &Value)| Case {
        name: name.clone(),
        weights: value["weights"].as_str().unwrap().to_owned(),
        vision_config: value["vision_config"].clone(),
        size: serde_json::from_value(value["size"].clone()).unwrap(),
        asked: value["asked"].as_bool().unwrap(),
    };
    let cases: Vec<_> = all.as_object().unwrap().iter().map(case).collect();
    assert!(cases.len() > 30);
    cases
}

pub(crate) fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

/// A finite half-precision number.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023) / 1024.0);
    let size =
        if exponent == 0 { fraction * 2.0_f32.powi(-14) } else { (1.0 + fraction) * 2.0_f32.powi(exponent - 15) };
    if sign == 1 { -size } else { size }
}

fn floats(dtype: Dtype, data: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect(),
        other => panic!("{other:?}"),
    }
}

/// Rows of a golden tensor.
fn rows(name: &str) -> Array2<f32> {
    let bytes = std::fs::read(golden("goldens.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let shape = (tensor.shape()[0], tensor.shape()[1]);
    Array2::from_shape_vec(shape, floats(tensor.dtype(), tensor.data())).unwrap()
}

fn normalized(rows: &Array2<f32>) -> Array2<f32> {
    let mut rows = rows.clone();
    for mut row in rows.rows_mut() {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row /= norm;
    }
    rows
}

/// The upper left corner of the two images.
pub(crate) fn pixels([height, width]: [usize; 2]) -> Array4<f32> {
    let bytes = std::fs::read(golden("pixels.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("pixels").unwrap();
    let [count, channels, rows, columns] = tensor.shape()[..] else { panic!("four axes") };
    let all = Array4::from_shape_vec((count, channels, rows, columns), floats(tensor.dtype(), tensor.data())).unwrap();
    all.slice(s![.., .., ..height, ..width]).as_standard_layout().into_owned()
}

fn diagonal(rows: usize, columns: usize) -> Weight {
    let value = |i: usize| if i / columns == i % columns { 1.0_f32 } else { 0.0 };
    let data = (0..rows * columns).flat_map(|i| value(i).to_le_bytes()).collect();
    (Dtype::F32, vec![rows, columns], data)
}

impl Case {
    /// A changed checkpoint in a folder called `checkpoint`.
    fn checkpoint(
        &self,
        change: impl FnOnce(&mut Value, &mut BTreeMap<String, Weight>),
    ) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        std::fs::create_dir(&path).unwrap();
        let mut weights = tensors(&golden(&format!("{}.safetensors", self.weights)));
        let dim = weights["visual_projection.weight"].1[0];
        let text = tensors(&tiny("model.safetensors"));
        weights.extend(text.into_iter().filter(|(name, _)| name.starts_with("text_model.") || name == "logit_scale"));
        weights.insert("text_projection.weight".into(), diagonal(dim, 40));
        let mut config = json_of(&tiny("config.json"));
        config["vision_config"] = self.vision_config.clone();
        config["projection_dim"] = dim.into();
        change(&mut config, &mut weights);
        save(&path.join("model.safetensors"), &weights);
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(tiny(file), path.join(file)).unwrap();
        }
        let trained = self.vision_config["image_size"].clone();
        let [height, width]: [usize; 2] =
            serde_json::from_value(trained.clone()).unwrap_or_else(|_| [trained.as_u64().unwrap() as usize; 2]);
        let [height, width] = if self.asked { [height, width] } else { self.size };
        let processor =
            json!({"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}});
        std::fs::write(path.join("preprocessor_config.json"), processor.to_string()).unwrap();
        (folder, path)
    }

    fn overrides(&self) -> Overrides {
        let [height, width] = self.size;
        let image_size = self.asked.then_some(ImageSize(Size { height, width }));
        Overrides { image_size, ..Overrides::default() }
    }

    fn export(&self, checkpoint: &Path, weights: Weights) -> Result<(tempfile::TempDir, PathBuf), String> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("bundle");
        let checkpoint = Checkpoint::open_with(checkpoint, &self.overrides()).map_err(|e| e.to_string())?;
        export(&checkpoint, &out, "test", weights, &|| ()).map_err(|e| e.to_string())?;
        Ok((folder, out))
    }

    /// A bundle of the changed checkpoint.
    fn bundle(
        &self,
        weights: Weights,
        change: impl FnOnce(&mut Value, &mut BTreeMap<String, Weight>),
    ) -> (tempfile::TempDir, PathBuf) {
        let (_guard, checkpoint) = self.checkpoint(change);
        self.export(&checkpoint, weights).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn as_it_is(_: &mut Value, _: &mut BTreeMap<String, Weight>) {}

fn worst(found: &Array2<f32>, expected: &Array2<f32>) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_image_tower_gives_the_reference_features() {
    for case in cases() {
        let (_guard, path) = case.bundle(Weights::F32, as_it_is);
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.manifest().image_size(), case.size, "{}", case.name);
        assert_eq!(bundle.manifest().preprocess.output_size().map(|s| [s.height, s.width]), Some(case.size));
        let (pixels, features) = (pixels(case.size), rows(&format!("{}.features", case.name)));
        for kernels in [Threads::default().kernels(), "tract"] {
            let tower = ImageTower::open(&bundle, &Threads::default().with_kernels(kernels).unwrap()).unwrap();
            let found = tower.features_batch(pixels.view()).unwrap();
            let (feature, embed) =
                (worst(&found, &features), worst(&tower.embed_batch(pixels.view()).unwrap(), &normalized(&features)));
            println!("{}: {kernels}: worst difference of features {feature:.2e}, of embeddings {embed:.2e}", case.name);
            assert!(feature <= 1e-5 && embed <= 1e-5, "{}: {kernels}: {feature} {embed}", case.name);
        }
    }
}

#[test]
fn int8_image_towers_stay_close_to_the_reference() {
    let cosine_min = 0.999;
    // One of each set of weights.
    for case in cases().into_iter().filter(|case| case.name == case.weights) {
        let (_guard, path) = case.bundle(Weights::Int8, as_it_is);
        let bundle = Bundle::open(&path).unwrap();
        let (pixels, features) = (pixels(case.size), rows(&format!("{}.features", case.name)));
        for kernels in [Threads::default().kernels(), "tract"] {
            let tower = ImageTower::open(&bundle, &Threads::default().with_kernels(kernels).unwrap()).unwrap();
            let list = |rows: &Array2<f32>| rows.rows().into_iter().map(|row| row.to_vec()).collect::<Vec<_>>();
            let agreement = Agreement::of(&list(&tower.features_batch(pixels.view()).unwrap()), &list(&features));
            println!("{}: {kernels}: {agreement:?}", case.name);
            assert!(agreement.cosine_min >= cosine_min, "{}: {kernels}: {agreement:?}", case.name);
        }
    }
}

/// The tensors under the names that the modules of transformers 5 have.
fn renamed(weights: &mut BTreeMap<String, Weight>, names: &Value) {
    let names = names.as_object().unwrap();
    let mut new = BTreeMap::new();
    for (name, old) in names {
        let weight = match old {
            Value::String(old) => weights[old].clone(),
            _ => {
                let (old, first, end): (String, usize, usize) = serde_json::from_value(old.clone()).unwrap();
                let (dtype, shape, data) = &weights[&old];
                let row = data.len() / shape[0];
                let shape = [&[end - first], &shape[1..]].concat();
                (*dtype, shape, data[first * row..end * row].to_vec())
            }
        };
        new.insert(name.clone(), weight);
    }
    for old in names.values() {
        weights.remove(old.as_str().or_else(|| old[0].as_str()).unwrap());
    }
    assert!(new.keys().all(|name| !weights.contains_key(name)));
    weights.extend(new);
}

#[test]
fn names_of_transformers_5_give_the_same_bundle() {
    for (weights, names) in json_of(&golden("generation_5.json")).as_object().unwrap() {
        let case = case(weights);
        let (_guard, expected) = case.bundle(Weights::Int8, as_it_is);
        let (_guard, found) = case.bundle(Weights::Int8, |_, weights| renamed(weights, names));
        // Gates are a tensor of their own in one generation and half of one in the other, so the weights have another
        // hash.
        let files = if weights == "dinov2_gated" { &["vision.onnx"][..] } else { &["vision.onnx", "bundle.json"] };
        for file in files {
            let same = std::fs::read(found.join(file)).unwrap() == std::fs::read(expected.join(file)).unwrap();
            assert!(same, "{weights}: {file} differs");
        }
    }
}

/// One `vision_model.` in front instead of two, as in a plain CLIP or SigLIP.
fn plain(weights: &mut BTreeMap<String, Weight>) {
    let all = std::mem::take(weights);
    let name = |name: String| name.replacen("vision_model.vision_model.", "vision_model.", 1);
    weights.extend(all.into_iter().map(|(old, weight)| (name(old), weight)));
}

#[test]
fn every_way_to_write_a_clip_gives_the_same_tower() {
    let case = case("clip_larger");
    let (_guard, expected) = case.bundle(Weights::Int8, as_it_is);
    let check = |what: &str, change: &dyn Fn(&mut Value, &mut BTreeMap<String, Weight>)| {
        let (_guard, found) = case.bundle(Weights::Int8, change);
        for file in ["vision.onnx", "bundle.json"] {
            let same = std::fs::read(found.join(file)).unwrap() == std::fs::read(expected.join(file)).unwrap();
            assert!(same, "{what}: {file} differs");
        }
    };
    check("names of one level", &|_, weights| plain(weights));
    check("a whole CLIP as vision_config", &|config, _| {
        let mut inner = config["vision_config"].take();
        inner.as_object_mut().unwrap().remove("model_type");
        config["vision_config"] = json!({"model_type": "clip", "vision_config": inner});
    });
    check("a CLIP", &|config, weights| {
        plain(weights);
        config["model_type"] = "clip".into();
    });
    check("an old CLIP", &|config, weights| {
        plain(weights);
        config["model_type"] = "clip".into();
        config["vision_config_dict"] = config["vision_config"].take();
        config["vision_config"] = json!({"hidden_size": 1});
    });
}

#[test]
fn a_siglip_has_no_projections_and_a_biased_sigmoid() {
    let case = case("siglip");
    let (_guard, path) = case.bundle(Weights::F32, |config, weights| {
        plain(weights);
        config["model_type"] = "siglip".into();
        weights.retain(|name, _| !name.ends_with("_projection.weight"));
        for (name, value) in [("logit_scale", 1.5_f32), ("logit_bias", -7.25)] {
            weights.insert(name.into(), (Dtype::F32, vec![1], value.to_le_bytes().to_vec()));
        }
    });
    let bundle = Bundle::open(&path).unwrap();
    let manifest = bundle.manifest();
    assert_eq!((manifest.scoring, manifest.logit_scale, manifest.logit_bias), (ScoringKind::Sigmoid, 1.5, Some(-7.25)));
    let tower = ImageTower::open(&bundle, &Threads::default()).unwrap();
    let worst = worst(&tower.features_batch(pixels(case.size).view()).unwrap(), &rows("siglip.pooled"));
    assert!(worst <= 1e-4, "{worst}");
    let norm: f32 =
        TextTower::open(&bundle, &Threads::default()).unwrap().embed("a cat").unwrap().iter().map(|v| v * v).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[test]
fn what_the_reference_cannot_run_is_refused_by_name() {
    let check = |name: &str, size: Option<[usize; 2]>, change: &dyn Fn(&mut Value), expected: &[&str]| {
        let mut case = case(name);
        let (_guard, checkpoint) = case.checkpoint(|config, _| change(config));
        case.asked = size.is_some();
        case.size = size.unwrap_or(case.size);
        let error = case.export(&checkpoint, Weights::F32).err().unwrap_or_default();
        for part in expected {
            assert!(error.contains(part), "{name}: {part:?} is not in {error:?}");
        }
    };
    let none = |_: &mut Value| ();
    let config =
        |key: &'static str, value: Value| move |config: &mut Value| config["vision_config"][key] = value.clone();
    check("vit", None, &config("image_size", 37.into()), &["size: expected 37 x 37", "--image-size 30x30", "--resize"]);
    check("vit_flat", Some([16, 40]), &none, &["--image-size", "16 x 30", "2 x 6 patches", "square", "found 16 x 40"]);
    check("vit", Some([6, 40]), &none, &["one patch of 7 x 7", "found 6 x 40"]);
    check("dinov2", None, &config("image_size", json!([14, 35])), &["2 x 5 patches", "square"]);
    check("swin", Some([24, 8]), &none, &["the side of a window, 3", "found 24 x 8"]);
    check("swin_absolute", Some([25, 24]), &none, &["multiples of the patch size 2 x 2", "found 25 x 24"]);
    check("swin", None, &config("num_heads", json!([2])), &["vision_config.num_heads", "2 numbers", "found [2]"]);
    check("siglip", None, &config("vision_use_head", false.into()), &["vision_use_head", "pooler output"]);
    check("dinov2", None, &config("mlp_ratio", 0.01.into()), &["mlp_ratio", "with 16 is 1 or more", "found 0.01"]);
    check("beit", None, &config("image_size", 5000.into()), &["image_size", "1 to 4096", "found 5000"]);
    check("beit_all", Some([700, 700]), &none, &["4096 patches", "found 700 x 700"]);
    check("clip", None, &config("model_type", "chinese_clip".into()), &["model_type", "clip_vision_model", "swin"]);
}

#[test]
fn another_image_size_is_chosen_on_the_command_line_and_recorded() {
    let program = e2e::program("model-prep");
    let (_guard, checkpoint) = case("vit_larger").checkpoint(as_it_is);
    let bundle = checkpoint.with_file_name("bundle");
    let mut command = Command::new(&program);
    command.arg("export").arg(&checkpoint).arg("--out").arg(&bundle).args(["--weights", "f32"]);
    let output = command.args(["--image-size", "38x45", "--reason", "wide pictures"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let opened = Bundle::open(&bundle).unwrap();
    let [made] = &opened.manifest().overrides[..] else { panic!("{:?}", opened.manifest().overrides) };
    let record = [&made.key, &made.from, &made.to, &made.reason].map(String::as_str);
    assert_eq!(record, ["image-size", "30x30", "38x45", "wide pictures"]);
    let tower = ImageTower::open(&opened, &Threads::default()).unwrap();
    let found = tower.features_batch(pixels([38, 45]).view()).unwrap();
    assert!(worst(&found, &rows("vit_larger.features")) <= 1e-4);
    let output =
        Command::new(&program).arg("verify").arg(&bundle).arg("--checkpoint").arg(&checkpoint).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn onnx_files_of_image_towers_are_standard() {
    let Some(python) = e2e::python(&["onnx", "onnxruntime"]) else { return };
    let mut command = Command::new(python);
    command.arg(e2e::root().join("tests/reference/check_onnx.py"));
    let mut guards = Vec::new();
    for case in cases() {
        let (guard, bundle) = case.bundle(Weights::F32, as_it_is);
        let mut expected = tensors(&e2e::root().join("tests/golden/tiny/goldens.safetensors"));
        let ids = &expected["input_ids"].1.clone();
        let opened = Bundle::open(&bundle).unwrap();
        let threads = Threads::default().with_kernels("tract").unwrap();
        let mut text = TextTower::open(&opened, &threads).unwrap();
        let prompts: Vec<String> = serde_json::from_value(json_of(&tiny("../prompts.json"))).unwrap();
        assert_eq!(prompts.len(), ids[0]);
        let texts: Vec<f32> = prompts.iter().flat_map(|prompt| text.embed(prompt).unwrap()).collect();
        let mut insert = |name: &str, shape: &[usize], values: &[f32]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            expected.insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
        };
        let (pixels, embeds) = (pixels(case.size), normalized(&rows(&format!("{}.features", case.name))));
        insert("pixel_values", pixels.shape(), pixels.as_slice().unwrap());
        insert("image_embeds", embeds.shape(), embeds.as_slice().unwrap());
        insert("text_embeds", &[prompts.len(), texts.len() / prompts.len()], &texts);
        let file = guard.path().join("expected.safetensors");
        save(&file, &expected);
        command.arg(format!("{}={}", bundle.display(), file.display()));
        guards.push(guard);
    }
    let output = command.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
